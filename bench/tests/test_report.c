/* The report page: what is on it and in which order; that it is well-formed, safe and small, and fits a phone. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "compare_support.h"
#include "golden.h"
#include "heap.h"
#include "markup.h"
#include "plimsoll/pool.h"
#include "report.h"
#include "runner.h"

struct page {
    struct result before, after;
    struct comparison comparison;
    char *text;
};

static void add_tags(struct result_case *c, double dequant, double activations)
{
    add_exact(c, "peak_requested_fast_bytes", dequant + activations);
    add_exact(c, "at_peak_dequant_bytes", dequant)->gate.level = GATE_OFF;
    add_exact(c, "at_peak_activations_bytes", activations)->gate.level = GATE_OFF;
}

#define MIB 1048576.0

static void fill(struct result *result, bool after)
{
    struct plim_err err = PLIM_ERR_INIT;
    make_result(result, "smoke", "abacus");
    struct result_case *c = add_case(result, "tiny/steady");
    add_tags(c, 2 * MIB, 4 * MIB);
    add_rate(c, SAMPLES(50, 51, 52, 50, 51, 52));
    c = add_case(result, "tiny/grown,max_dq_size=1Mi");
    add_tags(c, after ? 5 * MIB : 4 * MIB, 4 * MIB);
    add_rate(c, SAMPLES(60, 61, 60, 61, 60, 61));
    c = add_case(result, "tiny/<script>alert(1)</script>&\"'");
    c->outcome = after ? OUTCOME_OUT_OF_MEMORY : OUTCOME_OK;
    cr_assert_eq(result_set_string(&c->detail, after ? "refused <b>4 KiB</b>" : "", &err), 0);
}

/* Compares and writes; `with_baseline` false: a result alone. */
static void make_page(struct page *page, bool with_baseline)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct compare_policy policy = compare_policy_default();
    struct report_input input = { .result = &page->after };
    size_t bytes = 0;
    page->comparison = (struct comparison)COMPARISON_INIT;
    if (with_baseline) {
        cr_assert_eq(compare_results(&page->comparison, &page->before, &page->after, &policy, &err), 0, "%s",
                     err.message);
        comparison_sort(&page->comparison);
        input.memory_before = input.timings_before = &page->before;
        input.comparison = &page->comparison;
        input.exit_status = comparison_exit_status(&page->comparison, false);
    }
    FILE *out = open_memstream(&page->text, &bytes);
    cr_assert_not_null(out);
    cr_assert_eq(report_write(&input, out, &err), 0, "%s", err.message);
    cr_assert_eq(fclose(out), 0);
}

static void release(struct page *page)
{
    comparison_release(&page->comparison);
    result_release(&page->before);
    result_release(&page->after);
    free(page->text);
}

/* Every element that is opened is closed, in order, and every '&' begins a reference. */
static void check_well_formed(const char *text)
{
    char stack[64][24];
    size_t depth = 0;
    const char *at = strchr(strstr(text, "<!DOCTYPE"), '>') + 1;
    for (; *at; at++) {
        if (*at == '&') {
            size_t name = strspn(at + 1, "#abcdefghijklmnopqrstuvwxyz0123456789");
            cr_assert(name > 1 && at[1 + name] == ';', "bare &: %.40s", at);
        }
        if (*at != '<')
            continue;
        const char *end = strchr(at, '>');
        cr_assert_not_null(end, "unclosed tag: %.40s", at);
        char name[24];
        bool closes = at[1] == '/';
        int length = (int)strcspn(at + 1 + closes, " />");
        snprintf(name, sizeof name, "%.*s", length, at + 1 + closes);
        if (closes) {
            cr_assert_gt(depth, 0u, "nothing is open: %.40s", at);
            cr_assert_str_eq(stack[--depth], name, "%.60s closes %s", at, stack[depth]);
        } else if (end[-1] != '/') {
            cr_assert_lt(depth, 64u);
            strcpy(stack[depth++], name);
        }
        at = end;
    }
    cr_assert_eq(depth, 0u, "%s stays open", depth ? stack[depth - 1] : "");
}

