#include "selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ab_control.h"
#include "heap.h"
#include "interrupt.h"
#include "metrics.h"
#include "plimsoll/clock.h"
#include "plimsoll/progress.h"
#include "proportion.h"
#include "runner.h"
#include "simulated.h"

#define FALSE_ALARMS_PROMISED 0.01
#define POWER_PROMISED 0.95
#define POWER_SLOWDOWN 0.05
#define LEVEL 0.95
#define RECORDING_SHARE 0.4    /* of the time limit */
#define RECORDED_PROCESSES 1000
#define SIMULATED_PROCESS_NS 250000000

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
    struct case_patterns cases;
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
    row->seconds_a_case += (double)report->spent_ns / 1e9 / (double)report->case_count;
    if (is_planted(plant))
        count_planted(row, report, id);
}

/* Which case is planted in: another one in each trial. */
static const char *planted_id(const struct trial *trial)
{
    size_t selected = case_patterns_count(&trial->cases, trial->suite), skip = trial->number % selected;

    for (size_t i = 0; i < trial->suite->case_count; i++)
        if (case_patterns_match(&trial->cases, &trial->suite->cases[i]) && skip-- == 0)
            return trial->suite->cases[i].id;
    return "";
}

static int run_trial(const struct trial *trial, struct selftest_row *row, struct plim_err *err)
{
    const char *id = planted_id(trial);
    struct saboteur saboteur = { { trial->machine, { trial->plant->slowdown, trial->plant->extra_bytes } }, id };
    struct executor sabotaged = trial->machine;
    struct executor sides[AB_SIDES];
    struct ab_options options = { .rules = ab_rules_default(), .seed = trial->options->seed + trial->number,
                                  .watch = trial->watch, .control = trial->machine,
                                  .cases = trial->cases,
                                  .models_directory = trial->options->models_directory };
    struct ab_report report;
    int rc;

    if (interrupt_requested())
        return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
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

static struct selftest_row *add_row(struct selftest *out, const char *machine, const struct plant *plant)
{
    struct selftest_row *row = &out->rows[out->row_count++];

    *row = (struct selftest_row){ .machine = machine, .slowdown = plant->slowdown, .extra_bytes = plant->extra_bytes };
    return row;
}

static void average(struct selftest_row *row)
{
    double trials = row->trials ? (double)row->trials : 1;

    row->pairs_a_case /= trials;
    row->seconds_a_case /= trials;
}

/* ---- simulated and replayed machines ---- */

/* `model` NULL: replays what was recorded. */
static int run_simulated(const struct selftest_options *options, const struct suite *suite,
                         const struct noise_model *model, const struct selftest *recorded, const struct plant *plant,
                         struct selftest_row *row, struct plim_err *err)
{
    struct simulated simulated = { .process_ns = model ? SIMULATED_PROCESS_NS : (uint64_t)(1e9 * recorded->process_s) };
    struct plim_progress progress;
    char title[80];
    int rc = 0;

    snprintf(title, sizeof title, "%s, %g%% and %llu bytes planted", row->machine, 100 * plant->slowdown,
             (unsigned long long)plant->extra_bytes);
    plim_progress_start(&progress, options->progress, title, "trials", options->trials);
    for (size_t i = 0; i < options->trials && rc == 0; i++) {
        struct trial trial = { options, suite, { .count = 0 }, plant, NULL, simulated_executor(&simulated), i };

        if (model)
            noise_start(&simulated.noise, model, options->seed, i);
        else
            noise_replay(&simulated.noise, recorded->recorded, recorded->recorded_count, options->seed, i);
        plim_progress_update(&progress, i, NULL);
        plim_clock_replace(simulated_now_ns, &simulated);
        rc = run_trial(&trial, row, err);
        plim_clock_replace(NULL, NULL);
    }
    plim_progress_finish(&progress);
    average(row);
    return rc;
}

static int run_rows(const struct selftest_options *options, const struct suite *suite, const struct noise_model *model,
                    struct selftest *out, struct plim_err *err)
{
    for (size_t i = 0; i < sizeof plants / sizeof plants[0]; i++) {
        if (options->brief && !plants[i].brief)
            continue;
        if (run_simulated(options, suite, model, out, &plants[i],
                          add_row(out, model ? model->name : "replayed", &plants[i]), err) < 0)
            return -1;
    }
    return 0;
}

/* ---- this machine ---- */

struct clock_budget {
    uint64_t start_ns;
    double limit_s;              /* 0: none */
};

static bool is_over(const struct clock_budget *budget, double share)
{
    return budget->limit_s > 0 && (double)(plim_now_ns() - budget->start_ns) / 1e9 >= share * budget->limit_s;
}

/* The logarithm of one process's timing; NaN where there was none. */
static int record_one(const struct suite *suite, const struct suite_case *c, const struct executor *machine,
                      const struct selftest_options *options, int repeats, double *value, struct plim_err *err)
{
    struct run_options run = { .models_directory = options->models_directory, .repeats = repeats };
    struct result_case made = { 0 };
    const struct metric *metric;

    if (runner_run_case(suite, c, machine, &run, &made, err) < 0)
        return -1;
    metric = case_headline(&made);
    *value = made.outcome == OUTCOME_OK && metric && metric->class == METRIC_TIMING && metric_median(metric) > 0
                 ? log(metric_median(metric)) * (metric->direction == DIRECTION_HIGHER ? -1 : 1)
                 : NAN;
    if (isnan(*value))
        plim_err_input(err, "case %s has no timing: %s", c->id, *made.detail ? made.detail : outcome_name(made.outcome));
    case_release(&made);
    return isnan(*value) ? -1 : 0;
}

/*
 * A process after another, of the first case, as A/B runs start them: what this machine does to a timing, each in the wake of
 * those before. The first one only shows how often it is to be repeated.
 */
static int record(const struct selftest_options *options, const struct suite *suite, const struct executor *machine,
                  const struct clock_budget *budget, struct selftest *out, struct plim_err *err)
{
    const struct suite_case *c = suite->cases;
    struct plim_progress progress;
    uint64_t start_ns = plim_now_ns();
    double middle;
    int repeats, rc;

    while (!case_patterns_match(&options->real_cases, c))
        c++;
    rc = record_one(suite, c, machine, options, 0, &middle, err);
    repeats = ab_repeats(c, plim_now_ns() - start_ns);
    start_ns = plim_now_ns();
    plim_progress_start(&progress, options->progress, "recording this machine", "processes", SELFTEST_RECORD_LIMIT);
    while (rc == 0 && out->recorded_count < SELFTEST_RECORD_LIMIT && !is_over(budget, RECORDING_SHARE)) {
        if (budget->limit_s <= 0 && out->recorded_count >= RECORDED_PROCESSES)
            break;
        plim_progress_update(&progress, out->recorded_count, c->id);
        rc = interrupt_requested() ? plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted")
                                   : record_one(suite, c, machine, options, repeats, &out->recorded[out->recorded_count], err);
        if (rc == 0)
            out->recorded_count++;
    }
    plim_progress_finish(&progress);
    if (out->recorded_count)
        out->process_s = (double)(plim_now_ns() - start_ns) / 1e9 / (double)out->recorded_count;
    middle = median(out->recorded, out->recorded_count);
    for (size_t i = 0; i < out->recorded_count; i++)
        out->recorded[i] -= middle;
    return rc;
}

/* All plants take turns, so that a time limit leaves as many trials to each. */
static int run_real(const struct selftest_options *options, const struct suite *suite, const struct executor *machine,
                    const struct clock_budget *budget, struct selftest *out, struct plim_err *err)
{
    enum { PLANTS = sizeof plants / sizeof plants[0] };
    struct machine_watch state;
    struct ab_watch watch = machine_watch(&state);
    struct selftest_row *rows[PLANTS] = { NULL };
    struct plim_progress progress;
    size_t done = 0;
    int rc = 0;

    for (size_t k = 0; k < PLANTS; k++)
        if (!options->brief || plants[k].brief)
            rows[k] = add_row(out, "this machine", &plants[k]);
    plim_progress_start(&progress, options->progress, "this machine", "trials", 0);
    for (size_t i = 0; rc == 0 && i < options->machine_trials && !is_over(budget, 1); i++)
        for (size_t k = 0; k < PLANTS && rc == 0 && !is_over(budget, 1); k++) {
            struct trial trial = { options, suite, options->real_cases, &plants[k], &watch, *machine, i };

            if (!rows[k])
                continue;
            plim_progress_update(&progress, done++, NULL);
            rc = run_trial(&trial, rows[k], err);
        }
    plim_progress_finish(&progress);
    for (size_t k = 0; k < PLANTS; k++)
        if (rows[k])
            average(rows[k]);
    return rc;
}

static int test_machine(const struct selftest_options *options, const struct suite *simulated, struct selftest *out,
                        struct plim_err *err)
{
    struct clock_budget budget = { plim_now_ns(), options->time_s };
    struct process_executor processes = { .program = options->program };
    struct executor machine = process_executor(&processes);
    struct suite spins = { 0 };
    const struct suite *suite = options->suite ? options->suite : &spins;
    int rc = options->suite ? 0 : make_suite(&spins, options->machine_cases, err);

    if (rc == 0)
        rc = record(options, suite, &machine, &budget, out, err);
    if (rc == 0 && out->recorded_count)
        rc = run_rows(options, simulated, NULL, out, err);
    if (rc == 0)
        rc = run_real(options, suite, &machine, &budget, out, err);
    suite_release(&spins);
    return rc;
}

int selftest_gate(const struct selftest_options *options, struct selftest *out, struct plim_err *err)
{
    struct suite suite = { 0 };
    int rc;

    out->row_count = out->recorded_count = 0;
    rc = make_suite(&suite, options->cases, err);
    for (const struct noise_model *model = noise_models; model->name && rc == 0 && !options->program; model++)
        rc = run_rows(options, &suite, model, out, err);
    if (rc == 0 && options->program)
        rc = test_machine(options, &suite, out, err);
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
