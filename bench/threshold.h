#ifndef PLIM_THRESHOLD_H
#define PLIM_THRESHOLD_H

/*
 * Where a switch should be: a parameter that says up to which size one way is taken, and above it another, is forced both
 * ways at several sizes, and the sizes where the two take equally long is compared with its default.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "crossing.h"
#include "executor.h"
#include "plimsoll/err.h"

/* A parameter that is such a switch, and how to see both of its ways. */
struct threshold_switch {
    const char *parameter;      /* "dq_rows" */
    const char *below, *above;  /* values that force the way below, and the way above, at every size */
    const char *below_name, *above_name;
    const char *workload;
    const char *settings[3][2]; /* its other arguments; ended by NULL */
    const char *argument;       /* that is the size */
    const char *metric;         /* a rate of the argument's unit (time is size / rate), or the time itself */
    bool metric_is_time;
    double power;               /* the parameter counts size^power: 2 for the elements of a square matrix */
    const char *peak;           /* metric of the memory that is at stake; NULL: the switch is about time alone */
    int64_t from, to;           /* sizes when none are asked for */
};

/* The switches; ended by a NULL parameter. */
const struct threshold_switch *threshold_switches(void);
/* NULL with the known ones in `err`. */
const struct threshold_switch *threshold_find(const char *parameter, struct plim_err *err);

struct threshold_question {
    const struct threshold_switch *which;
    const char *argument;                /* the size; NULL: the switch's own */
    const char *model_directory;         /* NULL where the workload takes none */
    struct plim_parameters parameters;   /* the others; as set */
    int64_t from, to;
    size_t size_count, rounds;
    uint64_t seed;                       /* of the order of runs, and of the bootstrap */
    uint64_t timeout_ns;
    const struct executor *executor;
    FILE *log;                           /* a line for each round; NULL: silent */
};

struct threshold {
    double *x;                           /* [size_count]; fewer when the range has fewer integers */
    size_t size_count, rounds;
    double *times[2];                    /* [size_count][rounds] in seconds */
    double *peaks[2];                    /* [size_count] in bytes, where the switch has a peak */
    struct crossing crossing;            /* with a 95% interval */
    int64_t default_value;
    double default_size;                 /* the size that it stands for */
    bool default_is_inside;              /* the interval */
};

int threshold_measure(struct threshold *threshold, const struct threshold_question *question, struct plim_err *err);
void threshold_release(struct threshold *threshold);

/* ---- telling it ---- */

int threshold_print(const struct threshold *threshold, const struct threshold_question *question, FILE *out,
                    bool colours, struct plim_err *err);
/* As JSON; free(). */
char *threshold_format(const struct threshold *threshold, const struct threshold_question *question,
                       struct plim_err *err);
/* DIRECTORY/threshold-PARAMETER.{tsv,gp}, and the images if asked. */
int threshold_plot(const struct threshold *threshold, const struct threshold_question *question, const char *directory,
                   bool draw, struct plim_err *err);

#endif