/* A text's headings, findings, captions and summaries, one a line without markup: what a reader meets, in order. */
static char *outline(const char *text)
{
    static const char *const elements[] = { "<h1",         "<h2",      "<h3", "<li class",
                                            "<figcaption", "<summary", "<b>", "<p class=\"note" };
    char *out = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&out, &bytes);
    for (const char *at = strstr(text, "<body>"); *at; at++) {
        const char *found = NULL;
        for (size_t i = 0; i < sizeof elements / sizeof elements[0]; i++)
            found = strncmp(at, elements[i], strlen(elements[i])) == 0 ? elements[i] : found;
        if (!found)
            continue;
        char close[24];
        snprintf(close, sizeof close, "</%.*s", (int)strcspn(found + 1, " "), found + 1);
        const char *end = strstr(at, close[2] == 'b' ? "</b>" : close);
        fprintf(stream, "%.*s: ", (int)strcspn(close + 2, ">"), close + 2);
        for (; at < end; at++) {
            if (*at == '<') {
                at = strchr(at, '>');
                fputs(strncmp(at - 4, "<br/", 4) == 0 || strncmp(at - 5, "/span", 5) == 0 ? " " : "", stream);
            } else
                fputc(*at == '\n' ? ' ' : *at, stream);
        }
        fputc('\n', stream);
    }
    fclose(stream);
    return out;
}

Test(report, says_the_worst_first)
{
    struct page page;
    fill(&page.before, false);
    fill(&page.after, true);
    make_page(&page, true);
    check_well_formed(page.text);
    char *lines = outline(page.text);
    check_golden("report.outline", lines);
    free(lines);
    release(&page);
}

Test(report, a_result_alone_is_a_report_too)
{
    struct page page;
    fill(&page.before, false);
    fill(&page.after, true);
    make_page(&page, false);
    check_well_formed(page.text);
    cr_assert_not_null(strstr(page.text, "3 cases measured"));
    cr_assert_not_null(strstr(page.text, "What made the peak"));
    cr_assert_null(strstr(page.text, "before</text>"));
    release(&page);
}

Test(report, stands_alone_and_lets_nothing_in)
{
    struct page page;
    fill(&page.before, false);
    fill(&page.after, true);
    make_page(&page, true);
    cr_assert_null(strstr(page.text, "<script"));
    cr_assert_null(strstr(page.text, "<b>4 KiB"));
    cr_assert_null(strstr(page.text, " src="));
    cr_assert_null(strstr(page.text, " href="));
    cr_assert_null(strstr(page.text, "url("));
    cr_assert_null(strstr(page.text, "@import"));
    for (const char *at = page.text; (at = strstr(at, "http")); at++)
        cr_assert(strncmp(at - 7, "xmlns=\"", 7) == 0, "a link: %.40s", at);
    release(&page);
}

Test(report, a_thousand_cases_stay_below_a_megabyte)
{
    struct page page;
    make_result(&page.before, "smoke", "abacus");
    make_result(&page.after, "smoke", "abacus");
    for (int i = 0; i < 1000; i++) {
        char id[60];
        snprintf(id, sizeof id, "tiny/case,parameter=%d", i);
        struct result_case *cases[] = { add_case(&page.before, id), add_case(&page.after, id) };
        for (int side = 0; side < 2; side++) {
            add_tags(cases[side], (4 + side * (i % 2)) * MIB, 4 * MIB);
            add_rate(cases[side], SAMPLES(60, 61, 60, 61, 60, 61));
            for (int m = 0; m < 12; m++) {
                snprintf(id, sizeof id, "metric_%d_bytes", m);
                add_exact(cases[side], id, m + i);
            }
        }
    }
    make_page(&page, true);
    check_well_formed(page.text);
    cr_assert_lt(strlen(page.text), (size_t)REPORT_BYTES_LIMIT);
    cr_assert_not_null(strstr(page.text, "more cases do not fit on this page"));
    release(&page);
}

