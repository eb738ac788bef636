#ifndef PLIM_SELFTEST_H
#define PLIM_SELFTEST_H

/*
 * The gate, tested as an instrument: how often does it cry wolf, how often does it see what is there?
 *
 * Each trial is a whole A/B run (ab.h) of a suite, with one and the same build on both sides, and in some trials
 * something planted in one case of B: a slowdown, or bytes. Nothing is special about these runs except who executes the
 * cases: a simulated machine, or this one.
 */

#include <stdbool.h>
#include <stdio.h>

#include "ab.h"
#include "noise.h"

struct selftest_options {
    size_t trials;               /* of each kind */
    size_t cases;                /* in the suite */
    uint64_t seed;
    const char *program;         /* the worker, for this machine; NULL: only simulations */
    bool brief;                  /* only nothing, 5%, 10% and a page */
    FILE *progress;              /* NULL: silent */
};

/* What became of the trials of one kind. */
struct selftest_row {
    const char *machine;         /* "quiet" ..., or "this machine" */
    double slowdown;             /* planted: 0.05 for 5% */
    uint64_t extra_bytes;        /* planted */
    size_t trials;
    size_t alarms;               /* trials with a failure where nothing was planted */
    size_t found;                /* trials in which what was planted failed its case */
    size_t warned, passed, inconclusive;   /* the other verdicts of a planted slowdown's case */
    size_t controls_missed;      /* trials that failed themselves */
    double pairs_a_case;         /* on average */
};

#define SELFTEST_ROW_LIMIT 40

struct selftest {
    struct selftest_row rows[SELFTEST_ROW_LIMIT];
    size_t row_count;
};

int selftest_gate(const struct selftest_options *options, struct selftest *out, struct plim_err *err);

/*
 * What the gate promises, checked with 95% intervals, so that chance alone breaks no promise that is kept: false alarms
 * in at most 1% of suites; on quiet and shared machines 5% found in 80% and no control missed; a page always,
 * everywhere. False, with the first broken promise in words, when the trials exclude one.
 */
bool selftest_keeps_promises(const struct selftest *selftest, char *broken, size_t size);

int selftest_print(const struct selftest *selftest, FILE *out, struct plim_err *err);

/* free() */
char *selftest_json(const struct selftest *selftest, struct plim_err *err);

#endif
