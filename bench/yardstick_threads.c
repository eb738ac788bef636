#include "yardstick_threads.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "plimsoll/clock.h"

#define PASS_LIMIT 4096
#define THREAD_LIMIT 1024

struct team {
    pthread_mutex_t gate;       /* held until all threads are there and the barrier knows how many */
    pthread_barrier_t barrier;
    pass_function *pass;
    void *context;
    bool over;                  /* written by thread 0 between two barriers */
};

struct member {
    struct team *team;
    int number;
};

/* The barrier before a pass makes `over` visible; the one behind it ends the pass for all. */
static bool one_pass(struct member *member)
{
    pthread_barrier_wait(&member->team->barrier);
    if (member->team->over)
        return false;
    member->team->pass(member->team->context, member->number);
    pthread_barrier_wait(&member->team->barrier);
    return true;
}

static void *member_main(void *argument)
{
    struct member *member = argument;

    pthread_mutex_lock(&member->team->gate);
    pthread_mutex_unlock(&member->team->gate);
    while (one_pass(member))
        continue;
    return NULL;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Thread 0 is the caller: it times the passes. */
static double lead(struct team *team, uint64_t duration_ns)
{
    static double times[PASS_LIMIT];
    struct member me = { team, 0 };
    uint64_t start_ns;
    size_t count = 0;

    one_pass(&me);
    start_ns = plim_now_ns();
    do {
        uint64_t pass_ns = plim_now_ns();

        one_pass(&me);
        times[count++] = (double)(plim_now_ns() - pass_ns);
    } while (count < PASS_LIMIT && plim_now_ns() - start_ns < duration_ns);
    team->over = true;
    one_pass(&me);
    qsort(times, count, sizeof times[0], compare_times);
    return times[count / 2];
}

int timed_passes(int threads, uint64_t duration_ns, pass_function *pass, void *context, double *median_ns,
                 struct plim_err *err)
{
    struct team team = { .gate = PTHREAD_MUTEX_INITIALIZER, .pass = pass, .context = context };
    pthread_t handles[THREAD_LIMIT];
    struct member members[THREAD_LIMIT];
    int started = 1, rc = 0;

    if (threads > THREAD_LIMIT)
        return plim_err_input(err, "%d threads for a yardstick; at most %d", threads, THREAD_LIMIT);
    pthread_mutex_lock(&team.gate);
    for (; started < threads; started++) {
        members[started] = (struct member){ &team, started };
        errno = pthread_create(&handles[started], NULL, member_main, &members[started]);
        if (errno != 0) {
            rc = plim_err_errno(err, "starting thread %d of a yardstick", started + 1);
            break;
        }
    }
    pthread_barrier_init(&team.barrier, NULL, (unsigned)started);
    team.over = rc < 0;
    pthread_mutex_unlock(&team.gate);

    if (rc == 0)
        *median_ns = lead(&team, duration_ns);
    else
        one_pass(&(struct member){ &team, 0 });   /* sends home those that did start */
    for (int i = 1; i < started; i++)
        pthread_join(handles[i], NULL);
    pthread_barrier_destroy(&team.barrier);
    return rc;
}
