/* A comparison as a pull-request comment: the conclusion, the worst few findings, and the rest folded away. */

#include <math.h>
#include <string.h>

#include "format.h"
#include "table.h"

#define WORST_ROWS 10
#define FOLDED_ROWS 200   /* GitHub refuses comments over 65,536 characters */

static enum text_style verdict_style(enum verdict verdict)
{
    return verdict == VERDICT_FAIL || verdict == VERDICT_BROKEN ? STYLE_BAD : STYLE_PLAIN;
}

static void add_columns(struct table *t)
{
    table_column(t, "verdict", TABLE_LEFT);
    table_column(t, "case", TABLE_LEFT);
    table_column(t, "metric", TABLE_LEFT);
    table_column(t, "baseline", TABLE_RIGHT);
    table_column(t, "result", TABLE_RIGHT);
    table_column(t, "change", TABLE_RIGHT);
    table_column(t, "why", TABLE_LEFT);
}

static void add_row(struct table *t, const struct finding *f)
{
    char text[48];
    table_cell(t, verdict_style(f->verdict), "%s",
               f->verdict == VERDICT_FAIL     ? "FAIL"
               : f->verdict == VERDICT_BROKEN ? "BROKEN"
                                              : verdict_name(f->verdict));
    table_cell(t, STYLE_PLAIN, "%s", finding_case_id(f));
    table_cell(t, STYLE_PLAIN, "%s", finding_metric(f));
    for (int side = 0; side < 2; side++) {
        double value = side ? f->result_value : f->baseline_value;
        bool shown = *finding_metric(f) && isfinite(value);
        table_cell(t, STYLE_PLAIN, "%s", shown ? format_value(text, sizeof text, value, finding_unit(f)) : "");
    }
    table_cell(t, verdict_style(f->verdict), "%s", finding_change(text, sizeof text, f));
    table_cell(t, STYLE_PLAIN, "%s", f->detail);
}

/* Which findings a table takes: the worst ones in sight, or the others, folded. */
struct rows {
    size_t cut;      /* index behind the last finding in sight */
    bool folded;
    bool all;        /* of the folded ones also what passed, is new or was left out */
};

static bool is_in_sight(const struct finding *f, size_t index, size_t cut)
{
    return index < cut && finding_is_news(f);
}

static bool takes(const struct rows *rows, const struct finding *f, size_t index)
{
    bool in_sight = is_in_sight(f, index, rows->cut);
    if (!rows->folded)
        return in_sight;
    return !in_sight && (rows->all || finding_is_news(f) || (f->verdict == VERDICT_INCONCLUSIVE && !f->few_samples));
}

static size_t count_rows(const struct comparison *c, const struct rows *rows)
{
    size_t count = 0;
    for (size_t i = 0; i < c->finding_count; i++)
        count += takes(rows, &c->findings[i], i);
    return count;
}

static int print_rows(const struct comparison *c, const struct rows *rows, size_t limit, FILE *out,
                      struct plim_err *err)
{
    struct table t = TABLE_INIT;
    size_t count = 0;
    add_columns(&t);
    for (size_t i = 0; i < c->finding_count && count < limit; i++) {
        if (takes(rows, &c->findings[i], i)) {
            add_row(&t, &c->findings[i]);
            count++;
        }
    }
    int rc = count ? table_print_markdown(&t, out, err) : 0;
    table_release(&t);
    return rc;
}

static void print_heading(const struct comparison *c, int exit_status, FILE *out)
{
    fprintf(out, "### %s %s: %s\n\n", exit_status == 0 ? "✅" : "❌", c->suite_name,
            comparison_conclusion(c, exit_status));
    comparison_print_counts(c, out);
    fprintf(out, " (%zu compared)\n\n", c->compared_count);
    for (size_t i = 0; i < c->note_count; i++)
        fprintf(out, "> %s\n\n", c->notes[i]);
}

static void print_sources(const struct comparison *c, int exit_status, FILE *out)
{
    fputs("\n<details><summary>What was compared</summary>\n\n", out);
    fprintf(out, "- result: `%s`\n", c->result_path ? c->result_path : "the result");
    for (size_t i = 0; i < c->baseline_count; i++)
        fprintf(out, "- baseline: `%s`\n", c->baseline_paths[i] ? c->baseline_paths[i] : "the baseline");
    fprintf(out, "- exit status: %d\n\n</details>\n", exit_status);
}

int format_markdown(const struct comparison *c, const struct comparison_view *view, FILE *out, struct plim_err *err)
{
    struct rows rows = { .all = view->all };
    for (size_t shown = 0; rows.cut < c->finding_count && shown < WORST_ROWS; rows.cut++)
        shown += finding_is_news(&c->findings[rows.cut]);
    print_heading(c, view->exit_status, out);
    if (print_rows(c, &rows, WORST_ROWS, out, err) < 0)
        return -1;
    rows.folded = true;
    size_t rest = count_rows(c, &rows);
    if (rest) {
        fprintf(out, "\n<details><summary>%zu more</summary>\n\n", rest);
        if (print_rows(c, &rows, FOLDED_ROWS, out, err) < 0)
            return -1;
        if (rest > FOLDED_ROWS)
            fprintf(out, "\n%zu more are not shown; --csv has all.\n", rest - FOLDED_ROWS);
        fputs("\n</details>\n", out);
    }
    print_sources(c, view->exit_status, out);
    return 0;
}
