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
 *           "refusal": { "tag": "dequant", "requested_bytes": 4096, ... },      only with "out_of_memory"
 *           "metrics": {
 *             "decode_tokens_per_s": { "unit": "tokens/s", "class": "timing", "direction": "higher",
 *                                      "samples": [ 51.2, 50.9, 51.3 ] },
 *             "peak_requested_fast_bytes": { "unit": "bytes", "class": "exact", "direction": "lower",
 *                                            "samples": [ 123456, 123456 ] },
 *             "output_digest": { "unit": "", "class": "exact", "direction": "none",
 *                                "texts": { "avx2/Haswell": "9f3c..." } } } } ]
 *     }
 *
 * A digest of floats holds only where its key (ISA and BLAS core) is the same; one that holds everywhere has the key
 * "any". A metric that the suite gates otherwise than its class says carries it:
 *
 *             "peak_rss_bytes": { ..., "gate": { "level": "warn", "relative": 0.05 }, "samples": [ ... ] }
 *
 * A baseline is the same document, reduced: schema name "plimsoll-baseline"; no start time, no recorded
 * facts or yardsticks, no parameters; exact files without machine and without the other classes; a digest has one text
 * for each key; a metric may carry the "reason" it was accepted for, an allowance, and how many of its samples came from
 * each of the runs that were accepted together:
 *
 *             "peak_kv_cache_bytes": { ..., "samples": [512],
 *                                      "allow": { "rise": 4096, "until": "2026-12-31", "reason": "until #12 is in" } }
 *             "decode_tokens_per_s": { ..., "samples": [51.2, 50.9, 51.3, 50.1], "runs": [2, 2] }
 *
 * Keys are written in a stable order, one metric a line, so that diffs are
 * readable, and numbers as the shortest text that reads back as the same double.
 *
 * Reading is strict: unknown keys are refused. Only in a document of a newer minor version they are skipped.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

#define RESULT_SCHEMA "plimsoll-result"
#define RESULT_BASELINE_SCHEMA "plimsoll-baseline"
#define RESULT_SCHEMA_MAJOR 1
#define RESULT_SCHEMA_MINOR 1   /* 1: "allow" and "runs" in baselines */

enum metric_class { METRIC_EXACT, METRIC_BOUNDED, METRIC_SYSTEM, METRIC_TIMING, METRIC_CLASS_COUNT };
enum metric_direction { DIRECTION_LOWER, DIRECTION_HIGHER, DIRECTION_NONE };   /* which way is better */

/* What a finding about a metric does to the gate. Zero is the default, so that an untouched metric is gated. */
enum gate_level { GATE_FAIL, GATE_WARN, GATE_OFF, GATE_LEVEL_COUNT };

/* Set by the suite; zeros mean what the metric's class says (compare.h). */
struct metric_gate {
    enum gate_level level;
    double relative;     /* system, bounded: tolerance as a fraction; timing: the minimum effect, 0.03 for 3% */
    double absolute;     /* system, bounded: tolerance in the metric's unit; the larger of the two counts */
};

