/*
 * Plots: script and data are compared with files that a person has looked at; gnuplot must draw them without a word.
 *
 * After a change that is meant: PLIMSOLL_UPDATE_GOLDEN=1 build/release/tests/test_compare --filter 'plot*', then look at
 * the difference, and at the images.
 */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "compare_support.h"
#include "heap.h"
#include "plimsoll/file.h"
#include "plot.h"
#include "plot_parts.h"

/* ---- the plots and their results ---- */

static char *curve_y[] = { "peak_requested_fast_bytes", "prefill_tokens_per_s", NULL };
static char *curve_series[] = { "model", "dq_mode", NULL };
static char *bar_y[] = { "prefill_tokens_per_s", "peak_rss_bytes", "peak_dequant_bytes", NULL };
static char *bar_groups[] = { "model", "low_mem", NULL };

static const struct suite_plot curve_plot = { .kind = PLOT_CURVE,
                                              .name = "peak",
                                              .title = "Peak memory and speed",
                                              .cases = "*",
                                              .x = "max_dq_size",
                                              .x_is_log = true,
                                              .y = curve_y,
                                              .series = curve_series,
                                              .mark_knee = true };
static const struct suite_plot bar_plot = { .kind = PLOT_TAG_BARS,
                                            .name = "tags",
                                            .title = "Memory by tag, it's \"stacked\"",
                                            .cases = "*",
                                            .series = bar_groups };

static const struct suite_plot metric_bar_plot = { .kind = PLOT_BARS,
                                                   .name = "speed",
                                                   .title = "Speed and memory",
                                                   .cases = "*",
                                                   .y = bar_y,
                                                   .series = bar_groups };

static struct metric *add_metric(struct result_case *c, const char *name, const char *unit, double value)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct metric *metric = case_add_metric(c, name, unit, METRIC_EXACT, DIRECTION_LOWER, &err);
    cr_assert_not_null(metric);
    cr_assert_eq(metric_add_sample(metric, value, &err), 0);
    return metric;
}

/* Memory grows by two bytes an element up to the largest matrix, 6 Mi elements, and then no more. */
static void add_curve(struct result *result, const char *model, const char *mode, double speed)
{
    static const char *const sizes[] = { "4Mi", "1Mi", "8Mi", "2Mi", "16Mi" };   /* in the order of a careless suite */
    static const double elements[] = { 4, 1, 8, 2, 16 };
    struct plim_err err = PLIM_ERR_INIT;
    for (size_t i = 0; i < 5; i++) {
        char id[100];
        snprintf(id, sizeof id, "%s/prefill/dq_mode=%s,max_dq_size=%s", model, mode, sizes[i]);
        struct result_case *c = add_case(result, id);
        cr_assert_eq(result_set_string(&c->model, model, &err), 0);
        cr_assert_eq(facts_set_text(&c->parameters, "max_dq_size", sizes[i], &err), 0);
        cr_assert_eq(facts_set_text(&c->parameters, "dq_mode", mode, &err), 0);
        double chunk = elements[i] < 6 ? elements[i] : 6, bytes = (2 * chunk + 3) * 1048576;
        add_metric(c, "peak_requested_fast_bytes", "bytes", bytes);
        add_metric(c, "predicted_peak_bytes", "bytes", bytes);
        struct metric *metric = add_metric(c, "prefill_tokens_per_s", "tokens/s", speed);
        cr_assert_eq(metric_add_sample(metric, speed + 2, &err), 0);
        cr_assert_eq(metric_add_sample(metric, speed + 1, &err), 0);
    }
}

static void add_bar(struct result *result, const char *model, const char *low_mem, double activations)
{
    struct plim_err err = PLIM_ERR_INIT;
    char id[100];
    snprintf(id, sizeof id, "%s/prefill/low_mem=%s", model, low_mem);
    struct result_case *c = add_case(result, id);
    cr_assert_eq(result_set_string(&c->model, model, &err), 0);
    cr_assert_eq(facts_set_text(&c->parameters, "low_mem", low_mem, &err), 0);
    add_metric(c, "at_peak_weights_bytes", "bytes", 30 * 1048576.0);
    add_metric(c, "at_peak_activations_bytes", "bytes", activations * 1048576);
    add_metric(c, "at_peak_dequant_bytes", "bytes", 0);
    add_metric(c, "at_peak_weights_mapped_bytes", "bytes", 1e9);
    add_metric(c, "predicted_peak_bytes", "bytes", (30 + activations) * 1048576);
    struct metric *speed = add_metric(c, "prefill_tokens_per_s", "tokens/s", 10 * activations);
    cr_assert_eq(metric_add_sample(speed, 10 * activations + 4, &err), 0);
    add_metric(c, "peak_rss_bytes", "bytes", (100 + activations) * 1048576);
}

