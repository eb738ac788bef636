#include "selftest.h"

#include <stdlib.h>
#include <string.h>

#include "ab_control.h"
#include "heap.h"
#include "interrupt.h"
#include "plimsoll/progress.h"
#include "proportion.h"
#include "simulated.h"

#define FALSE_ALARMS_PROMISED 0.01
#define POWER_PROMISED 0.80
#define POWER_SLOWDOWN 0.05
#define LEVEL 0.95

struct plant {
    double slowdown;
    uint64_t extra_bytes;
    bool brief;
};

static const struct plant plants[] = {
    { 0, 0, true },     { 0.01, 0, false }, { 0.02, 0, false },    { 0.03, 0, false },
    { 0.05, 0, true },  { 0.10, 0, true },  { 0, 4096, true },
};

/* ---- the suite ---- */

static int make_suite(struct suite *suite, size_t cases, struct plim_err *err)
{
    char text[512];

    snprintf(text, sizeof text,
             "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"selftest\","
             "  \"defaults\": { \"repeats\": 15, \"warmup\": 1, \"timeout_s\": 60 },"
             "  \"cases\": [ { \"name\": \"spin\", \"workload\": { \"kind\": \"spin\", \"steps\": \"500K\" },"
             "                 \"sweep\": { \"dq_rows\": { \"from\": 1, \"to\": %zu, \"step\": 1 } } } ] }", cases);
    return suite_parse(suite, "selftest", text, strlen(text), err);
}

/* ---- planting in one case ---- */

struct saboteur {
    struct planting planting;
    const char *id;          /* of the case */
};

static int run_sabotaged(void *context, const struct case_request *request, const struct execution *execution,
                         struct result_case *out, struct plim_err *err)
{
    struct saboteur *s = context;
    struct executor planted = planting_executor(&s->planting);

    if (strcmp(request->id, s->id) == 0)
        return planted.run_case(planted.context, request, execution, out, err);
    return s->planting.inner.run_case(s->planting.inner.context, request, execution, out, err);
}

/* ---- one trial ---- */

struct trial {
    const struct selftest_options *options;
    const struct suite *suite;
    const struct plant *plant;
    const struct ab_watch *watch;
    struct executor machine;
    size_t number;
};

static bool is_planted(const struct plant *plant)
{
    return plant->slowdown > 0 || plant->extra_bytes;
}

static void count_planted(struct selftest_row *row, const struct ab_report *report, const char *id)
{
    for (size_t i = 0; i < report->comparison.finding_count; i++) {
        const struct finding *f = &report->comparison.findings[i];
        bool timing = f->class == METRIC_TIMING;

        if (!f->result || strcmp(f->result_case->id, id) != 0)
            continue;
        if (row->extra_bytes ? strcmp(f->result->name, "peak_requested_fast_bytes") != 0 : !timing)
            continue;
        row->found += f->verdict == VERDICT_FAIL;
        row->warned += f->verdict == VERDICT_WARN;
        row->passed += f->verdict == VERDICT_PASS;
        row->inconclusive += f->verdict == VERDICT_INCONCLUSIVE;
    }
}

static void count_trial(struct selftest_row *row, const struct ab_report *report, const struct plant *plant,
                        const char *id)
{
    size_t pairs = 0;
    bool alarm = false;

    for (size_t i = 0; i < report->comparison.finding_count; i++) {
        const struct finding *f = &report->comparison.findings[i];

        alarm |= (f->verdict == VERDICT_FAIL || f->verdict == VERDICT_BROKEN) &&
                 !(is_planted(plant) && strcmp(f->result_case->id, id) == 0);
    }
    for (size_t i = 0; i < report->case_count; i++)
        pairs += report->cases[i].stages[AB_SCREEN].count + report->cases[i].stages[AB_CONFIRM].count;
    row->trials++;
    row->alarms += alarm;
    row->controls_missed += !ab_controls_caught(report);
    row->pairs_a_case += (double)pairs / (double)report->case_count;
    if (is_planted(plant))
        count_planted(row, report, id);
}

static int run_trial(const struct trial *trial, struct selftest_row *row, struct plim_err *err)
{
    const char *id = trial->suite->cases[trial->number % trial->suite->case_count].id;
    struct saboteur saboteur = { { trial->machine, { trial->plant->slowdown, trial->plant->extra_bytes } }, id };
    struct executor sabotaged = trial->machine;
    struct executor sides[AB_SIDES];
    struct ab_options options = { .rules = ab_rules_default(), .seed = trial->options->seed + trial->number,
                                  .watch = trial->watch, .control = trial->machine, .budget_ns = UINT64_MAX / 4 };
    struct ab_report report;
    int rc;

    sabotaged.run_case = run_sabotaged;
    sabotaged.context = &saboteur;
    sides[AB_A] = trial->machine;
    sides[AB_B] = sabotaged;
    rc = ab_run(trial->suite, sides, &options, &report, err);
    if (rc == 0)
        count_trial(row, &report, trial->plant, id);
    ab_release(&report);
    return rc;
}

