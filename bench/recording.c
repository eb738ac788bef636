#include "recording.h"

#include <math.h>
#include <stdlib.h>

#include "ab_parts.h"
#include "heap.h"
#include "interrupt.h"
#include "metrics.h"
#include "plimsoll/clock.h"

/* ---- looking over the shoulder of an A/B run ---- */

struct recorder {
    struct executor inner;
    struct machine_watch state;
    struct recorded_pair pair;   /* that is being measured */
    size_t processes;            /* of it, so far */
};

static int run_recorded(void *context, const struct case_request *request, const struct execution *execution,
                        struct result_case *out, struct plim_err *err)
{
    struct recorder *recorder = context;
    const struct metric *metric;
    double value;

    if (recorder->inner.run_case(recorder->inner.context, request, execution, out, err) < 0)
        return -1;
    metric = case_headline(out);
    if (out->outcome != OUTCOME_OK || !metric || metric->class != METRIC_TIMING || isnan(value = ab_process_timing(metric)))
        return plim_err_input(err, "case %s has no timing: %s", request->id,
                              *out->detail ? out->detail : outcome_name(out->outcome));
    recorder->pair.values[recorder->processes++ % 2] = metric->direction == DIRECTION_HIGHER ? -log(value) : log(value);
    return 0;
}

static void begin_pair(void *context)
{
    struct recorder *recorder = context;

    recorder->pair.before = machine_use_now(recorder->state.cores);
}

/* Nothing is a disturbance yet. */
static bool end_pair(void *context, char *why, size_t size)
{
    struct recorder *recorder = context;

    (void)why;
    (void)size;
    recorder->pair.after = machine_use_now(recorder->state.cores);
    return false;
}

/* ---- making one ---- */

static int keep(struct recording *recording, const struct recorded_pair *pair, struct plim_err *err)
{
    struct recorded_pair *grown = heap_room(recording->pairs, recording->count, sizeof *grown, err);

    if (!grown)
        return -1;
    recording->pairs = grown;
    grown[recording->count++] = *pair;
    return 0;
}

/* All values in the order of time; free(). */
static double *values_of(const struct recording *recording, struct plim_err *err)
{
    double *values = heap_calloc(2 * recording->count + 1, sizeof *values, err);

    for (size_t i = 0; values && i < 2 * recording->count; i++)
        values[i] = recording->pairs[i / 2].values[i % 2];
    return values;
}

static int centre(struct recording *recording, struct plim_err *err)
{
    double *values = values_of(recording, err), middle;

    if (!values)
        return -1;
    middle = median(values, 2 * recording->count);
    for (size_t i = 0; i < 2 * recording->count; i++)
        recording->pairs[i / 2].values[i % 2] -= middle;
    free(values);
    return 0;
}

static bool wants_more(const struct recording *recording, const struct recording_options *options, uint64_t start_ns)
{
    double spent_s = (double)(plim_now_ns() - start_ns) / 1e9;

    if (recording->count < 2)
        return true;
    return recording->count < options->most_pairs && (options->limit_s <= 0 || spent_s < options->limit_s);
}

/* The first pair only shows how often a process repeats the case. */
int recording_make(struct recording *recording, const struct suite *suite, const struct suite_case *c,
                   const struct executor *machine, const struct recording_options *options, struct plim_err *err)
{
    struct recorder recorder = { .inner = *machine };
    struct ab_watch watch = { begin_pair, end_pair, &recorder };
    struct ab_options ab = { .models_directory = options->models_directory, .rules = ab_rules_default(), .watch = &watch };
    struct result merged[AB_SIDES] = { { 0 }, { 0 } };
    struct executor side = { run_recorded, machine->describe_machine, &recorder };
    struct ab_case measured = { .suite = suite, .spec = c, .sides = { side, side } };
    struct plim_progress progress;
    uint64_t start_ns = plim_now_ns();
    int rc = 0;

    machine_watch(&recorder.state);
    *recording = (struct recording){ .cores = recorder.state.cores };
    plim_progress_start(&progress, options->progress, "recording this machine", "pairs", 0);
    for (size_t i = 0; rc == 0 && wants_more(recording, options, start_ns); i++) {
        plim_progress_update(&progress, i, c->id);
        for (int k = 0; k < AB_SIDES; k++) {
            measured.merged[k] = result_add_case(&merged[k], c->id, err);
            rc = measured.merged[k] && result_set_string(&measured.merged[k]->detail, "", err) == 0 ? rc : -1;
        }
        if (rc == 0)
            rc = interrupt_requested() ? plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted")
                                       : ab_measure_pair(&measured, AB_SCREEN, &ab, err);
        if (rc == 0 && i > 0)
            rc = keep(recording, &recorder.pair, err);
        for (int k = 0; k < AB_SIDES; k++)
            result_release(&merged[k]);   /* its metrics are not needed again */
    }
    plim_progress_finish(&progress);
    ab_release_pairs(&measured.stages[AB_SCREEN]);
    return rc == 0 ? centre(recording, err) : rc;
}

/* ---- what it shows ---- */

bool recording_disturbed(const struct recording *recording, size_t pair, char *why, size_t size)
{
    const struct recorded_pair *p = &recording->pairs[pair];

    return machine_was_disturbed(&p->before, &p->after, recording->cores, why, size);
}

double recording_spread(const struct recording *recording)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    double *values = values_of(recording, &unsaid), spread = values ? robust_deviation(values, 2 * recording->count) : NAN;

    free(values);
    return spread;
}

double recording_pair_spread(const struct recording *recording)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    double *differences = values_of(recording, &unsaid), spread;

    if (!differences)
        return NAN;
    for (size_t i = 0; i < recording->count; i++)
        differences[i] = recording->pairs[i].values[1] - recording->pairs[i].values[0];
    spread = robust_deviation(differences, recording->count);
    free(differences);
    return spread;
}

double recording_process_s(const struct recording *recording)
{
    double sum = 0;

    for (size_t i = 0; i < recording->count; i++)
        sum += recording->pairs[i].after.wall_s - recording->pairs[i].before.wall_s;
    return recording->count ? sum / 2 / (double)recording->count : 0;
}

void recording_release(struct recording *recording)
{
    free(recording->pairs);
    *recording = (struct recording){ 0 };
}
