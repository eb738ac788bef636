/* The desk's searches, over a mock executor whose memory and speed are formulas. */

#include <criterion/criterion.h>

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frontier_print.h"
#include "metrics.h"
#include "plimsoll/units.h"
#include "threshold.h"

static struct plim_err err = PLIM_ERR_INIT;

/* ---- the mock ---- */

struct mock {
    int runs;
    int lies;        /* this many bytes more than predicted are used */
    bool crashes;
};

static uint64_t buffer_bytes(const struct plim_parameters *p)
{
    return 4 * plim_min((size_t)p->count[PLIM_MAX_DQ_SIZE], 1000000);   /* the largest matrix has a million elements */
}

static uint64_t bytes_of(const struct plim_parameters *p, size_t context, size_t prompt)
{
    return 100 * context + 1000 * plim_min(prompt, (size_t)p->count[PLIM_MAX_INPUT_LEN]) + buffer_bytes(p);
}

/* Large chunks and large buffers are faster, with less and less to gain. */
static double speed_of(const struct plim_parameters *p, size_t prompt)
{
    double rows = (double)plim_min(prompt, (size_t)p->count[PLIM_MAX_INPUT_LEN]);

    return 1000 * rows / (rows + 50) * (1 - 1 / sqrt((double)buffer_bytes(p)));
}

static int mock_predict(void *context, const struct plim_parameters *p, const struct plim_plan_request *request,
                        struct plim_plan *plan, struct plim_err *e)
{
    (void)context, (void)e;
    *plan = (struct plim_plan){ .peak_bytes = bytes_of(p, request->context_tokens, request->prompt_tokens) };
    plan->tag_peak_bytes[PLIM_TAG_KV_CACHE] = 100 * request->context_tokens;
    plan->tag_peak_bytes[PLIM_TAG_DEQUANT] = buffer_bytes(p);
    plan->tag_peak_bytes[PLIM_TAG_ACTIVATIONS] = plan->peak_bytes - buffer_bytes(p) - 100 * request->context_tokens;
    return 0;
}

static int report(struct result_case *out, const char *name, double value, struct plim_err *e)
{
    struct metric *metric = metric_of_case(out, name, e);

    return metric ? metric_add_sample(metric, value, e) : -1;
}

static int mock_frontier_case(void *context, const struct case_request *request, const struct execution *execution,
                              struct result_case *out, struct plim_err *e)
{
    struct mock *mock = context;
    struct plim_parameters p = request->parameters;
    size_t prompt = (size_t)argument_count(&request->arguments, "prompt_tokens");
    uint64_t bytes;

    (void)execution;
    mock->runs++;
    cr_assert_eq(plim_parameters_resolve(&p, e), 0);
    bytes = bytes_of(&p, (size_t)argument_count(&request->arguments, "context_tokens"), prompt) + (uint64_t)mock->lies;
    if (mock->crashes) {
        out->outcome = OUTCOME_CRASHED;
        return result_set_string(&out->detail, "signal 11", e);
    }
    if (bytes > (uint64_t)p.count[PLIM_MEMORY_BUDGET]) {
        out->outcome = OUTCOME_OUT_OF_MEMORY;
        return 0;
    }
    return report(out, "peak_requested_fast_bytes", (double)bytes, e) < 0 ||
           report(out, "prefill_tokens_per_s", speed_of(&p, prompt), e) < 0 ? -1 : 0;
}

/* Fused: 100 ns a row. Chunked: 3000 ns, and 25 a row. They cross at 40 rows; each run is off by up to 1%. */
static int mock_threshold_case(void *context, const struct case_request *request, const struct execution *execution,
                               struct result_case *out, struct plim_err *e)
{
    struct mock *mock = context;
    double rows = (double)argument_count(&request->arguments, "prompt_tokens");
    double ns = request->parameters.count[PLIM_DQ_ROWS] ? 100 * rows : 3000 + 25 * rows;

