#ifndef TEST_BACKEND_H
#define TEST_BACKEND_H

/* What the backend's tests share: seeded arrays, a backend of any instruction set, comparisons that say where. */

#include <criterion/criterion.h>

#include "backend.h"
#include "plimsoll/cpu.h"
#include "plimsoll/pool.h"
#include "threads.h"

/* n normal variates of standard deviation `deviation`; free() it. */
float *random_floats(size_t n, float deviation, uint64_t seed);

/* The same as fp16. */
uint16_t *random_halves(size_t n, float deviation, uint64_t seed);

/* |actual - expected| <= absolute + relative * |expected| for all n; `what` names the array in the message. */
void check_close(const float *actual, const double *expected, size_t n, double absolute, double relative,
                 const char *what);

struct fixture {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
};

/* A CPU backend on `isa` with `threads` threads. Parameters may be changed afterwards. */
void fixture_open(struct fixture *fixture, enum plim_isa isa, int threads);

/* Closes it and checks that nothing is still held. */
void fixture_close(struct fixture *fixture);

#endif
