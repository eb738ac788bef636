/*
 * The pool and the thread team under contention, for the thread sanitizer: no Criterion here. Prints what went wrong and
 * exits with 1, or exits with 0.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "plimsoll/pool.h"
#include "plimsoll/random.h"
#include "threads.h"

enum { THREADS = 4, ROUNDS = 3000, HELD = 16, LOOPS = 3000 };

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            exit(EXIT_FAILURE);                                                                                        \
        }                                                                                                              \
    } while (0)

/* ---- pool ---- */

struct hammer {
    struct plim_pool *pool;
    uint64_t stream;
};

/* Blocks carry their own address, which another thread's block at the same place would overwrite. */
static void *hammer(void *context)
{
    const struct hammer *self = context;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    void **blocks[HELD] = { 0 };
    plim_random_seed(&random, 9, self->stream);
    for (int round = 0; round < ROUNDS; round++) {
        size_t i = plim_random_below(&random, HELD);
        size_t bytes = 64 + plim_random_below(&random, round % 64 == 0 ? 200000 : 2000);
        CHECK(!blocks[i] || *blocks[i] == blocks[i]);
        plim_pool_free(self->pool, blocks[i]);
        blocks[i] = plim_pool_alloc(self->pool, round % 100 == 0 ? PLIM_SLOW : PLIM_FAST,
                                    (enum plim_tag)(i % PLIM_TAG_WEIGHTS_MAPPED), bytes, &err);
        CHECK(blocks[i]);
        *blocks[i] = blocks[i];
        if (round % 500 == 0) {
            struct plim_pool_stats stats;
            plim_pool_set_scope(self->pool, "hammer");
            plim_pool_trim(self->pool);
            plim_pool_stats(self->pool, &stats);
        }
    }
    for (size_t i = 0; i < HELD; i++)
        plim_pool_free(self->pool, blocks[i]);
    return NULL;
}

static void threads_share_a_pool(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    struct plim_pool_stats stats;
    struct hammer hammers[THREADS];
    pthread_t threads[THREADS];
    CHECK(plim_pool_open(&pool, NULL, &err) == 0);
    for (int i = 0; i < THREADS; i++) {
        hammers[i] = (struct hammer){ pool, (uint64_t)i };
        CHECK(pthread_create(&threads[i], NULL, hammer, &hammers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    plim_pool_stats(pool, &stats);
    CHECK(stats.allocation_count == (uint64_t)THREADS * ROUNDS);
    CHECK(stats.current[PLIM_FAST].total_bytes == 0 && stats.current[PLIM_SLOW].total_bytes == 0);
    CHECK(stats.cached_bytes[PLIM_FAST] == stats.reserved_bytes[PLIM_FAST]);
    CHECK(plim_pool_close(pool) == 0);
}

/* ---- team ---- */

static void add_one(void *context, size_t begin, size_t end, int thread)
{
    (void)thread;
    for (size_t i = begin; i < end; i++)
        ((long *)context)[i]++;
}

/* Plain variables: what a loop wrote must be visible to the caller and to the next loop's threads. */
static void a_team_runs_loops(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    for (int count = 2; count <= THREADS; count++) {
        struct threads *threads = NULL;
        long sums[16] = { 0 };
        CHECK(threads_open(&threads, count, &err) == 0);
        for (size_t loop = 0; loop < LOOPS; loop++)
            threads_run(threads, 16, 1 + loop % 3, add_one, sums);
        threads_close(threads);
        for (int i = 0; i < 16; i++)
            CHECK(sums[i] == LOOPS);
    }
}

int main(void)
{
    threads_share_a_pool();
    a_team_runs_loops();
    return EXIT_SUCCESS;
}
