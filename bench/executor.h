#ifndef PLIM_EXECUTOR_H
#define PLIM_EXECUTOR_H

/*
 * Who executes requests. The runner knows only this interface: the real executor starts a worker process for each
 * request, tests use a mock.
 */

#include <stdbool.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "protocol.h"
#include "result.h"

/* Called as work goes on: `done` of `total` runs of the request. */
typedef void execution_progress(void *context, int64_t done, int64_t total, const char *text);

struct execution {
    uint64_t timeout_ns;
    execution_progress *progress;   /* may be NULL */
    void *progress_context;
};

struct executor {
    /*
     * Runs one case. Whatever happens to it is its outcome, written to `out` (outcome, detail, refusal, metrics) with
     * return 0. -1 only when there is no outcome: the worker could not be started, or the user asked to stop
     * (PLIM_ERR_INTERRUPTED).
     */
    int (*run_case)(void *context, const struct case_request *request, const struct execution *execution,
                    struct result_case *out, struct plim_err *err);

    /* Describes the machine into `out`: machine, recorded, and, if asked, yardsticks. */
    int (*describe_machine)(void *context, bool yardsticks, struct result *out, struct plim_err *err);

    void *context;
};

/* ---- worker processes ---- */

struct process_executor {
    const char *program;   /* borrowed: the plimsoll binary that is started as a worker */
};

struct executor process_executor(struct process_executor *processes);

/* ---- from messages to an outcome ---- */

/*
 * What the messages of one worker add up to. Fed line by line; checks their order. The outcome of a case is decided by
 * conversation_finish, when it is known how the process ended.
 */
struct conversation {
    struct result_case *report;     /* metrics and refusal go here; NULL for a machine request */
    struct result *machine;         /* facts go here; NULL for a case */
    bool greeted, ended, failed;
    enum plim_err_kind error;       /* of the worker's error message */
    char *text;                     /* of the worker's error message */
    char *progress;                 /* the last progress text */
    int64_t done, total;
    uint64_t work_ns;
};

/* -1 with `err` when the line breaks the protocol or the report cannot take it. */
int conversation_line(struct conversation *conversation, const char *line, size_t length, struct plim_err *err);
void conversation_release(struct conversation *conversation);

/* Adds a metric to a case: samples behind those that are there. Refuses another unit, class or direction. */
int report_add_metric(struct result_case *report, const struct metric *metric, struct plim_err *err);

/* Kind input, naming the metric and two unlike values, when an exact metric did not come out the same every time. */
int report_check_exact(const struct result_case *report, struct plim_err *err);

#endif
