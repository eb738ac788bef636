#ifndef PLIM_PROTOCOL_H
#define PLIM_PROTOCOL_H

/*
 * What the measuring parent and a worker say to each other: JSON documents, one a line.
 *
 * The parent sends one request and closes the pipe:
 *
 *     {"protocol":1,"request":"case","id":"tiny/decode","workload":"decode","model_directory":"models/...",
 *      "parameters":{"max_dq_size":"1Mi"},"arguments":{"prompt_tokens":32},"repeats":3,"warmup":1}
 *     {"protocol":1,"request":"machine","yardsticks":true}
 *
 * A case in which a gate plants what it must find (control.h) has "control":{"delay_fraction":0.25,"extra_bytes":0} too.
 *
 * The worker answers with messages: hello first, then any number of progress, metric and facts, and as the last one
 * done or error (after a refusal, when memory was out):
 *
 *     {"message":"hello","protocol":1,"version":"0.1.0","revision":"1a2b3c4"}
 *     {"message":"progress","done":1,"total":4,"text":"repeat 1 of 3"}
 *     {"message":"metric","name":"token_time_ns","unit":"ns","class":"timing","direction":"lower","samples":[1.5]}
 *     {"message":"metric","name":"output_digest","unit":"","class":"exact","direction":"none","key":"any","text":"9f"}
 *     {"message":"facts","section":"yardsticks","facts":{"fma_flops_per_s":1e11}}
 *     {"message":"facts","section":"refusal","facts":{"tag":"kv_cache","requested_bytes":4096}}
 *     {"message":"error","kind":"memory","text":"..."}
 *     {"message":"done","work_ns":1200}
 *
 * Metrics describe themselves, so that a worker of another build may measure what this one does not know. Each side
 * trusts the other with nothing: a line that breaks these rules is an error, not a guess.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "result.h"
#include "workload_run.h"

#define PROTOCOL_VERSION 1
#define PROTOCOL_LINE_LIMIT ((size_t)4 << 20)

/* ---- requests ---- */

enum request_kind { REQUEST_CASE, REQUEST_MACHINE };

struct request {
    enum request_kind kind;
    struct case_request run;    /* REQUEST_CASE */
    bool yardsticks;            /* REQUEST_MACHINE: measure them too */
};

/* One line without the newline; free(). */
char *request_format_case(const struct case_request *request, struct plim_err *err);
char *request_format_machine(bool yardsticks, struct plim_err *err);

int request_parse(struct request *request, const char *line, size_t length, struct plim_err *err);
void request_release(struct request *request);

/* ---- messages ---- */

enum message_kind {
    MESSAGE_HELLO,
    MESSAGE_PROGRESS,
    MESSAGE_METRIC,
    MESSAGE_FACTS,
    MESSAGE_ERROR,
    MESSAGE_DONE
};

enum facts_section {
    SECTION_MACHINE,       /* hashed into the machine's class */
    SECTION_RECORDED,
    SECTION_YARDSTICKS,
    SECTION_REFUSAL
};

struct message {
    enum message_kind kind;
    int64_t protocol;              /* hello */
    char *version, *revision;      /* hello */
    int64_t done, total;           /* progress */
    char *text;                    /* progress, error; or NULL */
    struct metric metric;
    enum facts_section section;
    struct facts facts;
    enum plim_err_kind error;
    uint64_t work_ns;              /* done */
};

/* One line without the newline; free(). */
char *message_format(const struct message *message, struct plim_err *err);

/* On failure the message is empty. */
int message_parse(struct message *message, const char *line, size_t length, struct plim_err *err);
void message_release(struct message *message);

#endif
