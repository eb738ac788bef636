#ifndef PLIMSOLL_ERR_H
#define PLIMSOLL_ERR_H

/*
 * Errors are values with context.
 *
 * A function that can fail returns 0 or -1 and takes a `struct plim_err *` as its last argument. The callee says what
 * went wrong, each caller on the way up may add what it was trying to do, and only main() decides what happens to the
 * program:
 *
 *     struct plim_err err = PLIM_ERR_INIT;
 *     if (plim_model_load(engine, dir, &model, &err) < 0) {
 *         fprintf(stderr, "plimsoll: %s\n", err.message);
 *         return plim_err_exit_status(&err);
 *     }
 *
 * A message names the thing, the value found and the value wanted, and fits one line:
 * `loading models/tiny: tensor model.norm.weight: dtype F32, expected F16`.
 *
 * `err` is never NULL. The first error set wins: setting an error that is already set keeps the first message, so a
 * cleanup path cannot hide the cause. Threads: one error belongs to one thread.
 */

#include <stdarg.h>

#if defined(__GNUC__)
#define PLIM_PRINTF(format_arg, first_arg) __attribute__((format(printf, format_arg, first_arg)))
#else
#define PLIM_PRINTF(format_arg, first_arg)
#endif

enum plim_err_kind {
    PLIM_ERR_NONE = 0,
    PLIM_ERR_INPUT,        /* bad usage or bad input: a file, a flag, a suite (exit status 2) */
    PLIM_ERR_SYSTEM,       /* the operation itself failed: disk, process, operating system (1) */
    PLIM_ERR_MEMORY,       /* out of memory or over budget; the pool's refusal report has the details (1) */
    PLIM_ERR_COMPARE,      /* two results cannot be compared: schema, machine class (3) */
    PLIM_ERR_INTERRUPTED,  /* the user or a time limit asked to stop (1) */
    PLIM_ERR_INTERNAL,     /* a bug of ours, found by a check (1) */
};

struct plim_err {
    enum plim_err_kind kind;
    char message[1000];  /* one line, no trailing newline; truncated with "..." when longer */
};

#define PLIM_ERR_INIT { PLIM_ERR_NONE, "" }

/* Sets kind and message unless an error is already set. Always returns -1, so a failing path is one statement. */
int plim_err_set(struct plim_err *err, enum plim_err_kind kind, const char *format, ...) PLIM_PRINTF(3, 4);

/* As plim_err_set with kind PLIM_ERR_INPUT, the commonest. */
int plim_err_input(struct plim_err *err, const char *format, ...) PLIM_PRINTF(2, 3);

/* As plim_err_set with kind PLIM_ERR_SYSTEM, and ": strerror(errno)" appended. */
int plim_err_errno(struct plim_err *err, const char *format, ...) PLIM_PRINTF(2, 3);

/* Puts "context: " before the message that is set; does nothing when none is. Always returns -1. */
int plim_err_wrap(struct plim_err *err, const char *format, ...) PLIM_PRINTF(2, 3);

/* Forgets the error. */
void plim_err_clear(struct plim_err *err);

/* The program's exit status for this error: 0 when none is set; see the kinds. */
int plim_err_exit_status(const struct plim_err *err);

/* "input", "system", ...: stable names used in result files. */
const char *plim_err_kind_name(enum plim_err_kind kind);

#endif
