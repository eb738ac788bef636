/* The first screen: the conclusion, and the worst news. */

#include <math.h>
#include <string.h>
#include <time.h>

#include "format.h"
#include "markup.h"
#include "report_parts.h"
#include "table.h"

#define WORST_IN_SIGHT 6   /* cases */
#define CARD_LIMIT 100
#define CARD_LINES 4

static const char *verdict_class(enum verdict verdict)
{
    switch (verdict) {
    case VERDICT_FAIL:
    case VERDICT_BROKEN:
        return "bad";
    case VERDICT_INVALID_OUTPUT:
        return "bad";
    case VERDICT_WARN:
    case VERDICT_ALLOWED:
    case VERDICT_MISSING:
    case VERDICT_STALE:
        return "warn";
    case VERDICT_IMPROVED:
        return "good";
    default:
        return "plain";
    }
}

static void put_line(FILE *out, const struct finding *f)
{
    char before[48], after[48], change[48];
    fputs("<br/>", out);
    if (*finding_metric(f)) {
        markup_put(out, finding_metric(f));
        if (isfinite(f->baseline_value) && isfinite(f->result_value)) {
            fputs(" <span class=\"numbers\">", out);
            markup_put(out, format_value(before, sizeof before, f->baseline_value, finding_unit(f)));
            fputs(" → ", out);
            markup_put(out, format_value(after, sizeof after, f->result_value, finding_unit(f)));
            fprintf(out, " <b class=\"%s\">", verdict_class(f->verdict));
            markup_put(out, finding_change(change, sizeof change, f));
            fputs("</b></span>", out);
        }
    }
    if (*f->detail) {
        fprintf(out, "%s<span class=\"why%s\">", *finding_metric(f) ? " · " : "", finding_is_bad(f) ? " strong" : "");
        markup_put(out, f->detail);
        fputs("</span>", out);
    }
}

/* All news about one case, from its worst finding on. */
static void put_card(FILE *out, const struct comparison *c, size_t first)
{
    const struct finding *worst = &c->findings[first];
    size_t shown = 0, hidden = 0;
    fprintf(out, "<li class=\"%s\"><span class=\"tag\">%s</span><span class=\"case\">", verdict_class(worst->verdict),
            verdict_name(worst->verdict));
    report_put_id(out, finding_case_id(worst));
    fputs("</span>", out);
    for (size_t i = first; i < c->finding_count; i++) {
        const struct finding *f = &c->findings[i];
        if (!finding_is_news(f) || strcmp(finding_case_id(f), finding_case_id(worst)) != 0)
            continue;
        if (shown == CARD_LINES) {
            hidden++;
            continue;
        }
        put_line(out, f);
        shown++;
    }
    if (hidden)
        fprintf(out, "<br/><span class=\"why\">and %zu more</span>", hidden);
    fputs("</li>\n", out);
}

/* The worst finding of each case that has news, at most `limit` cases; returns how many. */
static size_t find_cards(const struct comparison *c, size_t *cards, size_t limit)
{
    size_t count = 0;
    for (size_t i = 0; i < c->finding_count && count < limit; i++) {
        size_t k = 0;
        if (!finding_is_news(&c->findings[i]))
            continue;
        while (k < count && strcmp(finding_case_id(&c->findings[cards[k]]), finding_case_id(&c->findings[i])) != 0)
            k++;
        if (k == count)
            cards[count++] = i;
    }
    return count;
}

/* Findings come sorted, so the first ones are the worst. */
static void put_findings(FILE *out, const struct comparison *c)
{
    size_t cards[CARD_LIMIT], count = find_cards(c, cards, CARD_LIMIT);
    if (!count)
        return;
    fputs("<ul class=\"findings\">\n", out);
    for (size_t i = 0; i < count; i++) {
        if (i == WORST_IN_SIGHT)
            fprintf(out, "</ul>\n<details><summary>%zu more cases</summary><ul class=\"findings\">\n", count - i);
        put_card(out, c, cards[i]);
    }
    fputs("</ul>\n", out);
    if (count == CARD_LIMIT)
        fputs("<p class=\"hint\">There may be more; <code>--csv</code> has all.</p>", out);
    if (count > WORST_IN_SIGHT)
        fputs("</details>\n", out);
}

static void put_outcomes(FILE *out, const struct result *result)
{
    size_t bad = 0;
    for (size_t i = 0; i < result->case_count; i++)
        bad += result->cases[i].outcome != OUTCOME_OK;
    fprintf(out, "<div class=\"banner plain\"><b>%zu cases measured</b><span>%zu not ok; no baseline to compare with",
            result->case_count, bad);
    fputs("</span></div>\n", out);
    if (!bad)
        return;
    fputs("<ul class=\"findings\">\n", out);
    for (size_t i = 0, shown = 0; i < result->case_count && shown < WORST_IN_SIGHT; i++) {
        const struct result_case *c = &result->cases[i];
        if (c->outcome == OUTCOME_OK)
            continue;
        fprintf(out, "<li class=\"warn\"><span class=\"tag\">%s</span><span class=\"case\">", outcome_name(c->outcome));
        report_put_id(out, c->id);
        fputs("</span><br/><span class=\"why\">", out);
        markup_put(out, c->detail ? c->detail : "");
        fputs("</span></li>\n", out);
        shown++;
    }
    fputs("</ul>\n", out);
}

/* "2026-11-24T07:30:00Z" as "24 Nov 2026, 07:30 UTC"; what is no such time as it is. */
static void put_time(FILE *out, const char *utc)
{
    struct tm time = { 0 };
    char text[40];
    const char *end = strptime(utc, "%Y-%m-%dT%H:%M:%SZ", &time);
    if (!end || *end || !strftime(text, sizeof text, "%e %b %Y, %H:%M UTC", &time))
        markup_put(out, utc);
    else
        fputs(text + (*text == ' '), out);
}

void report_summary(const struct report_input *input, FILE *out)
{
    const struct comparison *c = input->comparison;
    fputs("<h1>", out);
    markup_put(out, input->result->suite_name);
    if (input->result->started_utc) {
        fputs(" · ", out);
        put_time(out, input->result->started_utc);
    }
    const struct fact *revision = facts_find(&input->result->recorded, "git_revision");
    if (revision && revision->text) {
        fputs(" · ", out);
        markup_put(out, revision->text);
    }
    fputs("</h1>\n", out);
    if (!c) {
        put_outcomes(out, input->result);
        return;
    }
    const char *words = comparison_conclusion(c, input->exit_status);
    fprintf(out, "<div class=\"banner%s\"><b>%c%s</b><span>", input->exit_status ? " bad" : "",
            *words >= 'a' && *words <= 'z' ? *words - 'a' + 'A' : *words, *words ? words + 1 : "");
    comparison_print_counts(c, out);
    fprintf(out, " · %zu compared</span></div>\n", c->compared_count);
    put_findings(out, c);
    for (size_t i = 0; i < c->note_count; i++) {
        fputs("<p class=\"note\">", out);
        markup_put(out, c->notes[i]);
        fputs("</p>\n", out);
    }
}