static void make_curve_result(struct result *result)
{
    make_result(result, "max-dq-size", "abacus");
    add_curve(result, "tiny", "chunked", 50);
    add_curve(result, "tiny", "gated", 40);
    result->cases[5].outcome = OUTCOME_CRASHED;   /* gated, 4Mi: a gap */
}

static void make_bar_result(struct result *result)
{
    make_result(result, "low-mem", "abacus");
    add_bar(result, "tiny", "off", 60);
    add_bar(result, "small", "off", 80);
    add_bar(result, "tiny", "on", 20);
    add_bar(result, "small", "on", 40);
    result->cases[1].outcome = OUTCOME_OUT_OF_MEMORY;
}

/* ---- golden files ---- */

static void expect_golden(const char *directory, const char *file)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = plim_path_join(directory, file, &err), *got = read_text(path);
    char *golden = plim_path_join(PLIMSOLL_TEST_DATA "/plot", file, &err);
    /* The style's own files are long, and beside us: only what is made here is held to a golden file. */
    char *style = strstr(got, "# ---- style.gp");
    if (style)
        strcpy(style, "# ---- style.gp\n");
    if (getenv("PLIMSOLL_UPDATE_GOLDEN"))
        write_text(golden, got);
    char *expected = read_text(golden);
    cr_assert_str_eq(got, expected, "%s", file);
    free(expected);
    free(golden);
    free(got);
    free(path);
}

/* Writes the plot into a directory of its own, which is returned. */
static char *write_plot(const struct suite_plot *plot, const struct result *results, size_t count)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *directory = scratch_path("plots"), *name = NULL;
    cr_assert_eq(plim_make_directories(directory, &err), 0);
    struct plot_job job = { plot, results, count, directory, "png svg" };
    cr_assert_eq(plot_write(&job, &name, &err), 0, "%s", err.message);
    cr_assert_not_null(name);
    free(name);
    return directory;
}

Test(plot, a_curve_is_written_as_data_and_script)
{
    struct result result;
    make_curve_result(&result);
    char *directory = write_plot(&curve_plot, &result, 1);
    expect_golden(directory, "max-dq-size-peak.tsv");
    expect_golden(directory, "max-dq-size-peak.gp");
    free(directory);
    result_release(&result);
}

Test(plot, bars_are_written_as_data_and_script)
{
    struct result result;
    make_bar_result(&result);
    char *directory = write_plot(&bar_plot, &result, 1);
    expect_golden(directory, "low-mem-tags.tsv");
    expect_golden(directory, "low-mem-tags.gp");
    free(directory);
    result_release(&result);
}

Test(plot, bars_of_metrics_are_written_as_data_and_script)
{
    struct result result;
    make_bar_result(&result);
    char *directory = write_plot(&metric_bar_plot, &result, 1);
    expect_golden(directory, "low-mem-speed.tsv");
    expect_golden(directory, "low-mem-speed.gp");
    free(directory);
    result_release(&result);
}

/* ---- what curves say ---- */

static char *preamble_of(const struct suite_plot *plot, const struct result *results, size_t count)
{
    struct plot_job job = { plot, results, count, ".", "png" };
    struct plot_cases cases = { 0 };
    struct plot_text text = { 0 };
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plot_cases_find(&cases, &job, &err), 0);
    cr_assert_eq(plot_curve(&job, &cases, &text, &err), 0, "%s", err.message);
    free(cases.items);
    free(text.data);
    return text.preamble;
}

Test(plot, the_knee_is_the_first_point_of_the_plateau)
{
    struct result result;
    make_curve_result(&result);
    char *text = preamble_of(&curve_plot, &result, 1);
    cr_assert_not_null(strstr(text, "series_title[1] = 'tiny, chunked, knee 8 Mi'"), "%s", text);
    cr_assert_not_null(strstr(text, "series_knee[1] = 8388608\n"), "%s", text);
    free(text);
    result_release(&result);
}

