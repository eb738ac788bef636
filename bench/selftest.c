#include "selftest.h"

#include <stdint.h>
#include <string.h>

#include "ab_control.h"
#include "interrupt.h"
#include "plimsoll/clock.h"
#include "plimsoll/progress.h"
#include "plimsoll/units.h"
#include "proportion.h"
#include "runner.h"
#include "simulated.h"

#define FALSE_ALARMS_PROMISED 0.01
#define POWER_PROMISED 0.95
#define POWER_SLOWDOWN 0.05
#define LEVEL 0.95
#define RECORDING_SHARE 0.3    /* of the time limit: where each part ends */
#define REPLAYED_SHARE 0.7
#define RECORDED_PAIRS 500
#define SIMULATED_PROCESS_NS 250000000

struct plant {
    double slowdown;
    uint64_t extra_bytes;
    bool brief;
};

enum { PLANTS = 7 };

static const struct plant plants[PLANTS] = {
    { 0, 0, true },     { 0.01, 0, false }, { 0.02, 0, false },    { 0.03, 0, false },
    { 0.05, 0, true },  { 0.10, 0, true },  { 0, 4096, true },
};

/* ---- the suite ---- */

static int make_suite(struct suite *suite, size_t cases, struct plim_err *err)
{
    char text[512];

    snprintf(text, sizeof text,
             "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"selftest\","
             "  \"defaults\": { \"parameters\": { \"cpu_threads\": 1 }, \"repeats\": 15, \"warmup\": 1, \"timeout_s\": 60 },"
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

/* ---- trials of all kinds, on one machine ---- */

struct series {
    const struct selftest_options *options;
    const char *machine;                 /* what the rows call it */
    const struct suite *suite;
    struct case_patterns cases;
    const struct noise_model *model;     /* simulated, */
    const struct recording *recording;   /* or else replayed, */
    const struct executor *real;         /* or else really run */
    size_t trials;                       /* of each kind, at most */
    uint64_t end_ns;                     /* nothing begins that would end later */
};

static int run_made_up(const struct series *series, const struct plant *plant, size_t number, struct selftest_row *row,
                       struct plim_err *err)
{
    struct simulated simulated = { .process_ns = SIMULATED_PROCESS_NS };
    struct ab_watch watch = simulated_watch(&simulated);
    struct trial trial = { series->options, series->suite, { .count = 0 }, plant, &watch, simulated_executor(&simulated), number };
    int rc;

    if (series->model)
        noise_start(&simulated.noise, series->model, series->options->seed, number);
    else
        replay_start(&simulated.replay, series->recording, series->options->seed, number);
    plim_clock_replace(simulated_now_ns, &simulated);
    rc = run_trial(&trial, row, err);
    plim_clock_replace(NULL, NULL);
    return rc;
}

static int run_real(const struct series *series, const struct plant *plant, size_t number, struct selftest_row *row,
                    struct plim_err *err)
{
    struct machine_watch state;
    struct ab_watch watch = machine_watch(&state);
    struct trial trial = { series->options, series->suite, series->cases, plant, &watch, *series->real, number };

    return run_trial(&trial, row, err);
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

/* All kinds take turns, so that a time limit leaves as many trials to each. */
static int run_series(const struct series *series, struct selftest *out, struct plim_err *err)
{
    struct selftest_row *rows[PLANTS] = { NULL };
    struct plim_progress progress;
    uint64_t longest_ns = 0;
    bool in_time = true;
    int rc = 0;

    for (size_t k = 0; k < PLANTS; k++)
        if (!series->options->brief || plants[k].brief)
            rows[k] = add_row(out, series->machine, &plants[k]);
    plim_progress_start(&progress, series->options->progress, series->machine, "trials of each kind",
                        series->trials < SIZE_MAX ? series->trials : 0);
    for (size_t i = 0; rc == 0 && in_time && i < series->trials; i++)
        for (size_t k = 0; rc == 0 && in_time && k < PLANTS; k++) {
            uint64_t start_ns = plim_now_ns();

            if (!rows[k] || !(in_time = start_ns + longest_ns < series->end_ns))
                continue;
            plim_progress_update(&progress, i, NULL);
            rc = series->real ? run_real(series, &plants[k], i, rows[k], err)
                              : run_made_up(series, &plants[k], i, rows[k], err);
            longest_ns = plim_max(longest_ns, plim_now_ns() - start_ns);
        }
    plim_progress_finish(&progress);
    for (size_t k = 0; k < PLANTS; k++)
        if (rows[k])
            average(rows[k]);
    return rc;
}

/* ---- this machine ---- */

static uint64_t end_of(uint64_t start_ns, double limit_s)
{
    return limit_s > 0 ? start_ns + (uint64_t)(1e9 * limit_s) : UINT64_MAX;
}

static const struct suite_case *first_case(const struct suite *suite, const struct case_patterns *patterns)
{
    const struct suite_case *c = suite->cases;

    while (!case_patterns_match(patterns, c))
        c++;
    return c;
}

static int test_machine(const struct selftest_options *options, const struct suite *simulated, struct selftest *out,
                        struct plim_err *err)
{
    uint64_t start_ns = plim_now_ns();
    struct process_executor processes = { .program = options->program };
    struct executor machine = process_executor(&processes);
    struct suite spins = { 0 };
    const struct suite *suite = options->suite ? options->suite : &spins;
    struct recording_options recording = { .models_directory = options->models_directory, .progress = options->progress,
                                           .most_pairs = options->time_s > 0 ? SIZE_MAX : RECORDED_PAIRS,
                                           .limit_s = RECORDING_SHARE * options->time_s };
    struct series replayed = { .options = options, .machine = "replayed", .suite = simulated,
                               .recording = &out->recording, .trials = options->trials,
                               .end_ns = end_of(start_ns, REPLAYED_SHARE * options->time_s) };
    struct series real = { .options = options, .machine = "this machine", .cases = options->real_cases,
                           .real = &machine, .trials = options->machine_trials,
                           .end_ns = end_of(start_ns, options->time_s) };
    int rc = options->suite ? 0 : make_suite(&spins, options->machine_cases, err);

    real.suite = suite;
    if (rc == 0)
        rc = recording_make(&out->recording, suite, first_case(suite, &options->real_cases), &machine, &recording, err);
    if (rc == 0)
        rc = run_series(&replayed, out, err);
    if (rc == 0)
        rc = run_series(&real, out, err);
    suite_release(&spins);
    return rc;
}

int selftest_gate(const struct selftest_options *options, struct selftest *out, struct plim_err *err)
{
    struct suite suite = { 0 };
    int rc;

    *out = (struct selftest){ .row_count = 0 };
    rc = make_suite(&suite, options->cases, err);
    for (const struct noise_model *model = noise_models; model->name && rc == 0 && !options->program; model++) {
        struct series series = { .options = options, .machine = model->name, .suite = &suite, .model = model,
                                 .trials = options->trials, .end_ns = UINT64_MAX };

        rc = run_series(&series, out, err);
    }
    if (rc == 0 && options->program)
        rc = test_machine(options, &suite, out, err);
    suite_release(&suite);
    return rc;
}

void selftest_release(struct selftest *selftest)
{
    recording_release(&selftest->recording);
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
