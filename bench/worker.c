#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fingerprint.h"
#include "heap.h"
#include "plimsoll/clock.h"
#include "protocol.h"
#include "share.h"
#include "version.h"
#include "yardstick.h"

/* ---- the pipe ---- */

/* Everything up to the first newline or the end; free(). */
static char *read_line(int fd, size_t *length, struct plim_err *err)
{
    size_t capacity = 4096, used = 0;
    char *line = heap_calloc(capacity, 1, err);

    while (line) {
        ssize_t got = read(fd, line + used, capacity - used);
        char *end;

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            plim_err_errno(err, "reading the request");
            break;
        }
        end = memchr(line + used, '\n', (size_t)got);
        used += (size_t)got;
        if (end || got == 0) {
            *length = end ? (size_t)(end - line) : used;
            return line;
        }
        if (used == capacity) {
            char *grown = capacity < PROTOCOL_LINE_LIMIT ? realloc(line, capacity * 2) : NULL;

            if (!grown) {
                plim_err_input(err, "the request is longer than %zu bytes", capacity);
                break;
            }
            line = grown;
            capacity *= 2;
        }
    }
    free(line);
    return NULL;
}

static int write_all(int fd, const char *text, size_t length, struct plim_err *err)
{
    while (length) {
        ssize_t put = write(fd, text, length);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return plim_err_errno(err, "writing to the parent");
        text += put;
        length -= (size_t)put;
    }
    return 0;
}

static int send(int fd, const struct message *message, struct plim_err *err)
{
    char *line = message_format(message, err);
    int rc = line && write_all(fd, line, strlen(line), err) == 0 && write_all(fd, "\n", 1, err) == 0 ? 0 : -1;

    free(line);
    return rc;
}

/* The message's strings are borrowed from string constants; nothing here frees or writes them. */
static char *borrow(const char *text)
{
    return (char *)(uintptr_t)text;
}

static int send_hello(int fd, struct plim_err *err)
{
    struct message hello = { .kind = MESSAGE_HELLO, .protocol = PROTOCOL_VERSION, .version = borrow(plim_version),
                             .revision = borrow(plim_git_revision) };

    return send(fd, &hello, err);
}

static int send_progress(int fd, int done, int total, struct plim_err *err)
{
    char text[64];
    struct message progress = { .kind = MESSAGE_PROGRESS, .done = done, .total = total, .text = text };

    snprintf(text, sizeof text, "run %d of %d", done + 1, total);
    return send(fd, &progress, err);
}

static int send_facts(int fd, enum facts_section section, const struct facts *facts, struct plim_err *err)
{
    struct message message = { .kind = MESSAGE_FACTS, .section = section, .facts = *facts };

    return facts->count ? send(fd, &message, err) : 0;
}

