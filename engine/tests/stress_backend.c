/*
 * The backend's operations on a team of threads, for the thread sanitizer: no Criterion here. Results must be those of
 * one thread. Prints what went wrong and exits with 1, or exits with 0.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "plimsoll/random.h"
#include "threads.h"

enum { ROWS = 24, HEADS = 12, KV_HEADS = 4, HEAD_DIM = 48, PAST = 40, ROUNDS = 20 };
enum { WIDTH = HEADS * HEAD_DIM, KV_WIDTH = KV_HEADS * HEAD_DIM, N = ROWS * WIDTH, POSITIONS = PAST + ROWS };

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            exit(EXIT_FAILURE);                                                                                        \
        }                                                                                                              \
    } while (0)

static float weights[WIDTH], sin_cos[POSITIONS * HEAD_DIM];
static uint16_t cache_k[POSITIONS * KV_WIDTH], cache_v[POSITIONS * KV_WIDTH];

static void fill(float *x, size_t n, uint64_t seed)
{
    struct plim_random random;
    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)plim_random_normal(&random);
}

/* A layer's worth of operations without the linear ones, each depending on the one before. */
static void run(struct backend *b, float *x, float *y)
{
    const struct attention_shape shape = { HEADS, KV_HEADS, HEAD_DIM, 0.14f, 20.0f, 0 };
    struct plim_err err = PLIM_ERR_INIT;

    CHECK(b->ops->rms_norm(b, x, weights, 1, 1e-6, ROWS, WIDTH, y, &err) == 0);
    CHECK(b->ops->rope(b, y, sin_cos, PAST, ROWS, HEADS, HEAD_DIM, &err) == 0);
    CHECK(b->ops->kv_store(b, &shape, y, x, ROWS, PAST, cache_k, cache_v, &err) == 0);
    CHECK(b->ops->attention(b, &shape, y, cache_k, cache_v, PAST, ROWS, y, &err) == 0);
    CHECK(b->ops->add(b, x, y, 1, N, &err) == 0);
    CHECK(b->ops->act_mul(b, ACTIVATION_SILU, y, x, N, &err) == 0);
    CHECK(b->ops->add(b, x, y, 0.5f, N, &err) == 0);
    CHECK(b->ops->softcap(b, x, 5, N, &err) == 0);
}

static void run_on(int count, float *x, float *y)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;
    struct plim_pool *pool = NULL;
    struct threads *threads = NULL;
    struct backend backend;

    plim_parameters_default(&parameters);
    /* The shapes are small, so that the sanitizer is done in seconds: small work may fan out here. */
    parameters.count[PLIM_CPU_THREADS] = count;
    parameters.count[PLIM_CPU_THREADS_SMALL] = count;
    CHECK(plim_pool_open(&pool, NULL, &err) == 0);
    CHECK(threads_open(&threads, count, &err) == 0);
    CHECK(backend_open(&backend, "cpu", pool, threads, &parameters, &err) == 0);
    fill(x, N, 1);
    for (int round = 0; round < ROUNDS; round++)
        run(&backend, x, y);
    backend_close(&backend);
    threads_close(threads);
    CHECK(plim_pool_close(pool) == 0);
}

int main(void)
{
    static float one[N], many[N], y[N];

    fill(weights, WIDTH, 2);
    fill(sin_cos, POSITIONS * HEAD_DIM, 3);
    run_on(1, one, y);
    for (int count = 2; count <= 5; count++) {
        run_on(count, many, y);
        CHECK(memcmp(one, many, sizeof one) == 0);
    }
    return EXIT_SUCCESS;
}
