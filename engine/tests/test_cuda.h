#ifndef TEST_CUDA_H
#define TEST_CUDA_H

/*
 * What the tests of the CUDA backend share. A test begins with cuda_fixture_open, which ends it as skipped where there is no
 * device; with PLIMSOLL_REQUIRE_CUDA=1 in the environment that is a failure.
 *
 *     struct cuda_fixture f;
 *     cuda_fixture_open(&f);
 *     float *x = device_floats(&f, host, n);        // with guards around
 *     ... f.backend.ops->softcap(&f.backend, x, 30, n, &err) ...
 *     float *y = host_floats(&f, x, n);             // checks the guards
 *     cuda_fixture_close(&f);                       // and that nothing leaked
 */

#include <criterion/criterion.h>

#include "backend.h"
#include "plimsoll/pool.h"
#include "threads.h"

struct cuda_fixture {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;   /* resolved; may be changed afterwards */
    struct backend backend;
};

/*
 * Ends the test as skipped (or failed) when no device can be used. For tests that open things themselves. Tests run side by
 * side; one that fills the device begins with cuda_require_alone, and then no other holds anything there.
 */
void cuda_require(void);
void cuda_require_alone(void);

/*
 * Whether pool blocks are single allocations, which says that compute-sanitizer watches (ci/gpu). Everything is a hundred
 * times slower then, and tests go through fewer sizes and repeats: `few` instead of `all`.
 */
bool cuda_sanitized(void);

/* 1; under a sanitizer 3, or what PLIMSOLL_TEST_THINNING says: of so many cases a test takes one. */
size_t cuda_thinning(void);
size_t cuda_count(size_t all, size_t few);

void cuda_fixture_open(struct cuda_fixture *f);

/* With options for the pool (fast_memory is filled in) and settings as "kv_cache=q4 dq_rows=8". */
void cuda_fixture_open_with(struct cuda_fixture *f, const struct plim_pool_options *options, const char *settings);
void cuda_fixture_close(struct cuda_fixture *f);

/*
 * Device memory of `bytes` with CUDA_GUARD_BYTES of a pattern before and after it; `from` NULL fills it with NaN of every
 * float type (0xff bytes), so that an output that isn't written can't look right.
 */
#define CUDA_GUARD_BYTES 512
void *device_bytes(struct cuda_fixture *f, const void *from, size_t bytes);
float *device_floats(struct cuda_fixture *f, const float *from, size_t n);

/* Its contents, after the guards have been checked; free(). */
void *host_bytes(struct cuda_fixture *f, const void *device, size_t bytes);
float *host_floats(struct cuda_fixture *f, const float *device, size_t n);
void device_free(struct cuda_fixture *f, void *device);

/* n normal variates of standard deviation `deviation`; free(). */
float *normal_floats(size_t n, float deviation, uint64_t seed);

/* |actual - expected| <= absolute + relative * |expected| for all n; `what` names the array in the message. */
void check_floats(const float *actual, const double *expected, size_t n, double absolute, double relative,
                  const char *what);

#endif
