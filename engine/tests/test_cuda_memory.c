/* Device memory under the pool: budgets, failures, a real end of memory, what is given back. */

#include <stdlib.h>
#include <string.h>

#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "test_cuda.h"

static struct plim_pool_stats stats_of(const struct cuda_fixture *f)
{
    struct plim_pool_stats stats;
    plim_pool_stats(f->pool, &stats);
    return stats;
}

/* What the backend keeps open is what was predicted. */
Test(cuda_memory, an_open_backend_holds_what_is_predicted)
{
    const struct backend_predict_ops *predict = backend_predict("cuda");
    struct cuda_fixture f;

    cuda_fixture_open(&f);
    struct plim_pool_stats s = stats_of(&f);
    cr_assert_eq(plim_pool_host_tier(f.pool), PLIM_SLOW);
    cr_assert_eq(s.current[PLIM_FAST].total_bytes, predict->open_bytes(&f.parameters));
    cr_assert_eq(s.current[PLIM_SLOW].bytes[PLIM_TAG_METADATA], predict->open_host_bytes(&f.parameters));
    cr_assert_eq(s.current[PLIM_SLOW].bytes[PLIM_TAG_IO], predict->open_staging_bytes(&f.parameters));
    cuda_fixture_close(&f);
}

Test(cuda_memory, every_allocation_of_opening_may_fail)
{
    struct plim_err err = PLIM_ERR_INIT;
    uint64_t nth;

    cuda_require();
    for (nth = 1;; nth++) {
        struct plim_pool_memory memory;
        struct plim_pool_options options = { .fast_memory = &memory, .fail_allocation = nth };
        struct plim_parameters parameters;
        struct plim_pool *pool;
        struct backend backend;

        plim_parameters_default(&parameters);
        cr_assert(backend_memory("cuda", &parameters, &memory));
        cr_assert_eq(plim_pool_open(&pool, &options, &err), 0);
        int rc = backend_open(&backend, "cuda", pool, NULL, &parameters, &err);
        backend_close(&backend);
        cr_assert_eq(plim_pool_close(pool), 0, "allocation %llu: leaked", (unsigned long long)nth);
        if (rc == 0)
            break;
        cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
        plim_err_clear(&err);
    }
    cr_assert_gt(nth, 3);
}