/* Powers of two for bytes, of ten for what has no unit; no logarithm where values are near each other. */
Test(plot, a_log_axis_has_the_base_that_suits_its_unit)
{
    char *y[] = { "peak_requested_fast_bytes", "kl_divergence", "prefill_tokens_per_s", NULL };
    struct suite_plot plot = curve_plot;
    struct plim_err err = PLIM_ERR_INIT;
    struct result result = { 0 };
    static const char *const sizes[] = { "1Mi", "2Mi", "4Mi" };

    plot.y = y;
    for (size_t i = 0; i < 3; i++) {
        char id[40];
        snprintf(id, sizeof id, "tiny/prefill/max_dq_size=%s", sizes[i]);
        struct result_case *c = add_case(&result, id);
        cr_assert_eq(facts_set_text(&c->parameters, "max_dq_size", sizes[i], &err), 0);
        add_metric(c, "peak_requested_fast_bytes", "bytes", 1048576.0 * (double)(1 << 4 * i));
        add_metric(c, "kl_divergence", "", 0.5 / (double)(1 << 4 * i));
        add_metric(c, "prefill_tokens_per_s", "tokens/s", 100 + (double)i);
    }
    char *text = preamble_of(&plot, &result, 1);
    cr_expect_not_null(strstr(text, "panel_log[1] = 2;"), "%s", text);
    cr_expect_not_null(strstr(text, "panel_log[2] = 10;"), "%s", text);
    cr_expect_not_null(strstr(text, "panel_log[3] = 0;"), "%s", text);
    free(text);
    result_release(&result);
}

Test(plot, without_a_plateau_or_without_a_rise_there_is_no_knee)
{
    struct result result;
    make_result(&result, "max-dq-size", "abacus");
    add_curve(&result, "flat", "chunked", 50);
    add_curve(&result, "rising", "chunked", 50);
    for (size_t i = 0; i < 10; i++)   /* ever more, or always the same */
        case_find_metric(&result.cases[i], "peak_requested_fast_bytes")->samples[0] =
            i < 5 ? 1e6 : 1e6 * plot_dimension(&result.cases[i], "max_dq_size");
    char *text = preamble_of(&curve_plot, &result, 1);
    cr_assert_not_null(strstr(text, "series_knee[1] = NaN\n"));
    cr_assert_not_null(strstr(text, "series_knee[2] = NaN\n"));
    cr_assert_null(strstr(text, "the knee,"), "no note about rings where there is none");
    free(text);
    result_release(&result);
}

Test(plot, several_results_are_told_apart_by_their_files)
{
    struct result results[2];
    struct plim_err err = PLIM_ERR_INIT;
    for (size_t i = 0; i < 2; i++) {
        make_result(&results[i], "max-dq-size", "abacus");
        add_curve(&results[i], "tiny", "chunked", 50);
        cr_assert_eq(result_set_string(&results[i].path, i ? "out/after.json" : "out/before.json", &err), 0);
    }
    char *text = preamble_of(&curve_plot, results, 2);
    cr_assert_not_null(strstr(text, "'tiny, chunked, before, knee 8 Mi'"));
    cr_assert_not_null(strstr(text, "'tiny, chunked, after, knee 8 Mi'"));
    free(text);
    result_release(&results[0]);
    result_release(&results[1]);
}

Test(plot, results_of_two_engines_are_told_apart_by_them)
{
    struct result results[2];
    struct plim_err err = PLIM_ERR_INIT;
    for (size_t i = 0; i < 2; i++) {
        make_result(&results[i], "max-dq-size", "abacus");
        add_curve(&results[i], "tiny", "chunked", 50);
    }
    cr_assert_eq(facts_set_text(&results[1].recorded, "engine", "exllamav2 0.3.2", &err), 0);
    char *text = preamble_of(&curve_plot, results, 2);
    cr_assert_not_null(strstr(text, "'tiny, chunked, plimsoll, knee 8 Mi'"), "%s", text);
    cr_assert_not_null(strstr(text, "'tiny, chunked, exllamav2 0.3.2, knee 8 Mi'"), "%s", text);
    free(text);
    result_release(&results[0]);
    result_release(&results[1]);
}

