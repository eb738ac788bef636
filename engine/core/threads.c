#include "threads.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "plimsoll/units.h"

/* About 50 us on current processors: longer than the gaps between the loops of one decoded token, and short enough
 * that a waiting team doesn't keep cores from other programs. */
#define SPIN_PAUSES 2000

/* A word that one side changes and the other waits for: spinning first, then asleep in the kernel. */
struct signal_word {
    _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
};

struct threads {
    int count;
    pthread_t *workers;            /* count - 1 */
    int started;                   /* of these */
    /* The loop being run: written before `loop` changes, read after. */
    threads_body *body;            /* NULL: the team is closing */
    void *context;
    size_t range, grain;
    _Alignas(64) struct signal_word loop;      /* number of the loop, modulo 2^32 */
    _Alignas(64) struct signal_word pending;   /* workers still in it */
};

struct worker_start {
    struct threads *threads;
    int thread;
    uint32_t loop;
};

/* ---- waiting ---- */

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Returns once the word differs from `value`. */
static void wait_for_change(struct signal_word *word, uint32_t value)
{
    for (int i = 0; i < SPIN_PAUSES; i++) {
        if (atomic_load_explicit(&word->value, memory_order_acquire) != value)
            return;
        cpu_relax();
    }
    /* Sequentially consistent on both sides: either the sleeper sees the new value, or the waker the sleeper. */
    atomic_fetch_add(&word->sleepers, 1);
    while (atomic_load(&word->value) == value)
        syscall(SYS_futex, &word->value, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&word->sleepers, 1);
}

static void wake(struct signal_word *word)
{
    if (atomic_load(&word->sleepers) > 0)
        syscall(SYS_futex, &word->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* ---- loops ---- */

static void run_piece(const struct threads *threads, int thread)
{
    /* Every thread has `each` grains, the first `extra` threads one more. */
    size_t count = (size_t)threads->count, t = (size_t)thread;
    size_t grains = plim_ceil_div(threads->range, threads->grain);
    size_t each = grains / count, extra = grains % count;
    size_t first = t * each + plim_min(t, extra);
    size_t begin = first * threads->grain;
    size_t end = plim_min((first + each + (t < extra)) * threads->grain, threads->range);
    if (begin < end)
        threads->body(threads->context, begin, end, thread);
}

static void *worker_main(void *argument)
{
    struct worker_start start = *(struct worker_start *)argument;
    free(argument);
    struct threads *threads = start.threads;
    for (uint32_t loop = start.loop;; loop++) {
        wait_for_change(&threads->loop, loop);
        if (!threads->body)
            return NULL;
        run_piece(threads, start.thread);
        if (atomic_fetch_sub(&threads->pending.value, 1) == 1)
            wake(&threads->pending);
    }
}

static void publish(struct threads *threads, threads_body *body, void *context, size_t range, size_t grain)
{
    threads->body = body;
    threads->context = context;
    threads->range = range;
    threads->grain = grain;
    atomic_store(&threads->pending.value, (uint32_t)threads->started);
    atomic_fetch_add(&threads->loop.value, 1);
    wake(&threads->loop);
}

void threads_run(struct threads *threads, size_t range, size_t grain, threads_body *body, void *context)
{
    if (range == 0)
        return;
    if (!threads || threads->count == 1 || range <= grain) {
        body(context, 0, range, 0);
        return;
    }
    publish(threads, body, context, range, grain);
    run_piece(threads, 0);
    for (;;) {
        uint32_t left = atomic_load(&threads->pending.value);
        if (left == 0)
            return;
        wait_for_change(&threads->pending, left);
    }
}

/* ---- the team ---- */

static int start_worker(struct threads *threads, int thread)
{
    struct worker_start *start = malloc(sizeof *start);
    if (!start)
        return -1;
    *start = (struct worker_start){ threads, thread, 0 };
    if (pthread_create(&threads->workers[threads->started], NULL, worker_main, start) != 0) {
        free(start);
        return -1;
    }
    threads->started++;
    return 0;
}

int threads_open(struct threads **threads, int count, struct plim_err *err)
{
    *threads = NULL;
    if (count < 1)
        return plim_err_input(err, "a team of %d threads; at least 1 is needed", count);
    struct threads *team = aligned_alloc(64, sizeof *team);
    if (!team)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory starting %d threads", count);
    memset(team, 0, sizeof *team);
    team->count = count;
    team->workers = calloc((size_t)count, sizeof *team->workers);
    bool failed = !team->workers;

    /* Signals are the main thread's business: workers inherit a mask that blocks them all. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int thread = 1; thread < count && !failed; thread++)
        failed = start_worker(team, thread) < 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);

    if (failed) {
        threads_close(team);
        return plim_err_set(err, PLIM_ERR_SYSTEM, "starting %d threads: the system refused", count);
    }
    *threads = team;
    return 0;
}

void threads_close(struct threads *threads)
{
    if (!threads)
        return;
    publish(threads, NULL, NULL, 0, 1);
    for (int i = 0; i < threads->started; i++)
        pthread_join(threads->workers[i], NULL);
    free(threads->workers);
    free(threads);
}

int threads_count(const struct threads *threads)
{
    return threads ? threads->count : 1;
}
