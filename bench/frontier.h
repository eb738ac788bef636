#ifndef PLIM_FRONTIER_H
#define PLIM_FRONTIER_H

/*
 * The fastest setting that fits a memory budget, and where fitting ends.
 *
 * Settings are first judged by their predicted peaks, which costs no run; those that fit are run in workers, under the
 * budget; the three fastest are run again in turn, and the fastest of them is verified by five more runs. Then one quantity is raised at that setting until it fits no more,
 * by bisection on the prediction (peaks do not fall when it grows), and the integer found is verified from both sides: it
 * runs, and the next one is refused, five times each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "executor.h"
#include "plimsoll/engine.h"
#include "plimsoll/err.h"

#define FRONTIER_VERIFICATIONS 5

/* What is raised at the end. */
enum frontier_limit { LIMIT_CONTEXT_TOKENS, LIMIT_MAX_DQ_SIZE, LIMIT_MAX_INPUT_LEN };

/* Fills `plan` for a request of these sizes; tests have a formula of their own. */
typedef int frontier_predict(void *context, const struct plim_parameters *parameters,
                             const struct plim_plan_request *request, struct plim_plan *plan, struct plim_err *err);

struct frontier_question {
    const char *model_directory;         /* as workers get it */
    struct plim_parameters parameters;   /* what the user fixed; the rest is searched; not resolved */
    uint64_t budget_bytes;
    bool decode;                         /* tokens/s of decoding, else of the prompt */
    size_t prompt_tokens, decode_tokens, context_tokens;
    size_t max_positions;                /* of the model: no context is longer */
    enum frontier_limit limit;
    size_t run_limit;                    /* settings to run at most */
    uint64_t timeout_ns;                 /* of one run */
    frontier_predict *predict;
    void *predict_context;
    const struct executor *executor;
    FILE *log;                           /* a line for each run; NULL: silent */
};

struct frontier_point {
    struct plim_parameters parameters;   /* as set */
    struct plim_plan plan;               /* predicted */
    bool measured;                       /* it ran and fitted */
    uint64_t peak_bytes;                 /* measured */
    double tokens_per_s;
    bool on_front;                       /* no other point is as small and faster, or smaller and as fast */
};

struct frontier {
    struct frontier_point *points;       /* that were predicted to fit, by predicted peak */
    size_t point_count;
    size_t settings, fitting;            /* predicted; of these, within the budget */
    uint64_t least_bytes;                /* the smallest prediction of all */
    size_t best;                         /* index; valid when point_count > 0 and `found` */
    bool found;
    size_t verified;                     /* of FRONTIER_VERIFICATIONS: ok, with the predicted peak */
    int64_t limit;                       /* the largest that fits; -1: not even the least value does */
    bool limit_is_open;                  /* the range's end fits: there is no limit within it */
    size_t limit_fits, limit_refused;    /* runs at the limit that were ok; runs at limit + 1 out of memory */
};

/* -1 when the search itself failed. Nothing that fits is no failure: `found` is false. */
int frontier_search(struct frontier *frontier, const struct frontier_question *question, struct plim_err *err);
void frontier_release(struct frontier *frontier);

/* Marks the points that no other measured point dominates. */
void frontier_mark(struct frontier *frontier);

const char *frontier_limit_name(enum frontier_limit limit);   /* "context_tokens", ... */

/* "max_dq_size=1Mi max_input_len=512 ...": what a setting says beyond the defaults; returns `buffer`. */
char *frontier_describe(const struct plim_parameters *parameters, char *buffer, size_t size);

#endif