    (void)execution;
    if (mock->crashes) {
        out->outcome = OUTCOME_CRASHED;
        return result_set_string(&out->detail, "signal 11", e);
    }
    return report(out, "prefill_tokens_per_s", rows / (ns * 1e-9) * (1 + 0.002 * (mock->runs++ % 11 - 5)), e);
}

/* ---- frontier ---- */

static struct frontier_question ask(const struct executor *executor, uint64_t budget)
{
    struct frontier_question q = { .model_directory = "nowhere", .budget_bytes = budget, .prompt_tokens = 1000,
                                   .context_tokens = 2000, .max_positions = 100000, .run_limit = 1000,
                                   .timeout_ns = 1, .predict = mock_predict, .executor = executor };

    plim_parameters_default(&q.parameters);
    return q;
}

static struct frontier search(struct mock *mock, uint64_t budget, enum frontier_limit limit, size_t run_limit)
{
    struct executor executor = { .run_case = mock_frontier_case, .context = mock };
    struct frontier_question q = ask(&executor, budget);
    struct frontier f;

    q.limit = limit;
    q.run_limit = run_limit;
    cr_assert_eq(frontier_search(&f, &q, &err), 0, "%s", err.message);
    return f;
}

Test(frontier, the_fastest_that_fits_is_found_and_verified)
{
    struct mock mock = { 0 };
    struct frontier f = search(&mock, 2000000, LIMIT_CONTEXT_TOKENS, 1000);
    char setting[200];

    cr_assert(f.found);
    /* 200000 of cache, 1000 a row; with 1024 rows 800000 are left: the 64 Ki buffer fits, the 256 Ki one does not. */
    cr_expect_str_eq(frontier_describe(&f.points[f.best].parameters, setting, sizeof setting),
                     "max_dq_size=64Ki max_input_len=2048 max_attention_size=4Mi kv_cache=fp16");
    cr_expect_eq(f.verified, FRONTIER_VERIFICATIONS);
    cr_expect_gt(f.settings, f.fitting);
    cr_expect_lt(f.point_count, f.fitting, "settings that do the same work are run once");
    for (size_t i = 0; i < f.point_count; i++)
        cr_expect_leq(f.points[i].plan.peak_bytes, 2000000);
    frontier_release(&f);
}

Test(frontier, the_limit_is_right_to_the_unit)
{
    struct mock mock = { 0 };
    struct frontier f = search(&mock, 2000000, LIMIT_CONTEXT_TOKENS, 1000);

    /* (2000000 - 1000 * 1000 - 4 * 65536) / 100 = 7378.56 */
    cr_expect_eq(f.limit, 7378);
    cr_expect(!f.limit_is_open);
    cr_expect_eq(f.limit_fits, FRONTIER_VERIFICATIONS);
    cr_expect_eq(f.limit_refused, FRONTIER_VERIFICATIONS);
    frontier_release(&f);

    f = search(&mock, 2000000, LIMIT_MAX_DQ_SIZE, 1000);
    cr_expect_eq(f.limit, 200000);
    cr_expect_eq(f.limit_refused, FRONTIER_VERIFICATIONS);
    frontier_release(&f);

    f = search(&mock, 1 << 30, LIMIT_CONTEXT_TOKENS, 1000);
    cr_expect(f.limit_is_open, "all the model's positions fit");
    cr_expect_eq(f.limit, 100000);
    frontier_release(&f);
}

Test(frontier, nothing_that_fits_is_an_answer)
{
    struct mock mock = { 0 };
    struct frontier f = search(&mock, 1000, LIMIT_CONTEXT_TOKENS, 1000);

    cr_expect(!f.found);
    cr_expect_eq(mock.runs, 0, "predictions cost no runs");
    cr_expect_eq(f.least_bytes, 200000 + 64000 + 4 * 65536);
    frontier_release(&f);
}

Test(frontier, a_wrong_prediction_does_not_pass_the_verification)
{
    struct mock mock = { .lies = 16 };
    struct frontier f = search(&mock, 2000000, LIMIT_CONTEXT_TOKENS, 1000);

    cr_assert(f.found);
    cr_expect_eq(f.verified, 0);
    frontier_release(&f);
}

