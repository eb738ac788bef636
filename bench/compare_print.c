/* A comparison as people and programs read it: a terminal table, JSON, and (format_markdown.c) Markdown. */

#include "compare.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "table.h"

static const enum text_style verdict_styles[VERDICT_COUNT] = {
    [VERDICT_SKIPPED] = STYLE_DIM,  [VERDICT_NEW] = STYLE_DIM,   [VERDICT_PASS] = STYLE_PLAIN,
    [VERDICT_IMPROVED] = STYLE_GOOD, [VERDICT_ALLOWED] = STYLE_WARN, [VERDICT_INCONCLUSIVE] = STYLE_WARN, [VERDICT_STALE] = STYLE_WARN,
    [VERDICT_MISSING] = STYLE_WARN, [VERDICT_WARN] = STYLE_WARN, [VERDICT_FAIL] = STYLE_BAD,
    [VERDICT_INVALID_OUTPUT] = STYLE_BAD, [VERDICT_BROKEN] = STYLE_BAD,
};

static const char *verdict_title(enum verdict verdict)
{
    return verdict == VERDICT_FAIL ? "FAIL" : verdict == VERDICT_BROKEN ? "BROKEN" : verdict_name(verdict);
}

static const char *case_id(const struct finding *f)
{
    return f->result_case ? f->result_case->id : f->baseline_case->id;
}

static const char *metric_name(const struct finding *f)
{
    return f->result ? f->result->name : f->baseline ? f->baseline->name : "";
}

static const char *metric_unit(const struct finding *f)
{
    return f->result ? f->result->unit : f->baseline ? f->baseline->unit : "";
}

static void value_cell(struct table *t, double value, const char *unit)
{
    char text[40];
    table_cell(t, STYLE_PLAIN, "%s", isnan(value) ? "" : format_value(text, sizeof text, value, unit));
}

/* Bytes and counts: the difference itself, since that is what is gated; everything else in percent. */
static void change_cell(struct table *t, const struct finding *f)
{
    char text[40];
    double change = f->result_value - f->baseline_value;
    if (isnan(change))
        table_cell(t, STYLE_PLAIN, "%s", "");
    else if (f->class != METRIC_TIMING && f->class != METRIC_SYSTEM)
        table_cell(t, verdict_styles[f->verdict], "%s", format_difference(text, sizeof text, change, metric_unit(f)));
    else if (f->baseline_value != 0)
        table_cell(t, verdict_styles[f->verdict], "%+.1f%%", 100 * change / f->baseline_value);
    else
        table_cell(t, STYLE_PLAIN, "%s", "");
}

/* On a noisy machine most timings are inconclusive; the worst of them are enough to see that. */
#define INCONCLUSIVE_ROWS 5

/* Whether to show a finding; `inconclusive` counts those that were shown before. */
static bool is_shown(const struct finding *f, size_t inconclusive, bool all)
{
    switch (f->verdict) {
    case VERDICT_PASS:
    case VERDICT_NEW:
    case VERDICT_SKIPPED:
        return all;
    case VERDICT_INCONCLUSIVE:
        return all || (!f->few_samples && inconclusive < INCONCLUSIVE_ROWS);
    default:
        return true;
    }
}

static void fill_row(struct table *t, const struct finding *f)
{
    table_cell(t, verdict_styles[f->verdict], "%s", verdict_title(f->verdict));
    table_cell(t, STYLE_PLAIN, "%s", case_id(f));
    table_cell(t, STYLE_PLAIN, "%s", metric_name(f));
    value_cell(t, f->baseline_value, metric_unit(f));
    value_cell(t, f->result_value, metric_unit(f));
    change_cell(t, f);
    table_cell(t, STYLE_DIM, "%s", f->detail);
}

