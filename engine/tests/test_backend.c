/* Operations of the CPU and null backends through their table: threads, memory, names. */

#include "test_backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "half.h"
#include "plimsoll/random.h"

/* ---- what the tests share ---- */

float *random_floats(size_t n, float deviation, uint64_t seed)
{
    struct plim_random random;
    float *x = malloc((n + 1) * sizeof *x);
    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = deviation * (float)plim_random_normal(&random);
    return x;
}

uint16_t *random_halves(size_t n, float deviation, uint64_t seed)
{
    float *wide = random_floats(n, deviation, seed);
    uint16_t *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = half_from_float(wide[i]);
    free(wide);
    return x;
}

void check_close(const float *actual, const double *expected, size_t n, double absolute, double relative,
                 const char *what)
{
    for (size_t i = 0; i < n; i++) {
        double allowed = absolute + relative * fabs(expected[i]);
        cr_assert(fabs((double)actual[i] - expected[i]) <= allowed, "%s[%zu] of %zu: %.9g, expected %.9g +- %.2g", what,
                  i, n, (double)actual[i], expected[i], allowed);
    }
}

void fixture_open(struct fixture *f, enum plim_isa isa, int threads)
{
    struct plim_err err = PLIM_ERR_INIT;

    memset(f, 0, sizeof *f);
    plim_parameters_default(&f->parameters);
    f->parameters.count[PLIM_CPU_THREADS] = threads;
    cr_assert_eq(setenv("PLIMSOLL_ISA", plim_isa_name(isa), 1), 0);
    cr_assert_eq(plim_pool_open(&f->pool, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(threads_open(&f->threads, threads, &err), 0, "%s", err.message);
    cr_assert_eq(backend_open(&f->backend, "cpu", f->pool, f->threads, &f->parameters, &err), 0, "%s", err.message);
    cr_assert_eq(cpu_isa(&f->backend), isa);
}

void fixture_close(struct fixture *f)
{
    backend_close(&f->backend);
    threads_close(f->threads);
    cr_assert_eq(plim_pool_close(f->pool), 0);
}

/* ---- names ---- */

/* A backend whose device isn't here says so in one line and leaves nothing behind. */
Test(backend, opens_every_name_it_lists)
{
    struct plim_parameters parameters;

    plim_parameters_default(&parameters);
    for (const char *const *name = backend_names(); *name; name++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_pool_memory memory;
        bool has_memory = backend_memory(*name, &parameters, &memory);
        struct plim_pool_options options = { .fast_memory = has_memory ? &memory : NULL };
        struct plim_pool *pool;
        struct backend backend;

        cr_assert_eq(plim_pool_open(&pool, &options, &err), 0);
        cr_assert_not_null(backend_predict(*name));
        if (backend_open(&backend, *name, pool, NULL, &parameters, &err) == 0) {
            cr_assert_str_eq(backend.ops->name, *name);
            backend_close(&backend);
        } else {
            cr_assert(has_memory, "%s", err.message);
            cr_assert(strstr(err.message, "driver") || strstr(err.message, "device"), "%s", err.message);
        }
        cr_assert_eq(plim_pool_close(pool), 0);
    }
}

Test(backend, an_unknown_name_is_told_the_known_ones)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct backend backend;

    cr_assert_eq(backend_open(&backend, "tpu", NULL, NULL, NULL, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert(strstr(err.message, "\"tpu\"") && strstr(err.message, "cpu, ") && strstr(err.message, "null"), "%s",
              err.message);
    backend_close(&backend);
    if (backend_predict("cuda"))
        return;
    plim_err_clear(&err);
    cr_assert_eq(backend_open(&backend, "cuda", NULL, NULL, NULL, &err), -1);
    cr_assert(strstr(err.message, "no CUDA backend"), "%s", err.message);
}

Test(backend, an_unknown_isa_is_refused)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct backend backend;

    setenv("PLIMSOLL_ISA", "mmx", 1);
    cr_assert_eq(backend_open(&backend, "cpu", NULL, NULL, NULL, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert(strstr(err.message, "mmx"), "%s", err.message);
}

/* ---- threads ---- */

struct piece_count {
    size_t pieces, covered;
};

static void count_piece(void *context, size_t begin, size_t end, int thread)
{
    struct piece_count *counts = context;
    (void)thread;
    __atomic_add_fetch(&counts->pieces, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&counts->covered, end - begin, __ATOMIC_RELAXED);
}

static struct piece_count count_pieces(struct fixture *f, size_t elements, size_t range, size_t grain)
{
    struct piece_count counts = { 0 };
    cpu_run(&f->backend, elements, range, grain, count_piece, &counts);
    return counts;
}

Test(backend, small_work_stays_within_cpu_threads_small)
{
    struct fixture f;
    fixture_open(&f, PLIM_ISA_PORTABLE, 4);

    cr_assert_eq(count_pieces(&f, CPU_SMALL_ELEMENTS - 1, 1000, 1).pieces, 1);
    cr_assert_eq(count_pieces(&f, CPU_SMALL_ELEMENTS, 1000, 1).pieces, 4);
    f.parameters.count[PLIM_CPU_THREADS_SMALL] = 3;
    for (size_t range = 1; range < 40; range++)
        for (size_t grain = 1; grain < 9; grain++) {
            struct piece_count counts = count_pieces(&f, 1, range, grain);
            cr_assert_leq(counts.pieces, 3);
            cr_assert_eq(counts.covered, range);
        }
    cr_assert_eq(count_pieces(&f, 1, 1000, 1).pieces, 3);
    f.parameters.count[PLIM_CPU_THREADS_SMALL] = 100;
    cr_assert_eq(count_pieces(&f, 1, 1000, 1).pieces, 4);
    cr_assert_eq(count_pieces(&f, 1, 0, 1).pieces, 0);
    fixture_close(&f);
}

/* ---- operations ---- */

/*
 * Runs every row operation on `threads` threads over enough rows to be large work, and returns all results one after
 * another; free() them.
 */
enum { ROWS = 40, HEADS = 16, HEAD_DIM = 112, WIDTH = HEADS * HEAD_DIM, N = ROWS * WIDTH, FIRST = 3 };

static float *run_operations(enum plim_isa isa, int threads)
{
    struct fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    const struct backend_ops *ops;
    float *x = random_floats(N, 1, 1), *y = random_floats(N, 1, 2), *weight = random_floats(WIDTH, 1, 3);
    float *table = random_floats((FIRST + ROWS) * HEAD_DIM, 1, 4), *out = calloc(6 * N, sizeof *out);
    uint16_t *halves = random_halves(100 * WIDTH, 1, 5), *cache = calloc(2 * (FIRST + ROWS) * WIDTH, sizeof *cache);
    const struct attention_shape shape = { HEADS, HEADS, HEAD_DIM, 1, 0, 0 };
    int32_t ids[ROWS];

    cr_assert(N >= CPU_SMALL_ELEMENTS);
    fixture_open(&f, isa, threads);
    ops = f.backend.ops;
    for (int i = 0; i < ROWS; i++)
        ids[i] = (i * 37) % 100;
    cr_assert_eq(ops->embed(&f.backend, DTYPE_F16, halves, WIDTH, ids, ROWS, 2.0f, out, &err), 0);
    cr_assert_eq(ops->rms_norm(&f.backend, x, weight, 0, 1e-5, ROWS, WIDTH, out + N, &err), 0);
    memcpy(out + 2 * N, x, N * sizeof *x);
    cr_assert_eq(ops->rope(&f.backend, out + 2 * N, table, FIRST, ROWS, HEADS, HEAD_DIM, &err), 0);
    memcpy(out + 3 * N, x, N * sizeof *x);
    cr_assert_eq(ops->act_mul(&f.backend, ACTIVATION_SILU, out + 3 * N, y, N, &err), 0);
    cr_assert_eq(ops->act_mul(&f.backend, ACTIVATION_GELU_TANH, out + 3 * N, y, N, &err), 0);
    memcpy(out + 4 * N, x, N * sizeof *x);
    cr_assert_eq(ops->add(&f.backend, out + 4 * N, y, 0.5f, N, &err), 0);
    cr_assert_eq(ops->softcap(&f.backend, out + 4 * N, 1.5f, N, &err), 0);
    cr_assert_eq(ops->kv_store(&f.backend, &shape, x, y, ROWS, FIRST, cache, cache + (FIRST + ROWS) * WIDTH, &err), 0);
    for (size_t i = 0; i < N; i++)
        out[5 * N + i] = half_to_float(cache[FIRST * WIDTH + i]) + half_to_float(cache[(2 * FIRST + ROWS) * WIDTH + i]);
    for (size_t i = 0; i < FIRST * WIDTH; i++)
        cr_assert(cache[i] == 0 && cache[(FIRST + ROWS) * WIDTH + i] == 0, "stored before the first position");

    /* Spot checks of what the kernel tests cannot see: rows, ids and positions. */
    cr_assert_eq(out[7 * WIDTH + 5], half_to_float(halves[(7 * 37 % 100) * WIDTH + 5]) * 2.0f);
    for (size_t r = 0; r < ROWS; r++) {
        const float *c = table + (FIRST + r) * HEAD_DIM, *s = c + HEAD_DIM / 2;
        const float *head = x + r * WIDTH + 3 * HEAD_DIM;
        cr_assert_float_eq(out[2 * N + r * WIDTH + 3 * HEAD_DIM], head[0] * c[0] - head[HEAD_DIM / 2] * s[0], 1e-5);
        cr_assert_float_eq(out[5 * N + r * WIDTH], x[r * WIDTH] + y[r * WIDTH], 2e-3);
    }
    fixture_close(&f);
    free(x);
    free(y);
    free(weight);
    free(table);
    free(halves);
    free(cache);
    return out;
}

Test(backend, results_do_not_depend_on_threads)
{
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (!plim_isa_supported(isa))
            continue;
        float *one = run_operations(isa, 1), *three = run_operations(isa, 3);
        cr_assert_eq(memcmp(one, three, 6 * N * sizeof *one), 0, "%s", plim_isa_name(isa));
        free(one);
        free(three);
    }
}

Test(backend, embedding_of_an_integer_table_is_refused)
{
    struct fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    int32_t id = 0;
    float out[4];

    fixture_open(&f, PLIM_ISA_PORTABLE, 1);
    cr_assert_eq(f.backend.ops->embed(&f.backend, DTYPE_I32, out, 4, &id, 1, 1, out, &err), -1);
    cr_assert(strstr(err.message, "dtype I32"), "%s", err.message);
    fixture_close(&f);
}

Test(backend, null_allocates_nothing_and_gives_zeros)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;
    struct plim_pool *pool;
    struct plim_pool_stats stats;
    struct backend b;
    struct matrix matrix;
    struct linear_source source = { .name = "m", .in_features = 8, .out_features = 4 };
    struct attention_shape shape = { .head_count = 2, .kv_head_count = 1, .head_dim = 4, .scale = 1 };
    float x[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, y[8] = { 9, 9, 9, 9, 9, 9, 9, 9 };

    plim_parameters_default(&parameters);
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    cr_assert_eq(backend_open(&b, "null", pool, NULL, &parameters, &err), 0);
    cr_assert_eq(b.ops->matrix_init(&b, &matrix, &source, &err), 0);
    cr_assert_eq(b.ops->linear(&b, &matrix, x, 1, y, true, &err), 0);
    cr_assert_eq(y[0], 9.0f);
    cr_assert_eq(b.ops->linear(&b, &matrix, x, 1, y, false, &err), 0);
    cr_assert(y[0] == 0 && y[3] == 0 && y[4] == 9);
    cr_assert_eq(b.ops->attention(&b, &shape, x, NULL, NULL, 0, 1, y, &err), 0);
    cr_assert(y[7] == 0);
    b.ops->matrix_release(&b, &matrix);
    backend_close(&b);
    plim_pool_stats(pool, &stats);
    cr_assert_eq(stats.allocation_count, 0);
    cr_assert_eq(plim_pool_close(pool), 0);
}