Test(frontier, few_runs_span_the_settings)
{
    struct mock mock = { 0 };
    struct frontier f = search(&mock, 1 << 30, LIMIT_CONTEXT_TOKENS, 3);
    size_t measured = 0;

    for (size_t i = 0; i < f.point_count; i++)
        measured += f.points[i].measured;
    cr_expect_eq(measured, 3);
    cr_expect(f.points[0].measured && f.points[f.point_count - 1].measured);
    frontier_release(&f);
}

Test(frontier, no_point_of_the_front_is_beaten)
{
    struct frontier_point points[4] = { { .measured = true, .peak_bytes = 10, .tokens_per_s = 5 },
                                        { .measured = true, .peak_bytes = 20, .tokens_per_s = 5 },
                                        { .measured = true, .peak_bytes = 30, .tokens_per_s = 9 },
                                        { .measured = false } };
    struct frontier f = { .points = points, .point_count = 4 };

    frontier_mark(&f);
    cr_expect(points[0].on_front);
    cr_expect(!points[1].on_front, "as fast as the first, and larger");
    cr_expect(points[2].on_front);
    cr_expect(!points[3].on_front);
}

Test(frontier, a_crash_is_an_error_and_not_an_answer)
{
    struct mock mock = { .crashes = true };
    struct executor executor = { .run_case = mock_frontier_case, .context = &mock };
    struct frontier_question q = ask(&executor, 2000000);
    struct frontier f;

    cr_expect_eq(frontier_search(&f, &q, &err), -1);
    cr_expect(strstr(err.message, "crashed: signal 11"), "%s", err.message);
}

Test(frontier, what_is_printed_as_json_is_json)
{
    struct mock mock = { 0 };
    struct executor executor = { .run_case = mock_frontier_case, .context = &mock };
    struct frontier_question q = ask(&executor, 2000000);
    struct frontier f;
    cJSON *root;
    char *text;

    cr_assert_eq(frontier_search(&f, &q, &err), 0);
    text = frontier_format(&f, &q, &err);
    root = cJSON_Parse(text);
    cr_expect_eq(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "limit"), "value")->valuedouble, 7378);
    cr_expect_gt(cJSON_GetArraySize(cJSON_GetObjectItem(root, "points")), 3);
    cJSON_Delete(root);
    free(text);
    frontier_release(&f);
}

/* ---- threshold ---- */

static struct threshold_question ask_threshold(const struct executor *executor)
{
    struct threshold_question q = { .which = threshold_find("dq_rows", &err), .model_directory = "nowhere", .from = 4,
                                    .to = 256, .size_count = 7, .rounds = 7, .seed = 1, .timeout_ns = 1,
                                    .executor = executor };

    plim_parameters_default(&q.parameters);
    return q;
}

Test(threshold, the_crossing_is_where_it_was_put)
{
    struct mock mock = { 0 };
    struct executor executor = { .run_case = mock_threshold_case, .context = &mock };
    struct threshold_question q = ask_threshold(&executor);
    struct threshold t;
    cJSON *root;
    char *text;

    cr_assert_eq(threshold_measure(&t, &q, &err), 0, "%s", err.message);
    cr_expect_eq(mock.runs, 2 * 7 * 7);
    cr_expect_eq(t.x[0], 4);
    cr_expect_eq(t.x[6], 256);
    cr_expect_float_eq(t.crossing.at.estimate, 40, 1);
    cr_expect_leq(t.crossing.at.low, t.crossing.at.estimate);
    cr_expect_geq(t.crossing.at.high, t.crossing.at.estimate);
    cr_expect_eq(t.default_value, 4096);
    cr_expect(!t.default_is_inside);
    text = threshold_format(&t, &q, &err);
    root = cJSON_Parse(text);
    cr_expect(cJSON_IsFalse(cJSON_GetObjectItem(root, "default_is_inside")));
    cr_expect_eq(cJSON_GetArraySize(cJSON_GetObjectItem(root, "sizes")), 7);
    cJSON_Delete(root);
    free(text);
    threshold_release(&t);
}