Test(plot, two_cases_on_one_point_are_an_error_that_says_what_to_add)
{
    struct result result;
    struct suite_plot plot = curve_plot;
    struct plim_err err = PLIM_ERR_INIT;
    char *only_model[] = { "model", NULL }, *name;
    make_result(&result, "max-dq-size", "abacus");
    add_curve(&result, "tiny", "chunked", 50);
    add_curve(&result, "tiny", "gated", 40);
    plot.series = only_model;
    struct plot_job job = { &plot, &result, 1, ".", "png" };
    cr_assert_lt(plot_write(&job, &name, &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "\"series\""), "%s", err.message);
    cr_assert_null(name);
    result_release(&result);
}

Test(plot, nothing_to_show_is_no_error_and_no_file)
{
    struct result result;
    struct suite_plot plot = bar_plot;
    struct plim_err err = PLIM_ERR_INIT;
    char *name;
    make_bar_result(&result);
    plot.cases = "other*";
    struct plot_job job = { &plot, &result, 1, "/nowhere", "png" };
    cr_assert_eq(plot_write(&job, &name, &err), 0);
    cr_assert_null(name);
    result_release(&result);
}

Test(plot, names_cannot_leave_their_quotes)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    put_quoted(out, "it's `id`\nset output '/etc/passwd'");
    fclose(out);
    cr_assert_str_eq(text, "'it''s `id` set output ''/etc/passwd'''");
    free(text);
}

/* ---- drawing ---- */

static bool has_gnuplot(void)
{
    return system("gnuplot --version >/dev/null 2>&1") == 0;
}

static void expect_image(const char *directory, const char *file, const char *magic)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = plim_path_join(directory, file, &err), *data;
    size_t bytes;
    cr_assert_eq(plim_read_file(path, 1 << 24, &data, &bytes, &err), 0, "%s", err.message);
    cr_assert_gt(bytes, 5000, "%s is all but empty", file);
    cr_assert_arr_eq(data, magic, strlen(magic));
    free(data);
    free(path);
}

Test(plot, gnuplot_draws_every_kind)
{
    struct result curve, bars;
    struct plim_err err = PLIM_ERR_INIT;
    if (!has_gnuplot())
        cr_skip_test("gnuplot is not installed");
    make_curve_result(&curve);
    make_bar_result(&bars);
    char *directory = write_plot(&curve_plot, &curve, 1);
    cr_assert_eq(plot_draw(directory, "max-dq-size-peak", &err), 0, "%s", err.message);
    expect_image(directory, "max-dq-size-peak.png", "\x89PNG");
    expect_image(directory, "max-dq-size-peak.svg", "<?xml");
    free(directory);
    directory = write_plot(&bar_plot, &bars, 1);
    cr_assert_eq(plot_draw(directory, "low-mem-tags", &err), 0, "%s", err.message);
    expect_image(directory, "low-mem-tags.png", "\x89PNG");
    expect_image(directory, "low-mem-tags.svg", "<?xml");
    free(directory);
    directory = write_plot(&metric_bar_plot, &bars, 1);
    cr_assert_eq(plot_draw(directory, "low-mem-speed", &err), 0, "%s", err.message);
    expect_image(directory, "low-mem-speed.png", "\x89PNG");
    expect_image(directory, "low-mem-speed.svg", "<?xml");
    free(directory);
    result_release(&curve);
    result_release(&bars);
}

Test(plot, a_missing_gnuplot_is_said_plainly)
{
    struct plim_err err = PLIM_ERR_INIT;
    setenv("PATH", "/nonexistent", 1);
    cr_assert_lt(plot_draw(".", "name", &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_SYSTEM);
    cr_assert_not_null(strstr(err.message, "gnuplot is not installed"), "%s", err.message);
}

Test(plot, a_script_that_gnuplot_refuses_is_an_error_with_its_words)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("bad.gp");
    if (!has_gnuplot())
        cr_skip_test("gnuplot is not installed");
    write_text(path, "plat x\n");
    *strrchr(path, '/') = '\0';
    cr_assert_lt(plot_draw(path, "bad", &err), 0);
    cr_assert_eq(err.kind, PLIM_ERR_SYSTEM);
    cr_assert_not_null(strstr(err.message, "plat"), "%s", err.message);
    free(path);
}
