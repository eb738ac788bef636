#include "frontier.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "interrupt.h"
#include "plimsoll/units.h"
#include "statistics.h"

#define CONTENDERS 3
#define CONTENDER_RUNS 2

/* ---- settings ---- */

static const char *const dq_sizes[] = { "512Mi", "64Mi", "16Mi", "4Mi", "1Mi", "256Ki", "64Ki", NULL };
static const char *const input_lens[] = { "2048", "1024", "512", "256", "128", "64", NULL };
static const char *const attention_sizes[] = { "4Mi", "1Mi", "256Ki", NULL };

/* What is varied: values of one parameter; a parameter that the user fixed has only that. */
struct axis {
    enum plim_parameter parameter;
    const char *const *values;
};

static const char *const as_it_is[] = { NULL, NULL };

const char *frontier_limit_name(enum frontier_limit limit)
{
    static const char *const names[] = { "context_tokens", "max_dq_size", "max_input_len" };

    return names[limit];
}

char *frontier_describe(const struct plim_parameters *parameters, char *buffer, size_t size)
{
    size_t used = 0;

    buffer[0] = '\0';
    for (int p = 0; p < PLIM_PARAMETER_COUNT && used < size; p++) {
        char text[64];

        if (!parameters->set[p] || p == PLIM_MEMORY_BUDGET)
            continue;
        plim_parameters_format(parameters, (enum plim_parameter)p, text, sizeof text);
        used += (size_t)snprintf(buffer + used, size - used, "%s%s=%s", used ? " " : "",
                                 plim_parameter_row((enum plim_parameter)p)->name, text);
    }
    return buffer;
}

/* The choices of kv_cache that this build can do. */
static const char *const *cache_types(const char **out)
{
    const struct plim_parameter_row *row = plim_parameter_row(PLIM_KV_CACHE);
    size_t count = 0;

    for (size_t i = 0; row->choices[i] && count < 7; i++)
        if (!row->choices_unavailable || !row->choices_unavailable[i])
            if (strcmp(row->choices[i], "fp32") != 0)   /* for comparing with references: larger and no faster */
                out[count++] = row->choices[i];
    out[count] = NULL;
    return out;
}

static struct plim_plan_request request_of(const struct frontier_question *q, size_t context_tokens)
{
    return (struct plim_plan_request){
        .context_tokens = context_tokens,
        .prompt_tokens = q->prompt_tokens,
        .decode_tokens = q->decode ? q->decode_tokens : 0,
        .rows = PLIM_LOGITS_LAST,
    };
}

static int predict(const struct frontier_question *q, const struct plim_parameters *set, size_t context_tokens,
                   struct plim_plan *plan, struct plim_err *err)
{
    struct plim_parameters resolved = *set;
    struct plim_plan_request request = request_of(q, context_tokens);

    if (plim_parameters_resolve(&resolved, err) < 0)
        return -1;
    return q->predict(q->predict_context, &resolved, &request, plan, err);
}

/* Settings whose every tag peaks alike do the same work: one of them is enough. */
static bool is_known(const struct frontier *f, const struct plim_plan *plan)
{
    for (size_t i = 0; i < f->point_count; i++)
        if (memcmp(f->points[i].plan.tag_peak_bytes, plan->tag_peak_bytes, sizeof plan->tag_peak_bytes) == 0)
            return true;
    return false;
}

static int consider(struct frontier *f, const struct frontier_question *q, const struct plim_parameters *set,
                    struct plim_err *err)
{
    struct frontier_point *moved;
    struct plim_plan plan;

    if (predict(q, set, q->context_tokens, &plan, err) < 0)
        return -1;
    f->settings++;
    if (f->least_bytes == 0 || plan.peak_bytes < f->least_bytes)
        f->least_bytes = plan.peak_bytes;
    if (plan.peak_bytes > q->budget_bytes)
        return 0;
    f->fitting++;
    if (is_known(f, &plan))
        return 0;
    moved = heap_room(f->points, f->point_count, sizeof *moved, err);
    if (!moved)
        return -1;
    f->points = moved;
    moved[f->point_count].parameters = *set;
    moved[f->point_count++].plan = plan;
    return 0;
}