/* ---- all trials ---- */

static int run_row(const struct selftest_options *options, const struct suite *suite, const struct noise_model *model,
                   const struct plant *plant, struct selftest_row *row, struct plim_err *err)
{
    struct process_executor processes = { .program = options->program };
    struct machine_watch state;
    struct ab_watch watch = machine_watch(&state);
    struct simulated simulated = { .runs = 0 };
    struct plim_progress progress;
    char title[80];
    int rc = 0;

    *row = (struct selftest_row){ .machine = model ? model->name : "this machine", .slowdown = plant->slowdown,
                                  .extra_bytes = plant->extra_bytes };
    snprintf(title, sizeof title, "%s, %g%% and %llu bytes planted", row->machine, 100 * plant->slowdown,
             (unsigned long long)plant->extra_bytes);
    plim_progress_start(&progress, options->progress, title, "trials", options->trials);
    for (size_t i = 0; i < options->trials && rc == 0; i++) {
        struct trial trial = { options, suite, plant, model ? NULL : &watch, { 0 }, i };

        if (interrupt_requested())
            rc = plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
        if (model)
            noise_start(&simulated.noise, model, options->seed, i);
        trial.machine = model ? simulated_executor(&simulated) : process_executor(&processes);
        plim_progress_update(&progress, i, NULL);
        if (rc == 0)
            rc = run_trial(&trial, row, err);
    }
    plim_progress_finish(&progress);
    row->pairs_a_case /= row->trials ? (double)row->trials : 1;
    return rc;
}

static int run_rows(const struct selftest_options *options, const struct suite *suite, const struct noise_model *model,
                    struct selftest *out, struct plim_err *err)
{
    for (size_t i = 0; i < sizeof plants / sizeof plants[0]; i++) {
        if (options->brief && !plants[i].brief)
            continue;
        if (run_row(options, suite, model, &plants[i], &out->rows[out->row_count], err) < 0)
            return -1;
        out->row_count++;
    }
    return 0;
}

int selftest_gate(const struct selftest_options *options, struct selftest *out, struct plim_err *err)
{
    struct suite suite = { 0 };
    int rc;

    *out = (struct selftest){ .row_count = 0 };
    rc = make_suite(&suite, options->cases, err);
    for (const struct noise_model *model = noise_models; model->name && rc == 0 && !options->program; model++)
        rc = run_rows(options, &suite, model, out, err);
    if (rc == 0 && options->program)
        rc = run_rows(options, &suite, NULL, out, err);
    suite_release(&suite);
    return rc;
}

/* ---- promises ---- */

static bool is_calm(const struct selftest_row *row)
{
    return strcmp(row->machine, "quiet") == 0 || strcmp(row->machine, "shared") == 0;
}

static bool row_keeps_promises(const struct selftest_row *row, char *broken, size_t size)
{
    struct interval alarms = proportion(row->alarms, row->trials, LEVEL);
    struct interval found = proportion(row->found, row->trials, LEVEL);
    struct interval missed = proportion(row->controls_missed, row->trials, LEVEL);

    if (alarms.low > FALSE_ALARMS_PROMISED)
        snprintf(broken, size, "%s: false alarms in %zu of %zu suites", row->machine, row->alarms, row->trials);
    else if (row->extra_bytes && row->found < row->trials)
        snprintf(broken, size, "%s: a page found in only %zu of %zu suites", row->machine, row->found, row->trials);
    else if (is_calm(row) && row->slowdown >= POWER_SLOWDOWN && found.high < POWER_PROMISED)
        snprintf(broken, size, "%s: %g%% found in only %zu of %zu suites", row->machine, 100 * row->slowdown,
                 row->found, row->trials);
    else if (is_calm(row) && missed.low > 0.001)
        snprintf(broken, size, "%s: controls missed in %zu of %zu suites", row->machine, row->controls_missed,
                 row->trials);
    else
        return true;
    return false;
}

bool selftest_keeps_promises(const struct selftest *selftest, char *broken, size_t size)
{
    for (size_t i = 0; i < selftest->row_count; i++)
        if (selftest->rows[i].trials && !row_keeps_promises(&selftest->rows[i], broken, size))
            return false;
    return true;
}