Test(threshold, the_same_seed_gives_the_same_answer)
{
    struct mock first = { 0 }, second = { 0 };
    struct executor executor = { .run_case = mock_threshold_case, .context = &first };
    struct threshold_question q = ask_threshold(&executor);
    struct threshold a, b;

    cr_assert_eq(threshold_measure(&a, &q, &err), 0);
    executor.context = &second;
    cr_assert_eq(threshold_measure(&b, &q, &err), 0);
    cr_expect_eq(a.crossing.at.low, b.crossing.at.low);
    cr_expect_eq(a.crossing.at.high, b.crossing.at.high);
    threshold_release(&a);
    threshold_release(&b);
}

/* In place: 10 ns a pair of features. By the slow tier: 40 ns, and 1000. They never cross, and peaks tell what it is for. */
static int mock_hessian_case(void *context, const struct case_request *request, const struct execution *execution,
                             struct result_case *out, struct plim_err *e)
{
    struct mock *mock = context;
    double k = (double)argument_count(&request->arguments, "in_features");
    bool slow = request->parameters.count[PLIM_HESSIAN_OFFLOAD_THRESHOLD] == 0;
    double ns = (slow ? 1000 + 40 * k * k : 10 * k * k) * (1 + 0.002 * (mock->runs++ % 11 - 5));

    (void)execution;
    cr_assert_str_eq(request->workload->name, "quantize_layer");
    cr_assert_str_eq(argument_text(&request->arguments, "method"), "factor");
    cr_assert_null(request->model_directory);
    return report(out, "phase_permute_time_ns", ns, e) < 0 ||
           report(out, "peak_in_permute_bytes", slow ? 8 * k : 8 * k + 4 * k * k, e) < 0 ? -1 : 0;
}

Test(threshold, a_switch_that_buys_memory_tells_both_sides_memory)
{
    struct mock mock = { 0 };
    struct executor executor = { .run_case = mock_hessian_case, .context = &mock };
    struct threshold_question q = ask_threshold(&executor);
    struct threshold t;
    size_t length;
    char *text = NULL;
    FILE *out = open_memstream(&text, &length);

    q.which = threshold_find("hessian_offload_threshold", &err);
    q.model_directory = NULL;
    q.from = 64;
    q.to = 1024;
    cr_assert_eq(threshold_measure(&t, &q, &err), 0, "%s", err.message);
    cr_expect(isinf(t.crossing.at.estimate));
    cr_expect_eq(t.peaks[0][6] - t.peaks[1][6], 4 * 1024 * 1024);
    cr_expect_float_eq(t.default_size, 24494.9, 0.05);
    cr_expect(!t.default_is_inside);
    cr_assert_eq(threshold_print(&t, &q, out, false, &err), 0);
    fclose(out);
    cr_expect(strstr(text, "in place is the faster one at every in_features from 64 to 1024"), "%s", text);
    cr_expect(strstr(text, "(in_features 24494.9), is not among the sizes"), "%s", text);
    cr_expect(strstr(text, "4.01 MiB in place against 8.00 KiB by the slow tier"), "%s", text);
    free(text);
    threshold_release(&t);
}

Test(threshold, what_cannot_be_timed_is_an_error)
{
    struct mock mock = { .crashes = true };
    struct executor executor = { .run_case = mock_threshold_case, .context = &mock };
    struct threshold_question q = ask_threshold(&executor);
    struct threshold t;

    cr_expect_eq(threshold_measure(&t, &q, &err), -1);
    cr_expect(strstr(err.message, "crashed"), "%s", err.message);
    plim_err_clear(&err);
    q.to = 5;
    cr_expect_eq(threshold_measure(&t, &q, &err), -1, "two sizes are no curve");
    plim_err_clear(&err);
    cr_expect_null(threshold_find("dq_row", &err));
    cr_expect(strstr(err.message, "did you mean dq_rows"), "%s", err.message);
}