static int send_metrics(int fd, const struct result_case *report, struct plim_err *err)
{
    for (size_t i = 0; i < report->metric_count; i++) {
        struct message message = { .kind = MESSAGE_METRIC, .metric = report->metrics[i] };

        if (send(fd, &message, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- a case ---- */

static int refusal_facts(const struct plim_pool_refusal *refusal, struct facts *facts, struct plim_err *err)
{
    if (facts_set_text(facts, "tier", plim_tier_name(refusal->tier), err) < 0 ||
        facts_set_text(facts, "tag", plim_tag_name(refusal->tag), err) < 0 ||
        facts_set_number(facts, "requested_bytes", (double)refusal->requested_bytes, err) < 0 ||
        facts_set_number(facts, "budget_bytes", (double)refusal->budget_bytes, err) < 0 ||
        facts_set_text(facts, "scope", refusal->scope, err) < 0 ||
        facts_set_number(facts, "held_bytes", (double)refusal->held.total_bytes, err) < 0)
        return -1;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        char name[64];

        if (!refusal->held.bytes[tag])
            continue;
        snprintf(name, sizeof name, "held.%s", plim_tag_name((enum plim_tag)tag));
        if (facts_set_number(facts, name, (double)refusal->held.bytes[tag], err) < 0)
            return -1;
    }
    return 0;
}

static int send_refusal(int fd, const struct plim_pool_refusal *refusal, struct plim_err *err)
{
    struct facts facts = { 0 };
    int rc = refusal_facts(refusal, &facts, err) < 0 ? -1 : send_facts(fd, SECTION_REFUSAL, &facts, err);

    facts_release(&facts);
    return rc;
}

/* One repeat. Its metrics are sent unless it was a warm-up. */
static int run_once(const struct case_request *request, struct references *references, int repeat, int output,
                    uint64_t *work_ns, struct plim_err *err)
{
    struct workload_run run = { .request = request, .references = references, .output = output,
                                .parameters = request->parameters, .repeat = repeat };
    struct plim_err unsent = PLIM_ERR_INIT;
    uint64_t start_ns = plim_now_ns();
    int rc;

    rc = plim_parameters_available(&run.parameters, err);
    if (rc == 0)
        rc = plim_parameters_resolve(&run.parameters, err);
    if (rc == 0)
        rc = request->workload->run(&run, err);
    *work_ns += plim_now_ns() - start_ns;
    /* What a failed repeat measured before is sent too: peaks up to an out-of-memory. */
    if ((rc < 0 || repeat >= 0) && send_metrics(output, &run.report, rc < 0 ? &unsent : err) < 0)
        rc = -1;
    if (rc < 0 && err->kind == PLIM_ERR_MEMORY && run.refusal.valid)
        send_refusal(output, &run.refusal, &unsent);
    case_release(&run.report);
    return rc;
}

/* Files that arguments name, found and made absolute. */
static int settle_files(struct case_request *request, struct plim_err *err)
{
    for (const struct argument_row *row = request->workload->arguments; row->name; row++) {
        const char *name = argument_text(&request->arguments, row->name);
        char *found = NULL, *path = NULL;
        int rc = 0;

        if (row->type != ARGUMENT_FILE || !*name)
            continue;
        found = share_locate(name, err);
        path = found ? realpath(found, NULL) : NULL;
        if (path)
            rc = facts_set_text(&request->arguments, row->name, path, err);
        else
            rc = found ? plim_err_input(err, "%s: there is no file %s", row->name, name) : -1;
        free(found);
        free(path);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/*
 * Goes to the model's directory and calls it ".". The engine keeps paths in its metadata, and requested bytes must be the
 * same wherever the models are.
 */
static int enter_model_directory(struct case_request *request, struct plim_err *err)
{
    if (!request->model_directory)
        return 0;
    if (chdir(request->model_directory) < 0)
        return plim_err_errno(err, "model %s", request->model_directory);
    return result_set_string(&request->model_directory, ".", err);
}

static int run_all(const struct case_request *request, int output, uint64_t *work_ns, struct plim_err *err)
{
    struct references references = { 0 };
    int total = request->warmup + request->repeats, rc = 0;

    for (int i = 0; i < total && rc == 0; i++) {
        rc = send_progress(output, i, total, err);
        if (rc == 0)
            rc = run_once(request, &references, i - request->warmup, output, work_ns, err);
    }
    references_close(&references);
    return rc;
}

static int serve_case(struct case_request *request, int output, uint64_t *work_ns, struct plim_err *err)
{
    char *model = request->model_directory ? heap_strdup(request->model_directory, err) : NULL;
    int rc = -1;

    if (request->model_directory && !model)
        return -1;
    if (settle_files(request, err) == 0 && enter_model_directory(request, err) == 0)
        rc = run_all(request, output, work_ns, err);
    if (rc < 0 && model && err->kind == PLIM_ERR_INPUT)   /* "./config.json" tells nobody where */
        plim_err_wrap(err, "in %s", model);
    free(model);
    return rc;
}

/* ---- the machine ---- */

static int serve_machine(bool with_yardsticks, int output, struct plim_err *err)
{
    struct facts machine = { 0 }, recorded = { 0 }, yardsticks = { 0 };
    int rc = -1;

    if (fingerprint_machine(&machine, err) < 0 || fingerprint_recorded(&recorded, err) < 0 ||
        send_facts(output, SECTION_MACHINE, &machine, err) < 0 ||
        send_facts(output, SECTION_RECORDED, &recorded, err) < 0)
        goto out;
    if (with_yardsticks && (yardsticks_measure(&yardsticks, err) < 0 ||
                            send_facts(output, SECTION_YARDSTICKS, &yardsticks, err) < 0))
        goto out;
    rc = 0;

out:
    facts_release(&machine);
    facts_release(&recorded);
    facts_release(&yardsticks);
    return rc;
}

int worker_serve(int input, int output)
{
    struct plim_err err = PLIM_ERR_INIT, unsent = PLIM_ERR_INIT;
    struct request request = { 0 };
    struct message last = { .kind = MESSAGE_DONE };
    char *line = NULL;
    size_t length = 0;
    int rc = -1;

    if (send_hello(output, &unsent) < 0)
        goto out;
    line = read_line(input, &length, &err);
    if (line && request_parse(&request, line, length, &err) == 0)
        rc = request.kind == REQUEST_CASE ? serve_case(&request.run, output, &last.work_ns, &err)
                                          : serve_machine(request.yardsticks, output, &err);
    if (rc < 0)
        last = (struct message){ .kind = MESSAGE_ERROR, .error = err.kind, .text = err.message };
    rc = send(output, &last, &unsent);

out:
    request_release(&request);
    free(line);
    if (rc < 0)
        fprintf(stderr, "plimsoll worker: %s\n", unsent.message);
    return rc < 0 ? 1 : 0;
}
