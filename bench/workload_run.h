#ifndef PLIM_WORKLOAD_RUN_H
#define PLIM_WORKLOAD_RUN_H

/*
 * Running a workload, in the worker. One call of a workload's `run` is one repeat, complete in itself: it opens the
 * engine, loads the model, works, takes its metrics and closes everything, so that each repeat measures the same thing
 * and exact metrics must come out the same each time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "control.h"
#include "plimsoll/parameters.h"
#include "plimsoll/pool.h"
#include "result.h"
#include "workload.h"
#include "yardstick.h"

/* A case as it travels to the worker. */
struct case_request {
    char *id;
    const struct workload *workload;
    char *model_directory;              /* NULL for workloads without a model */
    struct plim_parameters parameters;  /* as set, not resolved */
    struct facts arguments;
    int repeats, warmup;
    char *trace_path;                   /* where the first counted repeat records its memory; NULL: nowhere */
    struct control control;             /* zeros, but for a gate that tests itself */
};

void case_request_release(struct case_request *request);

/* Yardsticks measured beside each repeat. Opened when first needed, kept between the repeats of a case. */
struct references {
    struct read_yardstick read;
    struct gemm_yardstick gemm;
    struct gemm_shape shapes[7];        /* the linear layers of one decoder layer */
    bool read_open, gemm_open;
    bool other_models;                  /* a quantised model was evaluated: the process' peak is not only the case's */
};

void references_close(struct references *references);

struct workload_run {
    const struct case_request *request;
    struct references *references;
    int output;                             /* of the worker; only the fault workload writes there itself */
    struct plim_parameters parameters;      /* resolved */
    int repeat;                             /* from 0; warm-ups are negative */
    struct result_case report;              /* what this repeat measured */
    struct plim_pool_refusal refusal;       /* why memory was refused, when it was */
};

int workload_spin(struct workload_run *run, struct plim_err *err);
int workload_null(struct workload_run *run, struct plim_err *err);
int workload_load(struct workload_run *run, struct plim_err *err);
int workload_prefill(struct workload_run *run, struct plim_err *err);
int workload_decode(struct workload_run *run, struct plim_err *err);
int workload_generate(struct workload_run *run, struct plim_err *err);
int workload_perplexity(struct workload_run *run, struct plim_err *err);
int workload_quantize_layer(struct workload_run *run, struct plim_err *err);
int workload_quantize(struct workload_run *run, struct plim_err *err);
int workload_fault(struct workload_run *run, struct plim_err *err);

#endif