/* Returns the number of rows; counts the inconclusive findings that got none. */
static size_t fill_table(struct table *t, const struct comparison *c, bool all, size_t *hidden)
{
    size_t rows = 0, inconclusive = 0;
    *hidden = 0;
    table_column(t, "verdict", TABLE_LEFT);
    table_column(t, "case", TABLE_LEFT);
    table_column(t, "metric", TABLE_LEFT);
    table_column(t, "baseline", TABLE_RIGHT);
    table_column(t, "result", TABLE_RIGHT);
    table_column(t, "change", TABLE_RIGHT);
    table_column(t, "why", TABLE_LEFT);
    for (size_t i = 0; i < c->finding_count; i++) {
        const struct finding *f = &c->findings[i];
        if (is_shown(f, inconclusive, all)) {
            fill_row(t, f);
            rows++;
            inconclusive += f->verdict == VERDICT_INCONCLUSIVE;
        } else {
            *hidden += f->verdict == VERDICT_INCONCLUSIVE;
        }
    }
    return rows;
}

/* How many times better the result is: 2 for half the time, or for twice the tokens a second. */
static void ratio_cell(struct table *t, const struct finding *f)
{
    bool more_is_better = f->result->direction == DIRECTION_HIGHER;
    double good = more_is_better ? f->result_value : f->baseline_value;
    double bad = more_is_better ? f->baseline_value : f->result_value;
    double ratio = good / bad;
    if (bad > 0 && f->result->direction != DIRECTION_NONE)
        table_cell(t, ratio >= 1 ? STYLE_GOOD : STYLE_BAD, ratio < 9.995 ? "%.2f" : "%.1f", ratio);
    else
        table_cell(t, STYLE_PLAIN, "%s", "");
}

/* Two engines: what both report, as it comes; which is better is no verdict on a change. */
static size_t fill_side_by_side(struct table *t, const struct comparison *c)
{
    size_t rows = 0;
    table_column(t, "case", TABLE_LEFT);
    table_column(t, "metric", TABLE_LEFT);
    table_column(t, c->engines[0], TABLE_RIGHT);
    table_column(t, c->engines[1], TABLE_RIGHT);
    table_column(t, "times better", TABLE_RIGHT);
    for (size_t i = 0; i < c->finding_count; i++) {
        const struct finding *f = &c->findings[i];
        if (isnan(f->baseline_value) || isnan(f->result_value))
            continue;
        table_cell(t, STYLE_PLAIN, "%s", case_id(f));
        table_cell(t, STYLE_PLAIN, "%s", metric_name(f));
        value_cell(t, f->baseline_value, metric_unit(f));
        value_cell(t, f->result_value, metric_unit(f));
        ratio_cell(t, f);
        rows++;
    }
    return rows;
}

/* "41 compared: 1 FAIL, 40 pass; 3 new, 2 skipped" */
static void print_summary(const struct comparison *c, int exit_status, FILE *out, bool colours)
{
    enum text_style style = exit_status == 0 ? STYLE_GOOD : STYLE_BAD;
    fprintf(out, "%s%s%s: %zu compared%s", style_begin(style, colours), comparison_conclusion(c, exit_status),
            style_end(style, colours), c->compared_count, c->finding_count ? ": " : "");
    comparison_print_counts(c, out);
    fprintf(out, "; exit status %d\n", exit_status);
}

static void print_heading(const struct comparison *c, FILE *out, bool colours)
{
    enum text_style style = colours ? STYLE_STRONG : STYLE_PLAIN;
    fprintf(out, "%s%s%s: %s against ", style_begin(style, colours), c->suite_name, style_end(style, colours),
            c->result_path ? c->result_path : "the result");
    for (size_t i = 0; i < c->baseline_count; i++)
        fprintf(out, "%s%s", i ? " and " : "", c->baseline_paths[i] ? c->baseline_paths[i] : "the baseline");
    fputc('\n', out);
    for (size_t i = 0; i < c->note_count; i++)
        fprintf(out, "%s%s%s\n", style_begin(STYLE_WARN, colours), c->notes[i], style_end(STYLE_WARN, colours));
}

static int print_text(const struct comparison *c, const struct comparison_view *view, FILE *out, struct plim_err *err)
{
    bool colours = table_colours(out);
    struct table t = TABLE_INIT;
    size_t hidden = 0;
    int rc = 0;
    print_heading(c, out, colours);
    if ((c->engines[0] ? fill_side_by_side(&t, c) : fill_table(&t, c, view->all, &hidden)) > 0)
        rc = table_print(&t, out, colours, err);
    table_release(&t);
    if (rc == 0 && !c->engines[0]) {
        print_summary(c, view->exit_status, out, colours);
        if (hidden)
            fprintf(out, "%zu inconclusive timing%s not shown (--all shows them; more repeats make them fewer)\n", hidden,
                    hidden == 1 ? "" : "s");
    }
    return rc;
}