static int consider_axes(struct frontier *f, const struct frontier_question *q, const struct axis *axes, size_t count,
                         const struct plim_parameters *set, struct plim_err *err)
{
    const struct axis *axis = axes;

    if (interrupt_requested())
        return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
    if (count == 0)
        return consider(f, q, set, err);
    for (size_t i = 0; i == 0 || axis->values[i]; i++) {
        struct plim_parameters next = *set;

        if (axis->values[i] &&
            plim_parameters_set(&next, plim_parameter_row(axis->parameter)->name, axis->values[i], err) < 0)
            return -1;
        if (consider_axes(f, q, axes + 1, count - 1, &next, err) < 0)
            return -1;
    }
    return 0;
}

static int by_predicted_peak(const void *a, const void *b)
{
    const struct frontier_point *x = a, *y = b;

    return (x->plan.peak_bytes > y->plan.peak_bytes) - (x->plan.peak_bytes < y->plan.peak_bytes);
}

static int consider_all(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    const char *types[8];
    struct axis axes[] = { { PLIM_KV_CACHE, cache_types(types) },
                           { PLIM_MAX_INPUT_LEN, input_lens },
                           { PLIM_MAX_ATTENTION_SIZE, attention_sizes },
                           { PLIM_MAX_DQ_SIZE, dq_sizes } };
    size_t count = sizeof axes / sizeof axes[0];

    for (size_t i = 0; i < count; i++)
        if (q->parameters.set[axes[i].parameter])
            axes[i].values = as_it_is;
    if (consider_axes(f, q, axes, count, &q->parameters, err) < 0)
        return -1;
    if (f->point_count)
        qsort(f->points, f->point_count, sizeof *f->points, by_predicted_peak);
    return 0;
}

/* ---- runs ---- */

struct run_outcome {
    enum outcome outcome;
    uint64_t peak_bytes;
    double tokens_per_s;
};

static int set_count(const struct workload *workload, struct facts *arguments, const char *name, size_t value,
                     struct plim_err *err)
{
    char text[32];

    snprintf(text, sizeof text, "%zu", value);
    return argument_set(workload, arguments, name, text, err);
}

static int fill_request(struct case_request *request, const struct frontier_question *q,
                        const struct plim_parameters *set, size_t context_tokens, struct plim_err *err)
{
    char budget[32];

    *request = (struct case_request){ .parameters = *set, .repeats = 3, .warmup = 1 };
    snprintf(budget, sizeof budget, "%llu", (unsigned long long)q->budget_bytes);
    if (!(request->workload = workload_find(q->decode ? "decode" : "prefill", err)) ||
        !(request->id = heap_strdup("frontier", err)) ||
        !(request->model_directory = heap_strdup(q->model_directory, err)) ||
        plim_parameters_set(&request->parameters, "memory_budget", budget, err) < 0 ||
        arguments_default(request->workload, &request->arguments, err) < 0 ||
        set_count(request->workload, &request->arguments, "prompt_tokens", q->prompt_tokens, err) < 0 ||
        set_count(request->workload, &request->arguments, "context_tokens", context_tokens, err) < 0)
        return -1;
    return q->decode ? set_count(request->workload, &request->arguments, "decode_tokens", q->decode_tokens, err) : 0;
}

static int run_setting(const struct frontier_question *q, const struct plim_parameters *set, size_t context_tokens,
                       bool timed, struct run_outcome *out, struct plim_err *err)
{
    struct execution execution = { .timeout_ns = q->timeout_ns };
    struct result_case report = { 0 };
    struct case_request request = { 0 };
    const struct metric *peak, *speed;
    int rc = fill_request(&request, q, set, context_tokens, err);

    *out = (struct run_outcome){ 0 };
    if (!timed) {   /* whether it fits shows at the first attempt */
        request.repeats = 1;
        request.warmup = 0;
    }
    if (rc == 0)
        rc = q->executor->run_case(q->executor->context, &request, &execution, &report, err);
    if (rc == 0) {
        peak = case_find_metric(&report, "peak_requested_fast_bytes");
        speed = case_find_metric(&report, q->decode ? "decode_tokens_per_s" : "prefill_tokens_per_s");
        out->outcome = report.outcome;
        if (report.outcome == OUTCOME_OK && peak && speed) {
            out->peak_bytes = (uint64_t)metric_median(peak);
            out->tokens_per_s = metric_median(speed);
        } else if (report.outcome == OUTCOME_OK) {
            rc = plim_err_set(err, PLIM_ERR_INTERNAL, "the worker reported no peak or no speed");
        } else if (report.outcome != OUTCOME_OUT_OF_MEMORY) {
            rc = plim_err_set(err, PLIM_ERR_SYSTEM, "a run %s: %s", outcome_name(report.outcome),
                              report.detail ? report.detail : "");
        }
    }
    case_release(&report);
    case_request_release(&request);
    return rc;
}