Test(report, is_an_empty_page_for_an_empty_result)
{
    struct page page;
    make_result(&page.before, "smoke", "abacus");
    make_result(&page.after, "smoke", "abacus");
    make_page(&page, true);
    check_well_formed(page.text);
    cr_assert_not_null(strstr(page.text, "Nothing was compared"));
    release(&page);
}

/* A pool that holds 1 MiB of activations throughout and 3 MiB of dequant for a while, in layers.2. */
static void write_trace(const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool;
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(plim_pool_trace_start(pool, path, &err), 0, "%s", err.message);
    void *activations = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, 1 << 20, &err);
    plim_pool_set_scope(pool, "layers.2");
    void *dequant = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, 3 << 20, &err);
    cr_assert(activations && dequant);
    plim_pool_free(pool, dequant);
    plim_pool_free(pool, activations);
    cr_assert_eq(plim_pool_trace_stop(pool, &err), 0, "%s", err.message);
    plim_pool_close(pool);
}

Test(report, memory_over_time_names_who_held_the_peak)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    char *directory = scratch_path(""), *text = NULL;
    size_t bytes = 0;
    fill(&result, true);
    char *path = runner_trace_path(directory, "tiny/steady", &err);
    write_trace(path);
    FILE *out = open_memstream(&text, &bytes);
    cr_assert_eq(report_write(&(struct report_input){ .result = &result, .trace_directory = directory }, out, &err), 0,
                 "%s", err.message);
    cr_assert_eq(fclose(out), 0);
    check_well_formed(text);
    cr_assert_not_null(strstr(text, "Peak 4.00 MiB in layers.2; most by dequant 3.00 MiB (write_trace in layers.2)"),
                       "%s", strstr(text, "Peak "));
    size_t bands = 0;
    for (const char *at = text; (at = strstr(at, "<polygon")); at++)
        bands++;
    cr_assert_eq(bands, 2u, "a band for each tag that was used");
    free(text);
    free(path);
    free(directory);
    result_release(&result);
}

/* Whether `page` overflows a frame of a phone's width, as the browser lays it out; the page itself has no scripts. */
static char *framed(const char *page)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    cr_assert_not_null(out);
    fputs("<!DOCTYPE html><html><body><iframe id=\"f\" style=\"width:375px;height:800px;border:0\" srcdoc=\"", out);
    markup_put(out, page);
    fputs("\"></iframe><script>window.onload = function () { var d = document.getElementById('f').contentDocument;"
          "document.documentElement.dataset.drawings = d.querySelectorAll('svg').length;"
          "document.documentElement.dataset.overflow = d.documentElement.scrollWidth - d.documentElement.clientWidth; }"
          "</script></body></html>",
          out);
    cr_assert_eq(fclose(out), 0);
    return text;
}

/* Asks a real browser, where there is one, whether anything is wider than a phone. */
Test(report, fits_a_phone, .timeout = 120)
{
    if (system("command -v chromium >/dev/null 2>&1") != 0)
        cr_skip_test("no chromium");
    struct page page;
    struct plim_err err = PLIM_ERR_INIT;
    fill(&page.before, false);
    fill(&page.after, true);
    make_page(&page, true);
    char *path = scratch_path("page.html"), *frame = framed(page.text);
    write_text(path, frame);
    char *command = heap_printf(&err,
                                "HOME=$(dirname '%s') timeout 60 chromium --headless --no-sandbox --disable-gpu "
                                "--window-size=600,900 --dump-dom 'file://%s' 2>/dev/null | head -c 200",
                                path, path);
    char dom[300] = "";
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    dom[fread(dom, 1, sizeof dom - 1, pipe)] = '\0';
    pclose(pipe);
    cr_assert_not_null(strstr(dom, "data-overflow=\"0\""), "%s", dom);
    cr_assert_not_null(strstr(dom, "data-drawings=\"5\""), "%s", dom);
    free(command);
    free(frame);
    free(path);
    release(&page);
}