/* ---- JSON ---- */

static void add_number(cJSON *object, const char *name, double value)
{
    if (isfinite(value))
        cJSON_AddNumberToObject(object, name, value);
}

static cJSON *finding_to_json(const struct finding *f)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "case", case_id(f));
    if (*metric_name(f)) {
        cJSON_AddStringToObject(object, "metric", metric_name(f));
        cJSON_AddStringToObject(object, "class", metric_class_name(f->class));
        cJSON_AddStringToObject(object, "unit", metric_unit(f));
    }
    cJSON_AddStringToObject(object, "verdict", verdict_name(f->verdict));
    add_number(object, "baseline", f->baseline_value);
    add_number(object, "result", f->result_value);
    if (f->slowdown.estimate > 0) {
        cJSON *slowdown = cJSON_AddObjectToObject(object, "slowdown");
        add_number(slowdown, "estimate", f->slowdown.estimate);
        add_number(slowdown, "low", f->slowdown.low);
        add_number(slowdown, "high", f->slowdown.high);
    }
    cJSON_AddStringToObject(object, "detail", f->detail);
    return object;
}

cJSON *comparison_to_json(const struct comparison *c, int exit_status)
{
    cJSON *root = cJSON_CreateObject(), *schema = cJSON_AddObjectToObject(root, "schema");
    cJSON_AddStringToObject(schema, "name", "plimsoll-comparison");
    cJSON_AddNumberToObject(schema, "major", 1);
    cJSON_AddNumberToObject(schema, "minor", 0);
    cJSON_AddStringToObject(root, "suite", c->suite_name);
    cJSON_AddStringToObject(root, "result", c->result_path ? c->result_path : "");
    cJSON *baselines = cJSON_AddArrayToObject(root, "baselines");
    for (size_t i = 0; i < c->baseline_count; i++)
        cJSON_AddItemToArray(baselines, cJSON_CreateString(c->baseline_paths[i] ? c->baseline_paths[i] : ""));
    cJSON_AddNumberToObject(root, "exit_status", exit_status);
    cJSON_AddStringToObject(root, "conclusion", comparison_conclusion(c, exit_status));
    cJSON_AddNumberToObject(root, "compared", (double)c->compared_count);
    cJSON *counts = cJSON_AddObjectToObject(root, "counts");
    for (int v = VERDICT_COUNT - 1; v >= 0; v--)
        cJSON_AddNumberToObject(counts, verdict_name((enum verdict)v), (double)c->counts[v]);
    cJSON *notes = cJSON_AddArrayToObject(root, "notes");
    for (size_t i = 0; i < c->note_count; i++)
        cJSON_AddItemToArray(notes, cJSON_CreateString(c->notes[i]));
    cJSON *findings = cJSON_AddArrayToObject(root, "findings");
    for (size_t i = 0; i < c->finding_count; i++)
        cJSON_AddItemToArray(findings, finding_to_json(&c->findings[i]));
    return root;
}

static int print_json(const struct comparison *c, const struct comparison_view *view, FILE *out, struct plim_err *err)
{
    cJSON *root = comparison_to_json(c, view->exit_status);
    char *text = cJSON_Print(root);
    int rc = 0;
    if (text)
        fprintf(out, "%s\n", text);
    else
        rc = plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a comparison as JSON");
    cJSON_free(text);
    cJSON_Delete(root);
    return rc;
}

int comparison_print(const struct comparison *comparison, const struct comparison_view *view, FILE *out,
                     struct plim_err *err)
{
    int rc = view->format == COMPARISON_JSON       ? print_json(comparison, view, out, err)
             : view->format == COMPARISON_MARKDOWN ? format_markdown(comparison, view, out, err)
                                                   : print_text(comparison, view, out, err);
    if (rc < 0)
        return -1;
    if (fflush(out) != 0 || ferror(out))
        return plim_err_errno(err, "writing the comparison");
    return 0;
}
