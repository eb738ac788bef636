/*
 * The real executor: a worker process for each request.
 *
 * Everything that can go wrong with the process is the case's outcome, not ours: it may crash, hang, write nonsense, or
 * end without a word.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executor.h"
#include "heap.h"
#include "interrupt.h"
#include "plimsoll/clock.h"
#include "plimsoll/process.h"
#include "plimsoll/units.h"
#include "scratch.h"

#define MACHINE_TIMEOUT_NS ((uint64_t)300 * 1000000000)   /* seconds when quiet; much more on a crowded machine */
#define LAST_WORDS 2000   /* how much of a worker's standard error is kept: the end */

enum ending { ENDING_EXIT, ENDING_TIMEOUT, ENDING_INTERRUPTED, ENDING_MALFORMED };

struct session {
    struct plim_process process;
    struct conversation *conversation;
    const struct execution *execution;
    char *line;                     /* bytes received, up to an unfinished line */
    size_t line_bytes, line_capacity;
    char last_words[LAST_WORDS + 1];
    size_t last_words_bytes;
    uint64_t deadline_ns;
    enum ending ending;
    struct plim_err malformed;      /* what was wrong with a line */
    struct plim_process_exit exit;
};

/* ---- input ---- */

static int take_lines(struct session *s, struct plim_err *err)
{
    size_t start = 0;
    char *newline;

    while ((newline = memchr(s->line + start, '\n', s->line_bytes - start))) {
        struct conversation *c = s->conversation;
        const struct execution *execution = s->execution;

        if (conversation_line(c, s->line + start, (size_t)(newline - s->line) - start, err) < 0)
            return -1;
        start = (size_t)(newline - s->line) + 1;
        if (execution && execution->progress && c->progress)
            execution->progress(execution->progress_context, c->done, c->total, c->progress);
    }
    memmove(s->line, s->line + start, s->line_bytes - start);
    s->line_bytes -= start;
    return 0;
}

/* Reads what is there. Returns 0 at the end of the stream, 1 otherwise, -1 with `err` when a line is bad. */
static int read_messages(struct session *s, struct plim_err *err)
{
    ssize_t got;

    if (s->line_capacity - s->line_bytes < 4096) {
        size_t capacity = s->line_capacity ? 2 * s->line_capacity : 65536;
        char *grown = capacity <= 2 * PROTOCOL_LINE_LIMIT ? realloc(s->line, capacity) : NULL;

        if (!grown)
            return plim_err_input(err, "a line longer than %zu bytes", s->line_bytes);
        s->line = grown;
        s->line_capacity = capacity;
    }
    got = read(s->process.from_child, s->line + s->line_bytes, s->line_capacity - s->line_bytes);
    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : plim_err_errno(err, "reading from the worker");
    if (got == 0)
        return 0;
    s->line_bytes += (size_t)got;
    return take_lines(s, err) < 0 ? -1 : 1;
}

