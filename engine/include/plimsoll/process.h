#ifndef PLIMSOLL_PROCESS_H
#define PLIMSOLL_PROCESS_H

/*
 * Child processes: started with pipes to and from them, waited for with a time limit, and reaped with their own
 * resource usage.
 *
 *     struct plim_process child = PLIM_PROCESS_INIT;
 *     if (plim_process_start(&child, &options, err) < 0)
 *         goto out;
 *     ...                                     // poll child.from_child, with a deadline
 *     plim_process_signal(&child, SIGTERM);
 *     if (!plim_process_ended_within(&child, 2 * 1000000000ull))
 *         plim_process_signal(&child, SIGKILL);
 *     rc = plim_process_wait(&child, &exit, err);
 * out:
 *     plim_process_release(&child);
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "plimsoll/err.h"

struct plim_process {
    pid_t pid;         /* 0 when not running */
    int to_child;      /* -1 when closed */
    int from_child;    /* the child's standard output */
    int errors_of_child; /* its standard error */
};

#define PLIM_PROCESS_INIT { .to_child = -1, .from_child = -1, .errors_of_child = -1 }

struct plim_process_options {
    const char *const *argv;         /* NULL-terminated; argv[0] is the path of the program */
    const char *const *environment;  /* "NAME=VALUE" entries added to (or replacing) ours, NULL-terminated; may be NULL */
};

struct plim_process_exit {
    bool signaled;
    int status;              /* exit status, or the signal's number */
    int64_t peak_rss_bytes;  /* of this child alone (wait4), not of all children; Linux counts the parent's pages at the
                                moment of the fork too, so it is never below what we held then */
    uint64_t user_ns, system_ns;
};

/*
 * Starts a child in a process group of its own, with default signals. A program that cannot be executed is an error
 * here, not an exit status. The child is killed when the thread that started it ends, however that happens.
 */
int plim_process_start(struct plim_process *process, const struct plim_process_options *options,
                       struct plim_err *err);

/* Asks it to stop (SIGTERM), or stops it (SIGKILL): the whole process group. */
void plim_process_signal(struct plim_process *process, int signal_number);

/* Whether the child ends within this time (it still has to be waited for). */
bool plim_process_ended_within(struct plim_process *process, uint64_t duration_ns);

/*
 * Closes the pipe to the child, waits until it ended, kills what it left behind in its group, closes the other pipes. Read
 * what it writes before: a child whose pipe is full does not end.
 */
int plim_process_wait(struct plim_process *process, struct plim_process_exit *out, struct plim_err *err);

/* Kills what still runs and closes the pipes. */
void plim_process_release(struct plim_process *process);

/* The path of the running program (/proc/self/exe), owned by the caller (free()). */
char *plim_self_path(struct plim_err *err);

/* Our peak resident set so far (VmHWM), in bytes; 0 when unknown. */
int64_t plim_peak_rss_bytes(void);

#endif
