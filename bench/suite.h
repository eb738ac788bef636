#ifndef PLIM_SUITE_H
#define PLIM_SUITE_H

/*
 * Suites: JSON files that say which models to run through which workloads under which parameters.
 *
 *     {
 *       "schema": { "name": "plimsoll-suite", "major": 1 },
 *       "name": "max-dq-size",                          plain: letters, digits, '-', '_', '.'
 *       "description": "one line",
 *       "models": {
 *         "tiny":    { "make": { "preset": "tiny", "layers": 2, "format": "exl2", "bpw": 4.0, "head_bits": 6,
 *                                "seed": 1 } },         made on demand, kept under a name that tells all of this
 *         "smollm2": { "path": "smollm2-135m",          relative to the models directory
 *                      "fetch": "smollm2-135m" }        what `tools/fetch-model` gets when it is missing
 *       },
 *       "defaults": { "parameters": { "cpu_threads": 2 }, "repeats": 3, "warmup": 1, "timeout_s": 120,
 *                     "gate": { "timing": "off" } },    each may be set again in a case
 *       "cases": [
 *         { "name": "prefill",
 *           "model": "tiny",                            or a list; absent for workloads without one
 *           "workload": { "kind": "prefill", "prompt_tokens": 512 },      kind and arguments (workload.c)
 *           "parameters": { "dq_rows": 16 },            fixed (plimsoll parameters)
 *           "sweep": {                                  parameters and arguments; the cases are the cross product of
 *             "max_dq_size": { "from": "256Ki", "to": "512Mi", "factor": 4 },   ranges, by "factor" or by "step",
 *             "dq_mode": ["chunked", "gated"] },        and lists
 *           "exclude": [ { "dq_mode": "gated", "max_dq_size": "256Ki" } ],      combinations to leave out; may name
 *           "include": [ { "dq_mode": "gated", "max_dq_size": "2Gi" } ],        "model" too; and to add
 *           "repeats": 5, "warmup": 1, "timeout_s": 60,
 *           "expect": "ok",                             or "out_of_memory", for a case that shows a budget at work
 *           "gate": { "timing": "warn",                 by class or by metric: "fail", "warn", "off", or with a
 *                     "peak_rss_bytes": { "level": "warn", "relative": 0.05, "absolute": 1048576 } },   tolerance
 *           "note": "one line for the reader" } ],
 *       "plots": [
 *         { "kind": "curve", "name": "peak", "title": "...", "cases": "*" (a pattern for case ids),
 *           "x": "max_dq_size", "x_scale": "log" or "linear",
 *           "y": ["peak_requested_fast_bytes", "prefill_tokens_per_s"],         one panel each
 *           "series": ["model", "dq_mode"],             one line for each combination of these
 *           "mark_knee": true },
 *         { "kind": "tag_bars", "name": "tags", "title": "...", "cases": "*", "groups": ["model", "low_mem"] },
 *         { "kind": "bars", "name": "speed", "title": "...", "cases": "*", "groups": ["model", "low_mem"],
 *           "y": ["prefill_tokens_per_s"] } ]         over settings that are no numbers; a panel each, side by side
 *     }
 *
 * Numbers with units may be written as text ("512Mi"). Unknown keys, bad values and combinations that the parameters
 * table refuses are errors that name the file, the path inside it and the nearest valid name.
 *
 * A case's id is MODEL/NAME/SWEPT, where SWEPT is "name=value" of what is swept (or included), sorted by name and
 * joined by ',': "tiny/prefill/dq_mode=chunked,max_dq_size=1Mi". It depends on nothing else, so that adding, removing
 * or reordering cases moves no other's id. Two cases with one id are refused.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/parameters.h"
#include "plimsoll/synthetic.h"
#include "result.h"
#include "workload.h"

#define SUITE_SCHEMA "plimsoll-suite"
#define SUITE_SCHEMA_MAJOR 1
#define SUITE_CASE_LIMIT 2000
#define SUITE_BYTES_LIMIT ((size_t)1 << 20)

struct suite_model {
    char *name;                      /* in the suite, and in case ids */
    char *directory;                 /* relative to the models directory, or absolute */
    char *fetch;                     /* for `tools/fetch-model`; or NULL */
    bool made;                       /* `make` says how; else the directory must exist */
    struct plim_synthetic make;      /* preset points into plim_synthetic_presets */
};

/* How a metric, or all metrics of a class, are gated. Later entries win; classes come before metrics. */
struct suite_gate {
    bool is_class;
    enum metric_class class;
    char *metric;                    /* NULL for a class */
    struct metric_gate gate;
};

struct suite_gates {
    struct suite_gate *items;
    size_t count;
};

/* One case, after the sweep was expanded. */
struct suite_case {
    char *id;
    char *name;                         /* of the entry that it came from */
    char *note;                         /* or NULL */
    size_t model;                       /* index into models; SIZE_MAX: none */
    const struct workload *workload;
    struct facts arguments;             /* all of them */
    struct plim_parameters parameters;  /* as set, not resolved */
    int repeats, warmup;
    double timeout_s;
    enum outcome expect;
    struct suite_gates gates;
};

enum plot_kind { PLOT_CURVE, PLOT_TAG_BARS, PLOT_BARS };

struct suite_plot {
    enum plot_kind kind;
    char *name;                      /* plain: becomes a file name */
    char *title;
    char *cases;                     /* fnmatch pattern for case ids; "*" when absent */
    char *x;                         /* curve: a parameter or a workload's argument */
    bool x_is_log;
    char **y;                        /* curve, bars: metrics, one panel each; NULL-terminated */
    char **series;                   /* curve: series, bars: groups; "model", "case", parameters or arguments;
                                        NULL-terminated */
    bool mark_knee;
};

struct suite {
    char *path;                      /* where it was read from; NULL for text in memory */
    char *name;
    char *description;
    char digest[17];                 /* xxh3 of the file's bytes, in hexadecimal */
    struct suite_model *models;
    size_t model_count;
    struct suite_case *cases;
    size_t case_count;
    struct suite_plot *plots;
    size_t plot_count;
};

/*
 * Reads a suite. `name` is a path, or the plain name of a suite in ./suites or in the program's share directory.
 * On failure the suite is empty.
 */
int suite_read(struct suite *suite, const char *name, struct plim_err *err);

/* The same for text in memory; `document` names it in errors. */
int suite_parse(struct suite *suite, const char *document, const char *text, size_t length, struct plim_err *err);

void suite_release(struct suite *suite);

/* The path of a suite that is named as for suite_read; free(). */
char *suite_locate(const char *name, struct plim_err *err);

struct suite_case *suite_find_case(const struct suite *suite, const char *id);

/* How the gates of a case treat a metric. */
struct metric_gate suite_gate_of(const struct suite_case *c, const char *metric, enum metric_class class);

/*
 * Changes a parameter of all cases, or an argument of those that have it: `plimsoll run --set`. Ids stay. A name that is
 * neither is refused.
 */
int suite_set(struct suite *suite, const char *name, const char *text, struct plim_err *err);

#endif
