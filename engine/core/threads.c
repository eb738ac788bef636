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
    atomic_bool closing;
    /* The loop being run: written while no piece of it can be taken, read by whoever has taken one. */
    threads_body *body;
    void *context;
    size_t range, grain;
    uint32_t pieces;
    _Alignas(64) _Atomic uint32_t untaken;     /* pieces that nobody has begun */
    _Alignas(64) struct signal_word loop;      /* number of the loop, modulo 2^32: workers wait for the next */
    _Alignas(64) struct signal_word pending;   /* pieces not yet done: the caller waits for none */
};

struct worker_start {
    struct threads *threads;
    int thread;
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

static void run_piece(const struct threads *threads, uint32_t piece, int thread)
{
    /* Every piece has `each` grains, the first `extra` pieces one more. */
    size_t grains = plim_ceil_div(threads->range, threads->grain);
    size_t each = grains / threads->pieces, extra = grains % threads->pieces;
    size_t first = piece * each + plim_min(piece, extra);
    size_t begin = first * threads->grain;
    size_t end = plim_min((first + each + (piece < extra)) * threads->grain, threads->range);
    threads->body(threads->context, begin, end, thread);
}

/*
 * Whoever comes takes the next piece, so a worker that the system is slow to run costs a loop nothing: the others do
 * its share, and nobody waits for it. A worker that comes late finds no piece left, or one of a later loop, which is as
 * good: it looks at the loop only after taking a piece, and a loop does not end before its pieces do.
 */
static void take_pieces(struct threads *threads, int thread)
{
    uint32_t untaken = atomic_load_explicit(&threads->untaken, memory_order_relaxed);
    while (untaken > 0) {
        if (!atomic_compare_exchange_weak_explicit(&threads->untaken, &untaken, untaken - 1, memory_order_acquire,
                                                   memory_order_relaxed))
            continue;
        run_piece(threads, threads->pieces - untaken, thread);
        if (atomic_fetch_sub(&threads->pending.value, 1) == 1)
            wake(&threads->pending);
        untaken = atomic_load_explicit(&threads->untaken, memory_order_relaxed);
    }
}

static void *worker_main(void *argument)
{
    struct worker_start start = *(struct worker_start *)argument;
    free(argument);
    struct threads *threads = start.threads;
    for (uint32_t loop = 0; !atomic_load(&threads->closing);) {
        wait_for_change(&threads->loop, loop);
        loop = atomic_load(&threads->loop.value);
        take_pieces(threads, start.thread);
    }
    return NULL;
}

static void next_loop(struct threads *threads)
{
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
    size_t pieces = plim_min((size_t)threads->count, plim_ceil_div(range, grain));
    threads->body = body;
    threads->context = context;
    threads->range = range;
    threads->grain = grain;
    threads->pieces = (uint32_t)pieces;
    atomic_store(&threads->pending.value, threads->pieces);
    atomic_store_explicit(&threads->untaken, threads->pieces, memory_order_release);
    next_loop(threads);
    take_pieces(threads, 0);
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
    *start = (struct worker_start){ threads, thread };
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
    atomic_store(&threads->closing, true);
    next_loop(threads);
    for (int i = 0; i < threads->started; i++)
        pthread_join(threads->workers[i], NULL);
    free(threads->workers);
    free(threads);
}

int threads_count(const struct threads *threads)
{
    return threads ? threads->count : 1;
}
