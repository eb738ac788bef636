#include "test_cuda.h"

#include <criterion/hooks.h>
#include <criterion/stats.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "plimsoll/random.h"

/* Whether the first device can be used; else why not. */
static int try_device(struct plim_err *err)
{
    struct plim_parameters parameters;
    struct plim_pool_memory memory;
    struct plim_pool_options options = { .fast_memory = &memory };
    struct plim_pool *pool;
    struct backend backend;
    int rc;

    plim_parameters_default(&parameters);
    if (!backend_memory("cuda", &parameters, &memory) || plim_pool_open(&pool, &options, err) < 0)
        return -1;
    rc = backend_open(&backend, "cuda", pool, NULL, &parameters, err);
    backend_close(&backend);
    plim_pool_close(pool);
    return rc;
}

ReportHook(POST_ALL)(struct criterion_global_stats *stats)
{
    struct plim_err err = PLIM_ERR_INIT;

    /* Tests that a filter leaves out count as skipped too. */
    if (stats->tests_skipped > 0 && try_device(&err) < 0)
        printf("no CUDA device: %zu tests skipped (%s)\n", stats->tests_skipped, err.message);
}

/* Shared by tests that can stand others beside them; the process' end, which is the test's, gives it back. */
static void lock_device(int how)
{
    static int fd = -1;
    const char *directory = getenv("TMPDIR");
    char path[200];

    if (fd >= 0)
        return;
    snprintf(path, sizeof path, "%.150s/plimsoll-test-cuda.lock", directory && *directory ? directory : "/tmp");
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    cr_assert_geq(fd, 0, "%s", path);
    cr_assert_eq(flock(fd, how), 0);
}

static void require(int how)
{
    const char *required = getenv("PLIMSOLL_REQUIRE_CUDA");
    struct plim_err err = PLIM_ERR_INIT;

    lock_device(how);
    if (try_device(&err) == 0)
        return;
    cr_assert(!required || strcmp(required, "1") != 0, "%s", err.message);
    cr_skip_test("%s", err.message);
}

bool cuda_sanitized(void)
{
    const char *single = getenv("PLIMSOLL_CUDA_SINGLE_BLOCKS");
    return single && strcmp(single, "1") == 0;
}

size_t cuda_thinning(void)
{
    const char *thinning = getenv("PLIMSOLL_TEST_THINNING");
    long n = thinning ? strtol(thinning, NULL, 10) : 3;
    return cuda_sanitized() && n > 1 ? (size_t)n : 1;
}

size_t cuda_count(size_t all, size_t few)
{
    return cuda_sanitized() ? few : all;
}

void cuda_require(void)
{
    require(LOCK_SH);
}

void cuda_require_alone(void)
{
    require(LOCK_EX);
}

void cuda_fixture_open_with(struct cuda_fixture *f, const struct plim_pool_options *options, const char *settings)
{
    struct plim_pool_options pool_options = options ? *options : (struct plim_pool_options){ 0 };
    struct plim_pool_memory memory;
    struct plim_err err = PLIM_ERR_INIT;
    char *copy = strdup(settings), *rest = copy;

    cuda_require();
    *f = (struct cuda_fixture){ 0 };
    plim_parameters_default(&f->parameters);
    for (char *setting; (setting = strsep(&rest, " "));) {
        char *value = strchr(setting, '=');
        if (!value)
            continue;
        *value++ = '\0';
        cr_assert_eq(plim_parameters_set(&f->parameters, setting, value, &err), 0, "%s", err.message);
    }
    free(copy);
    cr_assert_eq(plim_parameters_resolve(&f->parameters, &err), 0, "%s", err.message);
    cr_assert(backend_memory("cuda", &f->parameters, &memory));
    pool_options.fast_memory = &memory;
    cr_assert_eq(plim_pool_open(&f->pool, &pool_options, &err), 0, "%s", err.message);
    cr_assert_eq(threads_open(&f->threads, 2, &err), 0, "%s", err.message);
    cr_assert_eq(backend_open(&f->backend, "cuda", f->pool, f->threads, &f->parameters, &err), 0, "%s", err.message);
}

void cuda_fixture_open(struct cuda_fixture *f)
{
    cuda_fixture_open_with(f, NULL, "");
}

void cuda_fixture_close(struct cuda_fixture *f)
{
    backend_close(&f->backend);
    threads_close(f->threads);
    cr_assert_eq(plim_pool_close(f->pool), 0, "blocks leaked");
}

#define GUARD 0x5a

void *device_bytes(struct cuda_fixture *f, const void *from, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t all = bytes + 2 * CUDA_GUARD_BYTES;
    uint8_t *host = malloc(all);
    uint8_t *device = plim_pool_alloc(f->pool, PLIM_FAST, PLIM_TAG_IO, all, &err);

    cr_assert_not_null(device, "%s", err.message);
    memset(host, GUARD, all);
    memset(host + CUDA_GUARD_BYTES, 0xff, bytes);
    if (from && bytes)
        memcpy(host + CUDA_GUARD_BYTES, from, bytes);
    cr_assert_eq(f->backend.ops->upload(&f->backend, device, host, all, &err), 0, "%s", err.message);
    free(host);
    return device + CUDA_GUARD_BYTES;
}

float *device_floats(struct cuda_fixture *f, const float *from, size_t n)
{
    return device_bytes(f, from, n * sizeof(float));
}

void *host_bytes(struct cuda_fixture *f, const void *device, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t all = bytes + 2 * CUDA_GUARD_BYTES;
    uint8_t *host = malloc(all);

    cr_assert_eq(f->backend.ops->download(&f->backend, host, (const uint8_t *)device - CUDA_GUARD_BYTES, all, &err), 0,
                 "%s", err.message);
    for (size_t i = 0; i < CUDA_GUARD_BYTES; i++) {
        cr_assert_eq(host[i], GUARD, "written before the beginning");
        cr_assert_eq(host[CUDA_GUARD_BYTES + bytes + i], GUARD, "written past the end");
    }
    memmove(host, host + CUDA_GUARD_BYTES, bytes);
    return host;
}

float *host_floats(struct cuda_fixture *f, const float *device, size_t n)
{
    return host_bytes(f, device, n * sizeof(float));
}

void device_free(struct cuda_fixture *f, void *device)
{
    plim_pool_free(f->pool, (uint8_t *)device - CUDA_GUARD_BYTES);
}

float *normal_floats(size_t n, float deviation, uint64_t seed)
{
    struct plim_random random;
    float *x = malloc((n ? n : 1) * sizeof *x);

    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = deviation * (float)plim_random_normal(&random);
    return x;
}

void check_floats(const float *actual, const double *expected, size_t n, double absolute, double relative,
                  const char *what)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(fabs((double)actual[i] - expected[i]) <= absolute + relative * fabs(expected[i]),
                  "%s[%zu of %zu] is %.9g, expected %.9g", what, i, n, (double)actual[i], expected[i]);
}
