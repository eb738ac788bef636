#include "runner.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fingerprint.h"
#include "heap.h"
#include "interrupt.h"
#include "model_store.h"
#include "plimsoll/clock.h"
#include "plimsoll/progress.h"
#include "plimsoll/units.h"

bool runner_expects(const struct suite *suite, const struct result_case *c)
{
    for (size_t i = 0; suite && i < suite->case_count; i++)
        if (strcmp(suite->cases[i].id, c->id) == 0)
            return c->outcome == suite->cases[i].expect;
    return c->outcome == OUTCOME_OK;
}

size_t runner_unexpected(const struct suite *suite, const struct result *result)
{
    size_t count = 0;

    for (size_t i = 0; i < suite->case_count; i++) {
        const struct result_case *c = result_find_case(result, suite->cases[i].id);

        count += c && c->outcome != suite->cases[i].expect;
    }
    return count;
}

/* ---- the run's own facts ---- */

static int set_start(struct result *result, struct plim_err *err)
{
    time_t now = time(NULL);
    struct tm utc;
    char text[40];

    gmtime_r(&now, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return result_set_string(&result->started_utc, text, err);
}

static bool wants_yardsticks(const struct suite *suite, const struct run_options *options)
{
    bool timed = options->force_yardsticks;

    for (size_t i = 0; i < suite->case_count && !timed; i++)
        timed = case_patterns_match(&options->cases, &suite->cases[i]) && suite->cases[i].workload->timed;
    return timed;
}

static int describe(const struct suite *suite, const struct executor *executor, const struct run_options *options,
                    struct result *result, struct plim_err *err)
{
    char *class;
    int rc;

    if (result_set_string(&result->suite_name, suite->name, err) < 0 ||
        result_set_string(&result->suite_digest, suite->digest, err) < 0 || set_start(result, err) < 0 ||
        executor->describe_machine(executor->context, wants_yardsticks(suite, options), result, err) < 0)
        return -1;
    class = fingerprint_class(&result->machine, err);
    rc = class ? result_set_string(&result->machine_class, class, err) : -1;
    free(class);
    return rc;
}

/* Takes over the cases of an earlier run of the same suite on the same machine. */
static int resume(struct result *result, const char *path, struct plim_err *err)
{
    struct result before = { 0 };
    int rc = -1;

    if (result_read(&before, path, err) < 0)
        return -1;
    if (before.is_baseline)
        plim_err_input(err, "%s is a baseline, not a result that can be continued", path);
    else if (!before.suite_digest || strcmp(before.suite_digest, result->suite_digest) != 0)
        plim_err_input(err, "%s was made by another version of suite %s; run it anew", path,
                       before.suite_name ? before.suite_name : "?");
    else if (!before.machine_class || strcmp(before.machine_class, result->machine_class) != 0)
        plim_err_set(err, PLIM_ERR_COMPARE, "%s was measured on %s, this is %s; run it anew", path,
                     before.machine_class ? before.machine_class : "?", result->machine_class);
    else
        rc = 0;
    if (rc == 0) {
        free(result->started_utc);
        result->started_utc = before.started_utc;
        result->cases = before.cases;
        result->case_count = before.case_count;
        before.started_utc = NULL;
        before.cases = NULL;
        before.case_count = 0;
    }
    result_release(&before);
    return rc;
}

/* ---- one case ---- */

struct run {
    const struct suite *suite;
    const struct executor *executor;
    const struct run_options *options;
    struct result *result;
    struct plim_progress progress;
    size_t runs_done;         /* repeats and warm-ups of the cases before this one; what the progress counts */
    size_t cases_done, case_count;
    const char *id;           /* of the case that runs */
    uint64_t synced_ns;       /* when the result was last known to be on the disk */
};

static size_t runs_of(const struct run *run, const struct suite_case *c)
{
    return (size_t)(c->warmup + (run->options->repeats ? run->options->repeats : c->repeats));
}

static void on_progress(void *context, int64_t done, int64_t total, const char *text)
{
    struct run *run = context;

    (void)total;
    (void)text;
    plim_progress_update(&run->progress, run->runs_done + (size_t)done, run->id);
}

static int copy_facts(struct facts *to, const struct facts *from, struct plim_err *err)
{
    for (size_t i = 0; i < from->count; i++)
        if ((from->items[i].text ? facts_set_text(to, from->items[i].name, from->items[i].text, err)
                                 : facts_set_number(to, from->items[i].name, from->items[i].number, err)) < 0)
            return -1;
    return 0;
}

/* Every parameter as it was in force, so that a result can be read without the program that made it. */
static int record_parameters(struct result_case *out, const struct plim_parameters *set, struct plim_err *err)
{
    struct plim_parameters resolved = *set;

    if (plim_parameters_resolve(&resolved, err) < 0)
        return -1;
    for (int p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        char text[64];

        plim_parameters_format(&resolved, (enum plim_parameter)p, text, sizeof text);
        if (facts_set_text(&out->parameters, plim_parameter_row((enum plim_parameter)p)->name, text, err) < 0)
            return -1;
    }
    return 0;
}

int runner_describe_case(const struct suite *suite, const struct suite_case *c, struct result_case *out,
                         struct plim_err *err)
{
    const char *model = c->model == SIZE_MAX ? "" : suite->models[c->model].name;

    if (result_set_string(&out->id, c->id, err) < 0 || result_set_string(&out->model, model, err) < 0 ||
        result_set_string(&out->workload, c->workload->name, err) < 0 ||
        copy_facts(&out->arguments, &c->arguments, err) < 0)
        return -1;
    return record_parameters(out, &c->parameters, err);
}

char *runner_trace_path(const char *directory, const char *id, struct plim_err *err)
{
    char *path = heap_printf(err, "%s/%s.trace", directory, id);

    for (char *c = path ? path + strlen(directory) + 1 : NULL; c && *c; c++)
        if (*c == '/')
            *c = '~';
    return path;
}

static int execute(const struct suite *suite, const struct suite_case *c, const struct executor *executor,
                   const struct run_options *options, struct run *run, struct result_case *out, struct plim_err *err)
{
    struct execution execution = { .timeout_ns = (uint64_t)(c->timeout_s * 1e9), .progress = run ? on_progress : NULL,
                                   .progress_context = run };
    struct case_request request = { .workload = c->workload, .parameters = c->parameters, .warmup = c->warmup,
                                    .repeats = options->repeats ? options->repeats : c->repeats };
    int rc = -1;

    if (!(request.id = heap_strdup(c->id, err)) || copy_facts(&request.arguments, &c->arguments, err) < 0)
        goto out;
    if (c->model != SIZE_MAX &&
        !(request.model_directory = model_store_path(&suite->models[c->model], options->models_directory, err)))
        goto out;
    if (options->trace_directory && c->workload->uses_engine &&
        !(request.trace_path = runner_trace_path(options->trace_directory, c->id, err)))
        goto out;
    rc = executor->run_case(executor->context, &request, &execution, out, err);

out:
    case_request_release(&request);
    return rc;
}

/* `run` may be NULL; else its progress is shown. */
static int measure(const struct suite *suite, const struct suite_case *c, const struct executor *executor,
                   const struct run_options *options, struct run *run, struct result_case *out, struct plim_err *err)
{
    if (runner_describe_case(suite, c, out, err) < 0 || execute(suite, c, executor, options, run, out, err) < 0) {
        case_release(out);
        return -1;
    }
    for (size_t i = 0; i < out->metric_count; i++)
        out->metrics[i].gate = suite_gate_of(c, out->metrics[i].name, out->metrics[i].class);
    return 0;
}

int runner_run_case(const struct suite *suite, const struct suite_case *c, const struct executor *executor,
                    const struct run_options *options, struct result_case *out, struct plim_err *err)
{
    return measure(suite, c, executor, options, NULL, out, err);
}

static void report_line(const struct run *run, const struct result_case *c, uint64_t took_ns)
{
    char duration[32];

    if (!run->options->progress || run->progress.terminal)
        return;
    fprintf(run->options->progress, "[%zu/%zu] %s: %s%s%s (%s)\n", run->cases_done, run->case_count, c->id,
            outcome_name(c->outcome), *c->detail ? ": " : "", c->detail,
            plim_format_duration(duration, sizeof duration, took_ns));
}

/* Nothing is added to the result unless the case has an outcome. */
static int run_one(struct run *run, const struct suite_case *c, struct plim_err *err)
{
    struct result_case made = { 0 };
    struct result_case *slot;
    uint64_t start_ns = plim_now_ns();
    int rc = -1;

    run->id = c->id;
    plim_progress_update(&run->progress, run->runs_done, c->id);
    if (measure(run->suite, c, run->executor, run->options, run, &made, err) < 0)
        goto out;
    slot = result_add_case(run->result, c->id, err);
    if (!slot)
        goto out;
    case_release(slot);
    *slot = made;
    made = (struct result_case){ 0 };
    run->cases_done++;
    run->runs_done += runs_of(run, c);
    report_line(run, slot, plim_now_ns() - start_ns);
    rc = 0;

out:
    case_release(&made);
    return rc;
}

/* ---- all of them ---- */

/*
 * Waiting for the disk takes milliseconds to tens of them, more than a small case. Between cases that is done every few
 * seconds only.
 */
#define SYNC_INTERVAL_NS ((uint64_t)5 * 1000000000)

static int save(struct run *run, bool synced, struct plim_err *err)
{
    const char *path = run->options->output;

    if (!path)
        return 0;
    if (!synced && plim_now_ns() - run->synced_ns < SYNC_INTERVAL_NS)
        return result_write_unsynced(run->result, path, err);
    run->synced_ns = plim_now_ns();
    return result_write(run->result, path, err);
}

static bool is_due(const struct run *run, const struct suite_case *c)
{
    return case_patterns_match(&run->options->cases, c) && !result_find_case(run->result, c->id);
}

static void start_progress(struct run *run)
{
    uint64_t runs = 0;
    size_t due = 0;

    for (size_t i = 0; i < run->suite->case_count; i++)
        if (is_due(run, &run->suite->cases[i])) {
            runs += runs_of(run, &run->suite->cases[i]);
            due++;
        }
    run->case_count = case_patterns_count(&run->options->cases, run->suite);
    run->cases_done = run->case_count - due;
    plim_progress_start(&run->progress, run->options->progress, run->suite->name, "runs", runs);
}

static int run_cases(struct run *run, struct plim_err *err)
{
    int rc = 0;

    start_progress(run);
    for (size_t i = 0; i < run->suite->case_count && rc == 0; i++) {
        const struct suite_case *c = &run->suite->cases[i];

        if (!is_due(run, c))
            continue;
        rc = interrupt_requested() ? plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted") : run_one(run, c, err);
        if (rc == 0)
            rc = save(run, false, err);
    }
    plim_progress_finish(&run->progress);
    return rc;
}

int runner_run(const struct suite *suite, const struct executor *executor, const struct run_options *options,
               struct result *result, struct plim_err *err)
{
    uint64_t start_ns = plim_now_ns();
    struct run run = { .suite = suite, .executor = executor, .options = options, .result = result,
                       .synced_ns = start_ns };
    int rc;

    *result = (struct result){ 0 };
    if (describe(suite, executor, options, result, err) < 0 ||
        (options->resume && resume(result, options->resume, err) < 0))
        return -1;
    if (save(&run, false, err) < 0)   /* a disk that is full is found before the work, not after it */
        return -1;
    rc = run_cases(&run, err);
    result->complete = rc == 0 && result->case_count >= suite->case_count;
    if (rc == 0)
        rc = facts_set_number(&result->recorded, "run_seconds", (double)(plim_now_ns() - start_ns) / 1e9, err);
    return rc == 0 ? save(&run, true, err) : -1;
}
