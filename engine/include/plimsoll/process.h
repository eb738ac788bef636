#ifndef PLIMSOLL_PROCESS_H
#define PLIMSOLL_PROCESS_H

/* Child processes: started with a pipe in, a pipe out, a time limit, and reaped with their own resource usage. */

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

struct plim_process_options {
    const char *const *argv;         /* NULL-terminated; argv[0] is the path of the program */
    const char *const *environment;  /* "NAME=VALUE" entries added to (or replacing) ours, NULL-terminated; may be NULL */
};

struct plim_process_exit {
    bool signaled;
    int status;              /* exit status, or the signal's number */
    int64_t peak_rss_bytes;  /* of this child alone (wait4), not of all children */
    uint64_t user_ns, system_ns;
};

/* Starts a child with posix_spawn. The child dies with us (its own process group is killed on release). */
int plim_process_start(struct plim_process *process, const struct plim_process_options *options,
                       struct plim_err *err);

/* Asks it to stop (SIGTERM), or stops it (SIGKILL): the whole process group. */
void plim_process_signal(struct plim_process *process, int signal_number);

/* Waits until the child ended, closes the pipes. */
int plim_process_wait(struct plim_process *process, struct plim_process_exit *out, struct plim_err *err);

/* Kills what still runs and closes the pipes. */
void plim_process_release(struct plim_process *process);

/* The path of the running program (/proc/self/exe), owned by the caller (free()). */
char *plim_self_path(struct plim_err *err);

/* Our peak resident set so far (VmHWM), in bytes; 0 when unknown. */
int64_t plim_peak_rss_bytes(void);

#endif
