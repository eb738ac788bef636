#ifndef PLIM_WORKLOAD_H
#define PLIM_WORKLOAD_H

/*
 * Workloads: what a case does with a model (load, prefill, decode, generate, perplexity) or without one (null), and the
 * arguments that each takes.
 *
 * Arguments are kept as facts (result.h): counts and numbers as numbers, the rest as text, always all of them, in the
 * order of the workload's rows, so that a result file shows what was run and the worker needs no defaults of its own.
 *
 * The parent only reads this table. `run` is called in the worker, in a process of its own.
 */

#include <stdbool.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "result.h"

enum argument_type {
    ARGUMENT_COUNT,    /* a whole number: `512`, `4Ki` */
    ARGUMENT_NUMBER,   /* a real number: `0.7` */
    ARGUMENT_SWITCH,   /* off, on */
    ARGUMENT_CHOICE,   /* one of `choices` */
    ARGUMENT_TEXT,     /* any text */
    ARGUMENT_FILE      /* a file's path, below the current directory or the program's share directory; "" for none */
};

struct argument_row {
    const char *name;
    enum argument_type type;
    const char *value;              /* the default, as text */
    double low, high;               /* inclusive; counts and numbers */
    const char *const *choices;     /* NULL-terminated */
    const char *help;
};

struct workload_run;   /* workload_run.h */

struct workload {
    const char *name;
    const char *help;
    bool needs_model;
    bool uses_engine;                     /* has a pool whose memory can be traced */
    bool timed;                           /* its timings mean something beside the machine's yardsticks */
    bool hidden;                          /* for tests of the harness: known only when PLIMSOLL_TEST=1 is set */
    const struct argument_row *arguments; /* ended by a NULL name */
    int (*run)(struct workload_run *run, struct plim_err *err);   /* one repeat */
};

/* All of them in table order, ended by NULL. */
const struct workload *const *workloads(void);

/* The workload of that name; NULL with the nearest valid name in `err`. */
const struct workload *workload_find(const char *name, struct plim_err *err);

/* The row of an argument, or NULL. */
const struct argument_row *workload_argument(const struct workload *workload, const char *name);

/* All arguments at their defaults; `arguments` is empty before. */
int arguments_default(const struct workload *workload, struct facts *arguments, struct plim_err *err);

/* Sets one from text. Refuses unknown names and bad values (kind input). */
int argument_set(const struct workload *workload, struct facts *arguments, const char *name, const char *text,
                 struct plim_err *err);

/* The value as text that argument_set reads back; at most `size` bytes; returns `buffer`. "" when absent. */
char *argument_format(const struct facts *arguments, const char *name, char *buffer, size_t size);

/* Typed reading. The argument is there, because arguments_default put it there. */
int64_t argument_count(const struct facts *arguments, const char *name);
double argument_number(const struct facts *arguments, const char *name);
bool argument_is_on(const struct facts *arguments, const char *name);
const char *argument_text(const struct facts *arguments, const char *name);

#endif
