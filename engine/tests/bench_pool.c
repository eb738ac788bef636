/*
 * Nanoseconds of an allocation served from cache and its free, for a few sizes. Not a test: run it by hand.
 *
 *     build/release/tests/bench_pool
 */

#include <stdio.h>
#include <stdlib.h>

#include "plimsoll/clock.h"
#include "plimsoll/pool.h"

/* Many short rounds, the best one counts: shorter than a time slice, so that a busy machine leaves some undisturbed. */
enum { ROUNDS = 20000, REPEATS = 300 };

static double pair_ns(struct plim_pool *pool, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    double best_ns = 1e30;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        uint64_t begin_ns = plim_now_ns();
        for (int round = 0; round < ROUNDS; round++) {
            void *block = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, bytes, &err);
            plim_pool_free(pool, block);
        }
        double ns = (double)(plim_now_ns() - begin_ns) / ROUNDS;
        best_ns = ns < best_ns ? ns : best_ns;
    }
    return best_ns;
}

int main(void)
{
    static const size_t sizes[] = { 64, 4096, 1 << 20, 64 << 20 };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    void *held[1000];
    if (plim_pool_open(&pool, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return EXIT_FAILURE;
    }
    /* Some blocks live and some free, as in a loaded model. */
    for (size_t i = 0; i < 1000; i++)
        held[i] = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, 40000 + i * 997, &err);
    for (size_t i = 0; i < 1000; i += 2)
        plim_pool_free(pool, held[i]);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        printf("%9zu bytes: %5.1f ns for a cached allocation and its free\n", sizes[i], pair_ns(pool, sizes[i]));
    for (size_t i = 1; i < 1000; i += 2)
        plim_pool_free(pool, held[i]);
    return plim_pool_close(pool) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