static int read_last_words(struct session *s)
{
    char chunk[4096];
    ssize_t got = read(s->process.errors_of_child, chunk, sizeof chunk);
    size_t keep, add;

    if (got < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : 0;
    if (got == 0)
        return 0;
    add = plim_min((size_t)got, LAST_WORDS);
    keep = plim_min(s->last_words_bytes, LAST_WORDS - add);
    memmove(s->last_words, s->last_words + s->last_words_bytes - keep, keep);
    memcpy(s->last_words + keep, chunk + (size_t)got - add, add);
    s->last_words_bytes = keep + add;
    s->last_words[s->last_words_bytes] = '\0';
    return 1;
}

static int poll_timeout_ms(uint64_t deadline_ns)
{
    uint64_t now_ns = plim_now_ns();

    if (now_ns >= deadline_ns)
        return 0;
    return (int)plim_min((size_t)((deadline_ns - now_ns) / 1000000 + 1), 3600 * 1000);
}

/* Listens until the worker has closed its pipes, breaks the protocol, or its time is over. */
static enum ending listen_to(struct session *s)
{
    bool messages_open = true, errors_open = true;

    while (messages_open || errors_open) {
        struct pollfd fds[3] = {
            { .fd = messages_open ? s->process.from_child : -1, .events = POLLIN },
            { .fd = errors_open ? s->process.errors_of_child : -1, .events = POLLIN },
            { .fd = interrupt_fd(), .events = POLLIN },
        };
        int rc = poll(fds, 3, poll_timeout_ms(s->deadline_ns));

        if (interrupt_requested())
            return ENDING_INTERRUPTED;
        if (rc < 0 && errno != EINTR)
            break;
        if (rc > 0 && fds[0].revents) {
            int state = read_messages(s, &s->malformed);

            if (state < 0)
                return ENDING_MALFORMED;
            messages_open = state > 0;
        }
        if (rc > 0 && fds[1].revents)
            errors_open = read_last_words(s) > 0;
        if (plim_now_ns() >= s->deadline_ns)
            return ENDING_TIMEOUT;
    }
    return ENDING_EXIT;
}

/* ---- one worker ---- */

/* A worker that died before reading makes this fail with EPIPE; how it died is told elsewhere. */
static void send_request(struct session *s, const char *request)
{
    size_t left = strlen(request);

    while (left) {
        ssize_t put = write(s->process.to_child, request, left);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            break;
        request += put;
        left -= (size_t)put;
    }
    close(s->process.to_child);
    s->process.to_child = -1;
}

static int converse(struct session *s, const struct process_executor *processes, const char *request,
                    const char *const *environment, struct plim_err *err)
{
    const char *const argv[] = { processes->program, "worker", NULL };
    struct plim_process_options options = { .argv = argv, .environment = environment };

    if (plim_process_start(&s->process, &options, err) < 0)
        return -1;
    fcntl(s->process.from_child, F_SETFL, O_NONBLOCK);
    fcntl(s->process.errors_of_child, F_SETFL, O_NONBLOCK);
    send_request(s, request);
    s->ending = listen_to(s);
    /* A worker that closed its pipes but does not end gets what is left of its time. */
    if (s->ending == ENDING_EXIT) {
        uint64_t now_ns = plim_now_ns();

        if (!plim_process_ended_within(&s->process, s->deadline_ns > now_ns ? s->deadline_ns - now_ns : 0))
            s->ending = ENDING_TIMEOUT;
    }
    if (s->ending != ENDING_EXIT)
        plim_process_signal(&s->process, SIGKILL);
    if (plim_process_wait(&s->process, &s->exit, err) < 0)
        return -1;
    if (s->ending != ENDING_EXIT || s->exit.signaled)
        scratch_sweep();
    if (s->ending == ENDING_INTERRUPTED)
        return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
    return 0;
}

static void session_release(struct session *s)
{
    plim_process_release(&s->process);
    free(s->line);
}

/* ---- outcomes ---- */

static int set_outcome(struct result_case *out, enum outcome outcome, char *detail, struct plim_err *err)
{
    int rc = detail ? result_set_string(&out->detail, detail, err) : -1;

    out->outcome = outcome;
    free(detail);
    return rc;
}

/* The last line that says something: where sanitizers and libraries put their summary. */
static const char *last_line(char *text)
{
    char *end = text + strlen(text), *start;

    while (end > text && (end[-1] == '\n' || end[-1] == '\r' || end[-1] == ' '))
        *--end = '\0';
    start = strrchr(text, '\n');
    return start ? start + 1 : text;
}

static int crashed(struct session *s, struct result_case *out, struct plim_err *err)
{
    const char *words = last_line(s->last_words);
    const char *hint = s->exit.status == SIGKILL ? "; the system may have run out of memory" : "";

    return set_outcome(out, OUTCOME_CRASHED,
                       heap_printf(err, "signal %d (%s)%s%s%s", s->exit.status, strsignal(s->exit.status), hint,
                                   *words ? ": " : "", words), err);
}

static int timed_out(struct session *s, struct result_case *out, struct plim_err *err)
{
    const struct conversation *c = s->conversation;

    return set_outcome(out, OUTCOME_TIMEOUT,
                       heap_printf(err, "killed after %g s%s%s", (double)s->execution->timeout_ns / 1e9,
                                   c->progress ? ", in " : "", c->progress ? c->progress : ""), err);
}

static int decide_outcome(struct session *s, struct result_case *out, struct plim_err *err)
{
    struct conversation *c = s->conversation;
    struct plim_err unequal = PLIM_ERR_INIT;

    if (s->ending == ENDING_TIMEOUT)
        return timed_out(s, out, err);
    if (s->ending == ENDING_MALFORMED)
        return set_outcome(out, OUTCOME_FAILED, heap_printf(err, "bad output of the worker: %s", s->malformed.message),
                           err);
    if (s->exit.signaled)
        return crashed(s, out, err);
    if (c->ended && c->failed)
        return set_outcome(out, c->error == PLIM_ERR_MEMORY && out->refusal.count ? OUTCOME_OUT_OF_MEMORY
                                                                                  : OUTCOME_FAILED,
                           heap_strdup(c->text ? c->text : "", err), err);
    if (!c->ended || s->exit.status != 0) {
        const char *words = last_line(s->last_words);

        return set_outcome(out, OUTCOME_FAILED,
                           heap_printf(err, "the worker ended %s, exit status %d%s%s",
                                       c->ended ? "badly" : "without a result", s->exit.status, *words ? ": " : "",
                                       words), err);
    }
    if (report_check_exact(out, &unequal) < 0)
        return set_outcome(out, OUTCOME_FAILED, heap_strdup(unequal.message, err), err);
    return set_outcome(out, OUTCOME_OK, heap_strdup("", err), err);
}

/* ---- what must be known before the worker loads its libraries ---- */

struct environment {
    char core[64], threads[48], loading[48];
    const char *entries[4];
};

static int fill_environment(struct environment *e, const struct plim_parameters *set, struct plim_err *err)
{
    struct plim_parameters resolved = *set;
    size_t count = 0;

    if (plim_parameters_resolve(&resolved, err) < 0)
        return -1;
    *e = (struct environment){ 0 };
    if (*resolved.text[PLIM_BLAS_CORE]) {
        snprintf(e->core, sizeof e->core, "OPENBLAS_CORETYPE=%s", resolved.text[PLIM_BLAS_CORE]);
        e->entries[count++] = e->core;
    }
    /* Otherwise OpenBLAS starts a thread for every core of the machine as it loads. */
    snprintf(e->threads, sizeof e->threads, "OPENBLAS_NUM_THREADS=%lld", (long long)resolved.count[PLIM_CPU_THREADS]);
    e->entries[count++] = e->threads;
    if (resolved.count[PLIM_CUDA_MODULE_LOADING] != PLIM_CUDA_UNSET) {
        snprintf(e->loading, sizeof e->loading, "CUDA_MODULE_LOADING=%s",
                 resolved.count[PLIM_CUDA_MODULE_LOADING] == PLIM_CUDA_EAGER ? "EAGER" : "LAZY");
        e->entries[count++] = e->loading;
    }
    return 0;
}

/* ---- the interface ---- */

static int add_harness_time(struct result_case *out, uint64_t spent_ns, const struct conversation *c,
                            struct plim_err *err)
{
    struct metric *metric;

    if (out->outcome != OUTCOME_OK)
        return 0;
    metric = case_add_metric(out, "harness_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, err);
    if (!metric)
        return -1;
    return metric_add_sample(metric, (double)(spent_ns > c->work_ns ? spent_ns - c->work_ns : 0), err);
}

static int run_case(void *context, const struct case_request *request, const struct execution *execution,
                    struct result_case *out, struct plim_err *err)
{
    const struct process_executor *processes = context;
    uint64_t start_ns = plim_now_ns();
    struct conversation conversation = { .report = out };
    struct session s = { .process = PLIM_PROCESS_INIT, .conversation = &conversation, .execution = execution,
                         .deadline_ns = start_ns + execution->timeout_ns };
    struct environment environment;
    char *line = request_format_case(request, err), *text = NULL;
    int rc = -1;

    if (!line || !(text = heap_printf(err, "%s\n", line)) ||
        fill_environment(&environment, &request->parameters, err) < 0 ||
        converse(&s, processes, text, environment.entries, err) < 0 || decide_outcome(&s, out, err) < 0)
        goto out;
    /* Only where there is nothing else to measure: beside real work it would be one more noisy number. */
    if (!request->workload->uses_engine && add_harness_time(out, plim_now_ns() - start_ns, &conversation, err) < 0)
        goto out;
    rc = 0;

out:
    session_release(&s);
    conversation_release(&conversation);
    free(line);
    free(text);
    return rc;
}

static int describe_machine(void *context, bool yardsticks, struct result *out, struct plim_err *err)
{
    struct conversation conversation = { .machine = out };
    struct execution execution = { .timeout_ns = MACHINE_TIMEOUT_NS };
    struct session s = { .process = PLIM_PROCESS_INIT, .conversation = &conversation, .execution = &execution,
                         .deadline_ns = plim_now_ns() + MACHINE_TIMEOUT_NS };
    struct result_case outcome = { 0 };
    char *line = request_format_machine(yardsticks, err), *text = NULL;
    int rc = -1;

    if (!line || !(text = heap_printf(err, "%s\n", line)) || converse(&s, context, text, NULL, err) < 0 ||
        decide_outcome(&s, &outcome, err) < 0)
        goto out;
    if (conversation.failed && conversation.error == PLIM_ERR_INPUT)
        plim_err_input(err, "%s", outcome.detail);
    else if (outcome.outcome != OUTCOME_OK)
        plim_err_set(err, PLIM_ERR_SYSTEM, "describing this machine: %s: %s", outcome_name(outcome.outcome),
                     outcome.detail);
    else
        rc = 0;

out:
    case_release(&outcome);
    session_release(&s);
    conversation_release(&conversation);
    free(line);
    free(text);
    return rc;
}

struct executor process_executor(struct process_executor *processes)
{
    signal(SIGPIPE, SIG_IGN);   /* a worker that died before it read its request is an outcome, not our end */
    return (struct executor){ .run_case = run_case, .describe_machine = describe_machine, .context = processes };
}
