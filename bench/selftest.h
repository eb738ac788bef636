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
#include "recording.h"

struct selftest_options {
    size_t trials;               /* of each kind, on simulated and replayed machines */
    size_t cases;                /* in their suite */
    uint64_t seed;
    const char *program;         /* the worker: this machine instead of simulations; NULL: not */
    size_t machine_trials;       /* of each kind on it, at most */
    size_t machine_cases;        /* spins, unless there is a suite */
    double time_s;               /* for recording it, replaying that and real trials; 0: as many as there are to be */
    const struct suite *suite;   /* real cases for real trials; NULL: spins */
    struct case_patterns real_cases;   /* of the suite */
    const char *models_directory;
    bool brief;                  /* only nothing, 5%, 10% and a page */
    FILE *progress;              /* NULL: silent */
};

/* What became of the trials of one kind. */
struct selftest_row {
    const char *machine;         /* "quiet" ..., "replayed" (what this machine was recorded doing) or "this machine" */
    double slowdown;             /* planted: 0.05 for 5% */
    uint64_t extra_bytes;        /* planted */
    size_t trials;
    size_t alarms;               /* trials with a failure where nothing was planted */
    size_t found;                /* trials in which what was planted failed its case */
    size_t warned, passed, inconclusive;   /* the other verdicts of a planted slowdown's case */
    size_t controls_missed;      /* trials that failed themselves */
    double pairs_a_case;         /* on average */
    double seconds_a_case;       /* the same; on the simulated clock where nothing was really run */
};

#define SELFTEST_ROW_LIMIT 40

struct selftest {
    struct selftest_row rows[SELFTEST_ROW_LIMIT];
    size_t row_count;
    struct recording recording;  /* of this machine; without pairs when it wasn't recorded */
};

/*
 * A run has the usual minute a case; on simulated machines a process takes a quarter of a second of it.
 *
 * On this machine pairs of processes of a real case are recorded first (recording.h), for 30% of the time. Suites of many
 * cases are then judged on blocks of that record (replay.h), until there are `trials` of each kind or 70% of the time is over,
 * since as many real suites would take days. Each pair takes as long as it did, and the watch of real runs looks at what it
 * saw then: a pair in which other programs, the hypervisor or heat took the processor away is replaced by the next one of the
 * record, up to the same cap as in real runs, and kept as it is beyond. No timing decides whether it is. All suites are made
 * of one record, so these rates' intervals are somewhat too narrow; the real trials that follow, all of them different, are
 * few. Kinds take turns, so that each has as many trials when time is over; none begins that would, going by the longest
 * so far, end too late.
 *
 * selftest_release also after a failure.
 */
int selftest_gate(const struct selftest_options *options, struct selftest *out, struct plim_err *err);

void selftest_release(struct selftest *selftest);

/*
 * What the gate promises, checked with 95% intervals, so that chance alone breaks no promise that is kept: false alarms
 * in at most 1% of suites; on quiet and shared machines 5% found in 95% and no control missed; a page always,
 * everywhere. False, with the first broken promise in words, when the trials exclude one.
 */
bool selftest_keeps_promises(const struct selftest *selftest, char *broken, size_t size);

int selftest_print(const struct selftest *selftest, FILE *out, struct plim_err *err);

/* free() */
char *selftest_json(const struct selftest *selftest, struct plim_err *err);

#endif
