#ifndef TEST_QUANTIZE_H
#define TEST_QUANTIZE_H

/* What the tests of engine/quantize share: a CPU backend on a pool of its own. */

#include <criterion/criterion.h>

#include "backend.h"
#include "plimsoll/parameters.h"
#include "plimsoll/pool.h"
#include "threads.h"

struct fixture_backend {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
};

static inline void fixture_open(struct fixture_backend *f, int thread_count)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_pool_open(&f->pool, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(threads_open(&f->threads, thread_count, &err), 0, "%s", err.message);
    plim_parameters_default(&f->parameters);
    f->parameters.count[PLIM_CPU_THREADS] = thread_count;
    cr_assert_eq(plim_parameters_resolve(&f->parameters, &err), 0, "%s", err.message);
    cr_assert_eq(backend_open(&f->backend, "cpu", f->pool, f->threads, &f->parameters, &err), 0, "%s", err.message);
}

static inline void fixture_close(struct fixture_backend *f)
{
    backend_close(&f->backend);
    threads_close(f->threads);
    cr_assert_eq(plim_pool_close(f->pool), 0, "pool blocks leaked");
}

#endif