enum outcome {
    OUTCOME_OK,
    OUTCOME_OUT_OF_MEMORY,
    OUTCOME_TIMEOUT,
    OUTCOME_CRASHED,
    OUTCOME_FAILED,
    OUTCOME_COUNT
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

/* A rise of an exact metric that is let pass for a while. */
struct allowance {
    double rise;                     /* in the metric's unit; 0: none */
    char *until;                     /* the last day, UTC: "2026-12-31" */
    char *reason;
};

struct metric {
    char *name;                      /* "decode_tokens_per_s": the unit is in the name */
    char *unit;
    enum metric_class class;
    enum metric_direction direction;
    double *samples;                 /* one a repeat; exact integers stay exact up to 2^53 */
    size_t sample_count;
    struct facts texts;              /* instead of samples: digests by key; one in a result, any number in a baseline */
    struct metric_gate gate;
    char *reason;                    /* baselines: why this value was accepted; or NULL */
    struct allowance allow;          /* baselines */
    size_t *run_samples;             /* baselines: samples of each run that was pooled, in order; NULL: one run */
    size_t run_count;
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
    int minor;                       /* of the schema that it was read with; writing always uses this program's */
    struct result_case *cases;
    size_t case_count;
};

/*
 * Ordinary heap memory throughout: results belong to the harness, not to the engine. A zeroed struct is an empty result;
 * `release` frees the contents and leaves it so.
 */
void result_release(struct result *result);

/*
 * Reads a result or a baseline. Malformed: kind input. Another schema or major version: kind compare. On failure the
 * result is empty.
 */
int result_read(struct result *result, const char *path, struct plim_err *err);
/* The same for text in memory; `path` names it in errors. */
int result_parse(struct result *result, const char *path, const char *text, size_t length, struct plim_err *err);
/* Atomic. */
int result_write(const struct result *result, const char *path, struct plim_err *err);
/*
 * The same without waiting for the disk, for the writes between the cases of a run: whoever is killed leaves a valid file,
 * and only a power cut loses the latest cases.
 */
int result_write_unsynced(const struct result *result, const char *path, struct plim_err *err);
/* The document as text, free(). Bytes that are not UTF-8 (a crashed worker's last words) become U+FFFD. */
char *result_format(const struct result *result, struct plim_err *err);

struct result_case *result_find_case(const struct result *result, const char *id);
struct metric *case_find_metric(const struct result_case *c, const char *name);

/*
 * Growing the parts. Strings are copied. NULL or -1 with `err` when memory is out. Adding a case or a metric moves its
 * siblings: pointers to them are valid until the next add.
 */
struct result_case *result_add_case(struct result *result, const char *id, struct plim_err *err);
struct metric *case_add_metric(struct result_case *c, const char *name, const char *unit, enum metric_class class,
                               enum metric_direction direction, struct plim_err *err);
/* Splits the samples by runs; their sum must be the number of samples. */
int metric_set_runs(struct metric *metric, const size_t *run_samples, size_t run_count, struct plim_err *err);
int metric_set_allowance(struct metric *metric, double rise, const char *until, const char *reason, struct plim_err *err);
void metric_clear_allowance(struct metric *metric);
/* Refuses NaN and infinities (kind internal), which JSON cannot hold: such a case is OUTCOME_FAILED. */
int metric_add_sample(struct metric *metric, double value, struct plim_err *err);
/* Sets the text of `key` (NULL: "any"), replacing an earlier one. */
int metric_set_text(struct metric *metric, const char *text, const char *key, struct plim_err *err);
int facts_set_text(struct facts *facts, const char *name, const char *text, struct plim_err *err);
int facts_set_number(struct facts *facts, const char *name, double number, struct plim_err *err);
/* Replaces one of the strings above: *field is freed and becomes a copy of `text`; NULL clears it. */
int result_set_string(char **field, const char *text, struct plim_err *err);
/* What ran the cases: the recorded fact "engine", which other engines' results carry (tools/peer-exllamav2), or "plimsoll". */
const char *result_engine(const struct result *result);
const struct fact *facts_find(const struct facts *facts, const char *name);
void facts_release(struct facts *facts);
void metric_release(struct metric *metric);
void case_release(struct result_case *c);

const char *metric_class_name(enum metric_class class);          /* "exact" ... */
const char *metric_direction_name(enum metric_direction direction);
const char *gate_level_name(enum gate_level level);              /* "fail", "warn", "off" */
const char *outcome_name(enum outcome outcome);                  /* "ok", "out_of_memory" ... */
/* The same names, NULL-terminated, indexed by the enums. */
extern const char *const metric_class_names[];
extern const char *const metric_direction_names[];
extern const char *const gate_level_names[];
extern const char *const outcome_names[];

/*
 * True for a name that may become part of a path: letters, digits, '.', '_', '-', '+', not beginning with '.', at most
 * 100 bytes. Suite names and machine classes must be such names; reading refuses others.
 */
bool result_name_is_plain(const char *name);

/* True for a day of the calendar as "2026-12-31". */
bool result_date_is_valid(const char *text);

/* The shortest decimal text that reads back as `number`, which must be finite. At most 32 bytes; returns `buffer`. */
char *format_number(char *buffer, size_t size, double number);

/* The median of the samples; NaN when there are none. */
double metric_median(const struct metric *metric);

#endif