static void log_run(const struct frontier_question *q, const struct plim_parameters *set, const struct run_outcome *out)
{
    char setting[300], bytes[32];

    if (!q->log)
        return;
    frontier_describe(set, setting, sizeof setting);
    if (out->outcome == OUTCOME_OK)
        fprintf(q->log, "%s: %.4g tokens/s, peak %s\n", setting, out->tokens_per_s,
                plim_format_bytes(bytes, sizeof bytes, out->peak_bytes));
    else
        fprintf(q->log, "%s: %s\n", setting, outcome_name(out->outcome));
}

/* With more settings than runs, evenly spread ones by predicted peak, the smallest and the largest among them. */
static size_t nth_to_run(size_t n, size_t runs, size_t points)
{
    return runs >= points ? n : runs == 1 ? points - 1 : n * (points - 1) / (runs - 1);
}

static bool run_faster(const struct frontier_point *a, const struct frontier_point *b)
{
    return a->measured && (!b || a->tokens_per_s > b->tokens_per_s);
}

/* The up to CONTENDERS fastest points, the fastest first; returns how many. */
static size_t find_contenders(struct frontier *f, struct frontier_point **contenders)
{
    size_t count = 0;

    for (; count < CONTENDERS; count++) {
        struct frontier_point *fastest = NULL;

        for (size_t i = 0; i < f->point_count; i++) {
            bool taken = false;

            for (size_t k = 0; k < count; k++)
                taken |= contenders[k] == &f->points[i];
            if (!taken && run_faster(&f->points[i], fastest))
                fastest = &f->points[i];
        }
        if (!fastest)
            break;
        contenders[count] = fastest;
    }
    return count;
}

/*
 * One look at many settings favours the one that was lucky. The fastest are run again in turn, and what counts is the
 * median of all their runs.
 */
static int rerun_contenders(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    struct frontier_point *contenders[CONTENDERS];
    double speeds[CONTENDERS][1 + CONTENDER_RUNS];
    size_t count = find_contenders(f, contenders);

    for (size_t k = 0; k < count; k++)
        speeds[k][0] = contenders[k]->tokens_per_s;
    for (size_t run = 1; run <= CONTENDER_RUNS; run++) {
        for (size_t k = 0; k < count; k++) {
            struct run_outcome out;

            if (run_setting(q, &contenders[k]->parameters, q->context_tokens, true, &out, err) < 0)
                return -1;
            log_run(q, &contenders[k]->parameters, &out);
            speeds[k][run] = out.tokens_per_s;
        }
    }
    for (size_t k = 0; k < count; k++)
        contenders[k]->tokens_per_s = median(speeds[k], 1 + CONTENDER_RUNS);
    for (size_t i = 0; i < f->point_count; i++) {
        if (run_faster(&f->points[i], f->found ? &f->points[f->best] : NULL)) {
            f->best = i;
            f->found = true;
        }
    }
    return 0;
}

static int run_points(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    size_t runs = plim_min(q->run_limit, f->point_count);

    for (size_t n = 0; n < runs; n++) {
        struct frontier_point *point = &f->points[nth_to_run(n, runs, f->point_count)];
        struct run_outcome out;

        if (run_setting(q, &point->parameters, q->context_tokens, true, &out, err) < 0)
            return -1;
        log_run(q, &point->parameters, &out);
        point->measured = out.outcome == OUTCOME_OK;
        point->peak_bytes = out.peak_bytes;
        point->tokens_per_s = out.tokens_per_s;
    }
    return 0;
}

static int verify_best(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    const struct frontier_point *best = &f->points[f->best];

    for (int i = 0; i < FRONTIER_VERIFICATIONS; i++) {
        struct run_outcome out;

        if (run_setting(q, &best->parameters, q->context_tokens, false, &out, err) < 0)
            return -1;
        f->verified += out.outcome == OUTCOME_OK && out.peak_bytes == best->plan.peak_bytes;
    }
    return 0;
}

/* ---- the limit ---- */

/* The best setting with the quantity at `value`. */
static int at_value(const struct frontier *f, const struct frontier_question *q, int64_t value,
                    struct plim_parameters *set, size_t *context_tokens, struct plim_err *err)
{
    char text[32];

