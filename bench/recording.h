#ifndef PLIM_RECORDING_H
#define PLIM_RECORDING_H

/*
 * What this machine does to a timing: pairs of processes of one case and one build, measured one after another exactly as
 * A/B runs measure them (ab_measure_pair), each kept with its two values, in the order of time, and with what the watch of
 * such a run saw of the machine before and after. Nothing is thrown away: which pairs a watch would call disturbed is decided
 * when they are replayed (simulated.h).
 */

#include <stddef.h>
#include <stdio.h>

#include "ab_watch.h"
#include "executor.h"
#include "suite.h"

struct recorded_pair {
    double values[2];                    /* logarithms of what the processes stand for; greater is slower */
    struct machine_use before, after;
};

struct recording {
    struct recorded_pair *pairs;
    size_t count;
    int cores;
};

struct recording_options {
    const char *models_directory;
    size_t most_pairs;
    double limit_s;              /* 0: none */
    FILE *progress;              /* NULL: silent */
};

/* At least two pairs, whatever the limit. The logarithms have a median of 0. */
int recording_make(struct recording *recording, const struct suite *suite, const struct suite_case *c,
                   const struct executor *machine, const struct recording_options *options, struct plim_err *err);

bool recording_disturbed(const struct recording *recording, size_t pair, char *why, size_t size);

/* Robust deviations of the logarithms, and of the pairs' differences: 0.01 for 1%. NaN when memory is out. */
double recording_spread(const struct recording *recording);
double recording_pair_spread(const struct recording *recording);

/* The mean time of a process, with all around it. */
double recording_process_s(const struct recording *recording);

void recording_release(struct recording *recording);

#endif
