/* JUnit, CSV, GitHub annotations and Markdown of one comparison with every kind of finding, held to golden files. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "compare_support.h"
#include "format.h"
#include "golden.h"
#include "markup.h"

/* A case whose name needs every escape, one that grew, one that broke, one that is better, one that is slower. */
static void fill(struct result *result, bool after)
{
    make_result(result, "smoke", "abacus");
    struct result_case *c = add_case(result, "a<b>&\"c\",%'\n:d");
    add_exact(c, "peak_requested_fast_bytes", after ? 12288 : 8192);
    add_exact(c, "at_peak_dequant_bytes", after ? 8192 : 4096)->gate.level = GATE_OFF;
    c = add_case(result, "tiny/crashes");
    c->outcome = after ? OUTCOME_CRASHED : OUTCOME_OK;
    c = add_case(result, "tiny/better");
    add_exact(c, "peak_requested_fast_bytes", after ? 4000 : 4096);
    c = add_case(result, "tiny/slow");
    double speed = after ? 80 : 100;
    add_rate(c, SAMPLES(speed, speed * 1.001, speed * 1.002, speed * 1.001, speed, speed * 1.001));
    c = add_case(result, "tiny/same");
    add_exact(c, "peak_requested_fast_bytes", 4096);
    if (after)
        add_exact(c, "new_bytes", 1);
}

struct compared {
    struct result before, after;
    struct comparison comparison;
    struct comparison_view view;
};

static void compare_all(struct compared *all)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct compare_policy policy = compare_policy_default();
    *all = (struct compared){ .comparison = COMPARISON_INIT };
    fill(&all->before, false);
    fill(&all->after, true);
    cr_assert_eq(compare_results(&all->comparison, &all->before, &all->after, &policy, &err), 0, "%s", err.message);
    comparison_sort(&all->comparison);
    all->view.exit_status = comparison_exit_status(&all->comparison, false);
}

static void release(struct compared *all)
{
    comparison_release(&all->comparison);
    result_release(&all->before);
    result_release(&all->after);
}

static void write_junit(const void *context, FILE *out)
{
    format_junit(&((const struct compared *)context)->comparison, out);
}

static void write_csv(const void *context, FILE *out)
{
    format_csv(&((const struct compared *)context)->comparison, out);
}

static void write_github(const void *context, FILE *out)
{
    const struct compared *all = context;
    format_github(&all->comparison, all->view.exit_status, out);
}

static void write_markdown(const void *context, FILE *out)
{
    struct plim_err err = PLIM_ERR_INIT;
    const struct compared *all = context;
    cr_assert_eq(format_markdown(&all->comparison, &all->view, out, &err), 0, "%s", err.message);
}

Test(format, every_kind_of_finding_in_every_format)
{
    static const struct {
        const char *golden;
        void (*write)(const void *, FILE *);
    } formats[] = {
        { "findings.xml", write_junit },
        { "findings.csv", write_csv },
        { "findings.github", write_github },
        { "findings.md", write_markdown },
    };
    struct compared all;
    compare_all(&all);
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        char *text = written(formats[i].write, &all);
        check_golden(formats[i].golden, text);
        free(text);
    }
    release(&all);
}

Test(format, junit_counts_are_those_of_its_elements)
{
    struct compared all;
    compare_all(&all);
    char *text = written(write_junit, &all), expected[80];
    size_t failures = 0, cases = 0;
    for (const char *at = text; (at = strstr(at, "<failure ")); at++)
        failures++;
    for (const char *at = text; (at = strstr(at, "<testcase ")); at++)
        cases++;
    snprintf(expected, sizeof expected, "tests=\"%zu\" failures=\"%zu\" errors=\"1\"", cases, failures);
    cr_assert_not_null(strstr(text, expected), "no %s in %s", expected, text);
    free(text);
    release(&all);
}

Test(format, an_annotation_is_one_line_whatever_a_name_holds)
{
    struct compared all;
    compare_all(&all);
    char *text = written(write_github, &all);
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) && *line;)
        cr_assert(strncmp(line, "::", 2) == 0, "not a command: %s", line);
    free(text);
    release(&all);
}

Test(format, many_findings_make_a_short_comment)
{
    struct compared all = { .comparison = COMPARISON_INIT };
    struct plim_err err = PLIM_ERR_INIT;
    struct compare_policy policy = compare_policy_default();
    make_result(&all.before, "smoke", "abacus");
    make_result(&all.after, "smoke", "abacus");
    for (int i = 0; i < 1000; i++) {
        char id[40];
        snprintf(id, sizeof id, "case/%d", i);
        add_exact(add_case(&all.before, id), "peak_bytes", 4096);
        add_exact(add_case(&all.after, id), "peak_bytes", 8192);
    }
    cr_assert_eq(compare_results(&all.comparison, &all.before, &all.after, &policy, &err), 0, "%s", err.message);
    comparison_sort(&all.comparison);
    all.view.exit_status = 1;
    char *text = written(write_markdown, &all);
    cr_assert_lt(strlen(text), 65536u);   /* GitHub's limit for a comment */
    cr_assert_not_null(strstr(text, "990 more</summary>"));
    cr_assert_not_null(strstr(text, "790 more are not shown"));
    free(text);
    text = written(write_github, &all);
    size_t errors = 0;
    for (const char *at = text; (at = strstr(at, "::error ")); at++)
        errors++;
    cr_assert_eq(errors, 10u);
    free(text);
    release(&all);
}

static void put(const void *context, FILE *out)
{
    markup_put(out, context);
}

Test(markup, nothing_gets_out_of_its_place)
{
    static const char *const cases[][2] = {
        { "<script>alert('1')</script>", "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;" },
        { "\" onload=\"x", "&quot; onload=&quot;x" },
        { "a & b &amp; c", "a &amp; b &amp;amp; c" },
        { "bell\a, null, esc\033[1m", "bell\xef\xbf\xbd, null, esc\xef\xbf\xbd[1m" },
        { "not utf-8: \xff\xc3(", "not utf-8: \xef\xbf\xbd\xef\xbf\xbd(" },
        { "Größe 10 µs", "Größe 10 µs" },
        { "cut \xe2\x82", "cut \xef\xbf\xbd\xef\xbf\xbd" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = written(put, cases[i][0]);
        cr_assert_str_eq(text, cases[i][1]);
        free(text);
    }
}
