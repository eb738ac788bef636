#ifndef PLIMSOLL_PARAMETERS_H
#define PLIMSOLL_PARAMETERS_H

/*
 * The parameters: every memory technique of the engine is one row of one table.
 *
 * Command-line flags, suite validation, sweeps, result files, `plimsoll parameters` and the documentation are all read
 * from the table. Adding a technique is adding a row here and the code that obeys it.
 *
 * The table is the same in every build, so that suites and results are understood everywhere: what a build has nothing to
 * act on (`unavailable`) is refused, with the reason, only by plim_parameters_available, before something is run.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

enum plim_parameter {
    PLIM_BACKEND,
    PLIM_DEVICE,
    PLIM_GPU_SPLIT,
    PLIM_MAX_DQ_SIZE,
    PLIM_DQ_MODE,
    PLIM_DQ_ROWS,
    PLIM_MAX_INPUT_LEN,
    PLIM_MAX_ATTENTION_SIZE,
    PLIM_LOW_MEM,
    PLIM_HESSIAN_OFFLOAD_THRESHOLD,
    PLIM_RELEASE_AT_BOUNDARY,
    PLIM_CPU_THREADS_SMALL,
    PLIM_CPU_THREADS,
    PLIM_BLAS_CORE,
    PLIM_CUDA_MODULE_LOADING,
    PLIM_KV_CACHE,
    PLIM_ATTENTION_MODE,
    PLIM_CUDA_GRAPH,
    PLIM_MEMORY_BUDGET,
    PLIM_PARAMETER_COUNT
};

enum plim_parameter_type {
    PLIM_TYPE_COUNT,    /* int64: elements, tokens, rows, threads, bytes */
    PLIM_TYPE_SWITCH,   /* off, on */
    PLIM_TYPE_CHOICE,   /* one of `choices` */
    PLIM_TYPE_TEXT      /* a short name, such as a BLAS core type; "" leaves it alone */
};

enum plim_parameter_scope {
    PLIM_SCOPE_PROCESS,   /* must be known before the process loads its libraries */
    PLIM_SCOPE_ENGINE,    /* fixed when the engine is opened */
    PLIM_SCOPE_CONVERSION /* read by the quantizer */
};

enum plim_backend { PLIM_BACKEND_CPU, PLIM_BACKEND_CUDA };
enum plim_dq_mode { PLIM_DQ_CHUNKED, PLIM_DQ_GATED };
enum plim_kv_cache_type { PLIM_KV_FP16, PLIM_KV_FP32, PLIM_KV_Q8, PLIM_KV_Q6, PLIM_KV_Q4 };
enum plim_attention_mode { PLIM_ATTENTION_FLASH, PLIM_ATTENTION_PLAIN };
enum plim_cuda_loading { PLIM_CUDA_LAZY, PLIM_CUDA_EAGER, PLIM_CUDA_UNSET };

struct plim_parameter_row {
    const char *name;             /* "max_dq_size"; the flag is --max-dq-size */
    enum plim_parameter_type type;
    enum plim_parameter_scope scope;
    const char *unit;             /* "elements", "tokens", ..., or "" */
    int64_t default_count;        /* counts, switches (0, 1), choices (index); -1: decided at run time, see help */
    int64_t low, high;            /* inclusive range of a count */
    const char *const *choices;   /* NULL-terminated names of a choice; of a text: the values allowed besides "" */
    int (*check)(const char *text, struct plim_err *err);   /* of a text without choices: -1 with `err` for a bad one */
    const char *const *choices_unavailable;   /* NULL, or for each choice: NULL, or why this build lacks it */
    const char *help;             /* one line */
    const char *origin;           /* where the technique comes from */
    const char *unavailable;      /* NULL, or why this build has nothing to act on it */
};

/* A value for each row; zero-initialised is not valid, start from plim_parameters_default. */
struct plim_parameters {
    int64_t count[PLIM_PARAMETER_COUNT];
    char text[PLIM_PARAMETER_COUNT][32];
    bool set[PLIM_PARAMETER_COUNT];        /* given by the user, as opposed to the default */
};

/* Row `parameter`; the table's order is the enum's. */
const struct plim_parameter_row *plim_parameter_row(enum plim_parameter parameter);

/* The names in table order, NULL-terminated. */
const char *const *plim_parameter_names(void);

/* Finds a row by name ('-' and '_' are the same). Returns -1 with the nearest valid name in `err`. */
int plim_parameter_find(const char *name, enum plim_parameter *out, struct plim_err *err);

/* The name of the backend that they choose: "cpu" or "cuda". */
const char *plim_parameters_backend(const struct plim_parameters *parameters);

void plim_parameters_default(struct plim_parameters *parameters);

/*
 * Sets one value from text ("512Mi", "on", "gated"; "auto" for a count that is decided at run time). Refuses bad values.
 */
int plim_parameters_set(struct plim_parameters *parameters, const char *name, const char *text, struct plim_err *err);

/*
 * Decides what is still open: thread counts from the machine, low_mem's effect on max_input_len (<= 1024) and
 * max_attention_size (<= 1024^2), and checks combinations. Call once, after the last set.
 */
int plim_parameters_resolve(struct plim_parameters *parameters, struct plim_err *err);

/* Whether this build can do what they ask: -1 with the reason for the first that it cannot. */
int plim_parameters_available(const struct plim_parameters *parameters, struct plim_err *err);

/* What gpu_split says: how the layers of a model are shared among devices. */
#define PLIM_MOST_DEVICES 16
struct plim_split {
    bool automatic;                        /* by free memory, over all devices from `device` on */
    size_t count;                          /* else so many devices; 1: no split */
    uint64_t bytes[PLIM_MOST_DEVICES];     /* and so much of each for weights */
};

/* Reads "", "auto", or sizes "20,9.5,6000Mi" (plain numbers: GiB). */
int plim_split_parse(const char *text, struct plim_split *out, struct plim_err *err);

/* The value as text that plim_parameters_set reads back; at most `size` bytes; returns `buffer`. */
char *plim_parameters_format(const struct plim_parameters *parameters, enum plim_parameter parameter, char *buffer,
                             size_t size);

#endif