/* More than any device has is refused by the device, with its words, and everything goes on. */
Test(cuda_memory, a_real_end_of_memory_is_an_outcome)
{
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_refusal refusal;
    float one = 1, *x;

    cuda_require_alone();
    cuda_fixture_open(&f);
    struct plim_pool_stats before = stats_of(&f);
    cr_assert_null(plim_pool_alloc(f.pool, PLIM_FAST, PLIM_TAG_KV_CACHE, (size_t)200 << 30, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert(strstr(err.message, "kv_cache") && strstr(err.message, "the device refused"), "%s", err.message);
    plim_pool_last_refusal(f.pool, &refusal);
    cr_assert(refusal.valid && !refusal.injected && refusal.budget_bytes == 0 && refusal.tier == PLIM_FAST);
    cr_assert_eq(stats_of(&f).current[PLIM_FAST].total_bytes, before.current[PLIM_FAST].total_bytes);
    cr_assert_eq(stats_of(&f).reserved_bytes[PLIM_FAST], before.reserved_bytes[PLIM_FAST]);

    plim_err_clear(&err);
    cr_assert_null(plim_pool_alloc(f.pool, PLIM_FAST, PLIM_TAG_KV_CACHE, SIZE_MAX - 100, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    x = device_floats(&f, &one, 1);
    free(host_floats(&f, x, 1));
    device_free(&f, x);
    cuda_fixture_close(&f);
}

/* The device fills up block by block; what is freed can be had again at once, in another size. */
Test(cuda_memory, a_full_device_serves_what_was_freed)
{
    enum { MOST = 200 };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    void *blocks[MOST];
    size_t count = 0;

    cuda_require_alone();
    cuda_fixture_open(&f);
    while (count < MOST && (blocks[count] = plim_pool_alloc(f.pool, PLIM_FAST, PLIM_TAG_WEIGHTS, (size_t)1 << 30, &err)))
        count++;
    cr_assert(count > 2 && count < MOST, "%zu GiB", count);
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    plim_pool_free(f.pool, blocks[--count]);
    plim_pool_free(f.pool, blocks[--count]);
    plim_err_clear(&err);
    void *larger = plim_pool_alloc(f.pool, PLIM_FAST, PLIM_TAG_WEIGHTS, (size_t)3 << 29, &err);
    cr_assert_not_null(larger, "%s", err.message);
    plim_pool_free(f.pool, larger);
    while (count > 0)
        plim_pool_free(f.pool, blocks[--count]);
    cr_assert_gt(plim_pool_trim(f.pool), (uint64_t)2 << 30);
    cuda_fixture_close(&f);
}

Test(cuda_memory, a_budget_binds_device_memory_alone)
{
    struct plim_pool_options options = { .fast_budget_bytes = 1 << 20 };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    cuda_fixture_open_with(&f, &options, "");
    cr_assert_null(plim_pool_alloc(f.pool, PLIM_FAST, PLIM_TAG_DEQUANT, 1 << 20, &err));
    cr_assert(strstr(err.message, "budget 1.0 MiB") || strstr(err.message, "budget 1 MiB"), "%s", err.message);
    plim_err_clear(&err);
    void *host = plim_pool_alloc(f.pool, PLIM_HOST, PLIM_TAG_DEQUANT, 4 << 20, &err);
    cr_assert_not_null(host, "%s", err.message);
    memset(host, 1, 4 << 20);
    plim_pool_free(f.pool, host);
    cuda_fixture_close(&f);
}

Test(cuda_memory, zeroed_blocks_are_zero)
{
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    enum { BYTES = 3 << 20 };

    cuda_fixture_open(&f);
    /* Something else was there before. */
    device_free(&f, device_bytes(&f, NULL, BYTES));
    uint8_t *device = plim_pool_calloc(f.pool, PLIM_FAST, PLIM_TAG_KV_CACHE, BYTES, 1, &err), *host = malloc(BYTES);
    cr_assert_not_null(device, "%s", err.message);
    cr_assert_eq(f.backend.ops->download(&f.backend, host, device, BYTES, &err), 0, "%s", err.message);
    for (size_t i = 0; i < BYTES; i++)
        cr_assert_eq(host[i], 0);
    plim_pool_free(f.pool, device);
    free(host);
    cuda_fixture_close(&f);
}

/* Trimming must wait for kernels, and memory that comes back must not be what a kernel still writes. */
Test(cuda_memory, trimming_between_operations_changes_nothing)
{
    enum { N = 1 << 20 };
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    float *host = normal_floats(N, 1, 1);

    cuda_fixture_open(&f);
    float *x = device_floats(&f, host, N);
    for (int i = 0; i < 50; i++) {
        float *y = device_floats(&f, host, N);
        cr_assert_eq(f.backend.ops->add(&f.backend, x, y, 1.0f, N, &err), 0, "%s", err.message);
        device_free(&f, y);
        plim_pool_trim(f.pool);
    }
    float *got = host_floats(&f, x, N);
    for (size_t i = 0; i < N; i++)
        cr_assert_float_eq(got[i], 51 * host[i], 1e-4 + 1e-5 * 51);
    device_free(&f, x);
    free(host), free(got);
    cuda_fixture_close(&f);
}

/* ---- planted errors ---- */

/*
 * Two mistakes that compute-sanitizer must find; else its silence about all other tests means nothing (ci/gpu). Only with
 * PLIMSOLL_PLANT=1, and with PLIMSOLL_CUDA_SINGLE_BLOCKS=1, without which the pool's blocks have no ends on the device.
 */
static void add_planted(size_t held, size_t added, bool written)
{
    const char *planted = getenv("PLIMSOLL_PLANT");
    struct cuda_fixture f;
    struct plim_err err = PLIM_ERR_INIT;

    if (!planted || strcmp(planted, "1") != 0)
        cr_skip_test("planted errors are for compute-sanitizer");
    cuda_fixture_open(&f);
    float *host = normal_floats(added, 1, 1), *x = device_floats(&f, host, added);
    float *y = plim_pool_alloc(f.pool, PLIM_FAST, PLIM_TAG_IO, held * sizeof *y, &err);
    cr_assert_not_null(y, "%s", err.message);
    if (written)
        f.backend.ops->upload(&f.backend, y, host, held * sizeof *y, &err);
    f.backend.ops->add(&f.backend, x, y, 1.0f, added, &err);
    f.backend.ops->download(&f.backend, host, x, added * sizeof *host, &err);   /* fails where the kernel was stopped */
    plim_pool_free(f.pool, y);
    device_free(&f, x);
    free(host);
    cuda_fixture_close(&f);
}

Test(cuda_planted, a_read_past_the_end)
{
    add_planted(1000, 1024, true);
}

Test(cuda_planted, a_read_of_what_nobody_wrote)
{
    add_planted(1024, 1024, false);
}