    *set = f->points[f->best].parameters;
    *context_tokens = q->context_tokens;
    if (q->limit == LIMIT_CONTEXT_TOKENS) {
        *context_tokens = (size_t)value;
        return 0;
    }
    snprintf(text, sizeof text, "%lld", (long long)value);
    return plim_parameters_set(set, frontier_limit_name(q->limit), text, err);
}

static int fits_at(const struct frontier *f, const struct frontier_question *q, int64_t value, bool *fits,
                   struct plim_err *err)
{
    struct plim_parameters set;
    struct plim_plan plan;
    size_t context_tokens;

    if (at_value(f, q, value, &set, &context_tokens, err) < 0 || predict(q, &set, context_tokens, &plan, err) < 0)
        return -1;
    *fits = plan.peak_bytes <= q->budget_bytes;
    return 0;
}

static void limit_range(const struct frontier_question *q, int64_t *low, int64_t *high)
{
    enum plim_parameter parameter = q->limit == LIMIT_MAX_DQ_SIZE ? PLIM_MAX_DQ_SIZE : PLIM_MAX_INPUT_LEN;

    if (q->limit == LIMIT_CONTEXT_TOKENS) {
        *low = (int64_t)(q->prompt_tokens + (q->decode ? q->decode_tokens : 0));
        *high = (int64_t)q->max_positions;
        return;
    }
    *low = plim_parameter_row(parameter)->low;
    *high = plim_parameter_row(parameter)->high;
}

static int find_limit(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    int64_t low, high;
    bool fits;

    limit_range(q, &low, &high);
    f->limit = -1;
    if (fits_at(f, q, low, &fits, err) < 0)
        return -1;
    if (!fits)
        return 0;
    if (fits_at(f, q, high, &f->limit_is_open, err) < 0)
        return -1;
    while (!f->limit_is_open && high - low > 1) {   /* low fits, high does not */
        int64_t middle = low + (high - low) / 2;

        if (fits_at(f, q, middle, &fits, err) < 0)
            return -1;
        *(fits ? &low : &high) = middle;
    }
    f->limit = f->limit_is_open ? high : low;
    return 0;
}

static int verify_value(const struct frontier *f, const struct frontier_question *q, int64_t value,
                        enum outcome expected, size_t *count, struct plim_err *err)
{
    struct plim_parameters set;
    size_t context_tokens;

    if (at_value(f, q, value, &set, &context_tokens, err) < 0)
        return -1;
    for (int i = 0; i < FRONTIER_VERIFICATIONS; i++) {
        struct run_outcome out;

        if (run_setting(q, &set, context_tokens, false, &out, err) < 0)
            return -1;
        *count += out.outcome == expected;
    }
    return 0;
}

static int verify_limit(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    if (f->limit < 0)
        return 0;
    if (verify_value(f, q, f->limit, OUTCOME_OK, &f->limit_fits, err) < 0)
        return -1;
    return f->limit_is_open ? 0 : verify_value(f, q, f->limit + 1, OUTCOME_OUT_OF_MEMORY, &f->limit_refused, err);
}

/* ---- the search ---- */

static bool dominates(const struct frontier_point *a, const struct frontier_point *b)
{
    return a->measured && a->peak_bytes <= b->peak_bytes && a->tokens_per_s >= b->tokens_per_s &&
           (a->peak_bytes < b->peak_bytes || a->tokens_per_s > b->tokens_per_s);
}

void frontier_mark(struct frontier *f)
{
    for (size_t i = 0; i < f->point_count; i++) {
        f->points[i].on_front = f->points[i].measured;
        for (size_t k = 0; k < f->point_count && f->points[i].on_front; k++)
            f->points[i].on_front = !dominates(&f->points[k], &f->points[i]);
    }
}

int frontier_search(struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    *f = (struct frontier){ .limit = -1 };
    if (consider_all(f, q, err) < 0 || run_points(f, q, err) < 0 || rerun_contenders(f, q, err) < 0)
        goto failed;
    frontier_mark(f);
    if (f->found && (verify_best(f, q, err) < 0 || find_limit(f, q, err) < 0 || verify_limit(f, q, err) < 0))
        goto failed;
    return 0;

failed:
    frontier_release(f);
    return -1;
}

void frontier_release(struct frontier *f)
{
    free(f->points);
    *f = (struct frontier){ .limit = -1 };
}
