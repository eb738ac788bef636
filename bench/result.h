#ifndef PLIM_RESULT_H
#define PLIM_RESULT_H

/*
 * A result: what one run of a suite measured, in memory and as JSON.
 *
 *     {
 *       "schema": { "name": "plimsoll-result", "major": 1, "minor": 0 },
 *       "suite": { "name": "smoke", "digest": "xxh3 of the suite file" },
 *       "started_utc": "2026-11-24T07:30:00Z",
 *       "complete": true,
 *       "machine": { "class": "epyc-2c-avx2-1a2b3c", "facts": { "cpu_model": "...", "isa": "avx2", ... } },
 *       "recorded": { "load_average": ..., ... },           facts that are not part of the machine's class
 *       "yardsticks": { "read_bandwidth_bytes_per_s": ..., "sgemm_flops_per_s": ..., ... },
 *       "cases": [
 *         { "id": "tiny-exl2/decode/max_dq_size=1Mi",
 *           "model": "tiny-exl2", "workload": "decode",
 *           "parameters": { "max_dq_size": "1Mi", ... every parameter, as text },
 *           "arguments": { "prompt_tokens": 32, ... of the workload },
 *           "outcome": "ok", "detail": "",
 *           "metrics": {
 *             "decode_tokens_per_s": { "unit": "tokens/s", "class": "timing", "direction": "higher",
 *                                      "samples": [ 51.2, 50.9, 51.3 ] },
 *             "peak_requested_fast_bytes": { "unit": "bytes", "class": "exact", "direction": "lower",
 *                                            "samples": [ 123456, 123456 ] },
 *             "output_digest": { "unit": "", "class": "exact", "direction": "none", "key": "avx2/Haswell",
 *                                "text": "9f3c..." } } } ]
 *     }
 *
 * A baseline is the same document, reduced: schema name "plimsoll-baseline", no `recorded`, exact files without
 * timings. Keys are written in a stable order, one metric a line, so that diffs are readable.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

#define RESULT_SCHEMA_MAJOR 1
#define RESULT_SCHEMA_MINOR 0

enum metric_class { METRIC_EXACT, METRIC_BOUNDED, METRIC_SYSTEM, METRIC_TIMING, METRIC_CLASS_COUNT };
enum metric_direction { DIRECTION_LOWER, DIRECTION_HIGHER, DIRECTION_NONE };   /* which way is better */

enum outcome {
    OUTCOME_OK,
    OUTCOME_OUT_OF_MEMORY,
    OUTCOME_TIMEOUT,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_COUNT
};

struct metric {
    char *name;                      /* "decode_tokens_per_s": the unit is in the name */
    char *unit;
    enum metric_class class;
    enum metric_direction direction;
    double *samples;                 /* one a repeat; exact integers stay exact up to 2^53 */
    size_t sample_count;
    char *text;                      /* a digest instead of samples; NULL for numbers */
    char *key;                       /* the text holds only where this is the same (ISA and BLAS core); or NULL */
};

struct fact {                        /* a named text or number: parameters, arguments, machine facts */
    char *name;
    char *text;                      /* NULL: a number */
    double number;
};

struct facts {
    struct fact *items;
    size_t count;
};

struct result_case {
    char *id;
    char *model;
    char *workload;
    struct facts parameters;
    struct facts arguments;
    enum outcome outcome;
    char *detail;                    /* message of a failure; for out_of_memory the refusal in words; "" */
    struct facts refusal;            /* out_of_memory: tier, tag, requested_bytes, budget_bytes, scope, held.TAG */
    struct metric *metrics;
    size_t metric_count;
};

struct result {
    bool is_baseline;
    char *path;                      /* where it was read from; NULL when made here */
    char *suite_name;
    char *suite_digest;
    char *started_utc;
    bool complete;
    char *machine_class;
    struct facts machine;            /* stable facts: hashed into the class */
    struct facts recorded;           /* not hashed */
    struct facts yardsticks;
    struct result_case *cases;
    size_t case_count;
};

/* Ordinary heap memory throughout: results belong to the harness, not to the engine. `release` frees the contents. */
void result_release(struct result *result);

int result_read(struct result *result, const char *path, struct plim_err *err);
/* Atomic. Called after every case, so that a run that dies leaves a valid file. */
int result_write(const struct result *result, const char *path, struct plim_err *err);
/* The document as text, free(). */
char *result_format(const struct result *result, struct plim_err *err);

struct result_case *result_find_case(const struct result *result, const char *id);
struct metric *case_find_metric(const struct result_case *c, const char *name);

/* Growing the parts. Strings are copied. NULL or -1 with `err` when memory is out. */
struct result_case *result_add_case(struct result *result, const char *id, struct plim_err *err);
struct metric *case_add_metric(struct result_case *c, const char *name, const char *unit, enum metric_class class,
                               enum metric_direction direction, struct plim_err *err);
int metric_add_sample(struct metric *metric, double value, struct plim_err *err);
int metric_set_text(struct metric *metric, const char *text, const char *key, struct plim_err *err);
int facts_set_text(struct facts *facts, const char *name, const char *text, struct plim_err *err);
int facts_set_number(struct facts *facts, const char *name, double number, struct plim_err *err);
const struct fact *facts_find(const struct facts *facts, const char *name);
void facts_release(struct facts *facts);
void case_release(struct result_case *c);

const char *metric_class_name(enum metric_class class);          /* "exact" ... */
const char *metric_direction_name(enum metric_direction direction);
const char *outcome_name(enum outcome outcome);                  /* "ok", "out_of_memory" ... */

/* The median of the samples; NaN when there are none. */
double metric_median(const struct metric *metric);

#endif
