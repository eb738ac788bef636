#ifndef PLIM_MODEL_RUN_H
#define PLIM_MODEL_RUN_H

/*
 * What the workloads with a model have in common: opening engine, model and session, timing a part of the work, and
 * reporting memory, work and output.
 *
 *     struct model_run m;
 *     if (model_run_open(&m, run, context_tokens, &err) == 0 && ... work ...)
 *         rc = ...;
 *     return model_run_close(&m, rc, &err);
 */

#include "gpu.h"
#include "plimsoll/engine.h"
#include "workload_run.h"

struct model_run {
    struct workload_run *run;
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_session *session;
    struct plim_model_info info;
    int32_t *ids;                   /* random ids, `id_count` of them */
    size_t id_count;
    uint64_t start_ns;              /* before the engine was opened */
    uint64_t open_ns;               /* opening the engine */
    uint64_t load_ns;               /* the model's load */
    void *planted;                  /* a gate's control: bytes that it must find; or NULL */
    bool quantizes;                 /* the pool's peaks are those of the last phase: report_usage has the whole */
    int64_t peak_rss_bytes;         /* taken before a yardstick's buffers would count; 0: not yet */
    struct gpu *gpu;                /* the probe, on the cuda backend; gpu_case.h */
    struct gpu_state gpu_before;
    double process_device_bytes;    /* taken as peak_rss_bytes; negative: not known */
    double outside_pool_bytes;      /* of them, what the pool does not hold */
};

/*
 * Opens everything and makes `id_count` random ids. With `context_tokens` 0 no session is opened yet: it follows with
 * model_run_open_session, when it is known how long it must be.
 */
int model_run_open(struct model_run *m, struct workload_run *run, size_t context_tokens, size_t id_count,
                   struct plim_err *err);
int model_run_open_engine(struct model_run *m, struct workload_run *run, struct plim_err *err);   /* no model */
int model_run_open_session(struct model_run *m, size_t context_tokens, struct plim_err *err);

/*
 * Closes everything and reports what memory was used; `rc` is what the work returned. When memory was refused, keeps why.
 * Returns `rc`, or -1 when reporting failed.
 */
int model_run_close(struct model_run *m, int rc, struct plim_err *err);

/* ---- forward calls ---- */

/* The most probable id of the last row of logits, and, on demand, a digest of the row's bits. */
struct last_logits {
    int32_t id;
    bool want_digest;
    uint64_t digest;
    uint64_t harness_ns;            /* what all this took, of the time of all forward calls so far */
};

int model_run_fill(struct model_run *m, const int32_t *ids, size_t count, struct plim_err *err);
int model_run_forward(struct model_run *m, const int32_t *ids, size_t count, struct last_logits *out,
                      struct plim_err *err);

/* ---- the measured part ---- */

struct stopwatch {
    uint64_t wall_ns, cpu_ns;
    struct plim_counters counters;
};

/* Starts: remembers where clocks and counters are. */
struct stopwatch stopwatch_start(const struct model_run *m);
/* What passed since. */
struct stopwatch stopwatch_stop(const struct model_run *m, const struct stopwatch *start);

/* ---- reporting ---- */

int report_number(struct model_run *m, const char *metric, double value, struct plim_err *err);
int report_digest(struct model_run *m, const char *metric, uint64_t digest, const char *key, struct plim_err *err);

/* PREFIX_TAG_bytes for every tag that held something. */
int report_tags(struct model_run *m, const char *prefix, const uint64_t *bytes, struct plim_err *err);

/* Counters, processor time and cores kept busy of the measured part. */
int report_work(struct model_run *m, const struct stopwatch *spent, struct plim_err *err);

/*
 * Predicted bytes for the requests that were run one after another, and how far the measured ones are from them.
 */
int report_prediction(struct model_run *m, const struct plim_plan_request *requests, size_t request_count,
                      struct plim_err *err);

/* The digest of floats holds for this: "avx2/Haswell/2"; where threads change no bit: "avx2/Haswell". */
void logits_key(const struct model_run *m, char *buffer, size_t size);
void kernels_key(char *buffer, size_t size);

/* Processor time and cores kept busy of the measured part. */
int report_cpu_time(struct model_run *m, const struct stopwatch *spent, struct plim_err *err);

/*
 * The share of the measured part that is the harness's own: `harness_ns` of choosing ids and bookkeeping, and so many
 * looks at the clock.
 */
int report_harness(struct model_run *m, const struct stopwatch *spent, uint64_t harness_ns, size_t clock_reads,
                   struct plim_err *err);

/* Adds the paired read bandwidth, and the fraction of it that `bytes_per_s` is, if the weights exceed the caches. */
int report_read_reference(struct model_run *m, double bytes_per_s, uint64_t step_bytes, struct plim_err *err);

/* Adds the paired sgemm rate, and the fraction of it that `flops_per_s` is. */
int report_gemm_reference(struct model_run *m, size_t rows, double flops_per_s, struct plim_err *err);

#endif
