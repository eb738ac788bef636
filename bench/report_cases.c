/* Every case, folded, worst first; and the machine. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "heap.h"
#include "markup.h"
#include "report_parts.h"
#include "table.h"

const struct result_case *report_case_before(const struct result *before, const struct result_case *c)
{
    return before && c ? result_find_case(before, c->id) : NULL;
}

enum verdict report_case_verdict(const struct report_input *input, const struct result_case *c)
{
    /* Sorted worst first: the first one is it. */
    for (size_t i = 0; input->comparison && i < input->comparison->finding_count; i++) {
        if (input->comparison->findings[i].result_case == c)
            return input->comparison->findings[i].verdict;
    }
    return VERDICT_PASS;
}

const struct metric *report_leading_timing(const struct result_case *c)
{
    const struct metric *first = NULL;
    for (size_t i = 0; i < c->metric_count; i++) {
        const struct metric *m = &c->metrics[i];
        if (m->class != METRIC_TIMING || !m->sample_count)
            continue;
        if (strcmp(m->unit, "tokens/s") == 0)
            return m;
        if (!first && strcmp(m->unit, "ns") == 0)
            first = m;
    }
    return first;
}

struct ranked {
    const struct result_case *c;
    enum verdict verdict;
    size_t order;
};

static int worst_first(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->verdict != y->verdict)
        return x->verdict > y->verdict ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static const char *verdict_class(enum verdict verdict)
{
    return verdict == VERDICT_FAIL || verdict == VERDICT_BROKEN ? "bad"
           : verdict == VERDICT_ALLOWED                         ? "warn"
           : verdict == VERDICT_IMPROVED                        ? "good"
           : verdict >= VERDICT_STALE                           ? "warn"
                                                                : "plain";
}

static void put_facts(FILE *out, const char *title, const struct facts *facts)
{
    char number[40];
    if (!facts->count)
        return;
    fprintf(out, "<p class=\"hint\">%s: ", title);
    for (size_t i = 0; i < facts->count; i++) {
        const struct fact *f = &facts->items[i];
        fputs(i ? ", " : "", out);
        markup_put(out, f->name);
        fputc('=', out);
        markup_put(out, f->text ? f->text : format_number(number, sizeof number, f->number));
    }
    fputs("</p>\n", out);
}

static const struct finding *find_finding(const struct report_input *input, const struct metric *metric)
{
    for (size_t i = 0; input->comparison && i < input->comparison->finding_count; i++) {
        if (input->comparison->findings[i].result == metric)
            return &input->comparison->findings[i];
    }
    return NULL;
}

static void put_value(FILE *out, const struct metric *metric)
{
    char text[40];
    fputs("<td class=\"n\">", out);
    if (metric && metric->texts.count)
        markup_printf(out, "%.16s", metric->texts.items[0].text);
    else if (metric && metric->sample_count)
        markup_put(out, format_value(text, sizeof text, metric_median(metric), metric->unit));
    fputs("</td>", out);
}

static void put_metric(FILE *out, const struct report_input *input, const struct result_case *c, const struct metric *m)
{
    const struct result_case *sides[] = { report_case_before(input->memory_before, c),
                                          report_case_before(input->timings_before, c) };
    const struct metric *before = NULL;
    for (int i = 0; i < 2 && !before; i++)
        before = sides[i] ? case_find_metric(sides[i], m->name) : NULL;
    const struct finding *f = find_finding(input, m);
    char change[48];
    fputs("<tr><td>", out);
    markup_put(out, m->name);
    fputs("</td>", out);
    if (input->comparison)
        put_value(out, before);
    put_value(out, m);
    if (input->comparison)
        fprintf(out, "<td class=\"%s\">%s %s</td>", f ? verdict_class(f->verdict) : "plain",
                f ? verdict_name(f->verdict) : "",
                f && finding_is_news(f) ? finding_change(change, sizeof change, f) : "");
    fputs("</tr>\n", out);
}

static void put_case(FILE *out, const struct report_input *input, const struct ranked *ranked)
{
    const struct result_case *c = ranked->c;
    const struct metric *peak = case_find_metric(c, "peak_requested_fast_bytes"), *timing = report_leading_timing(c);
    char text[48];
    fputs("<details><summary>", out);
    if (ranked->verdict >= VERDICT_STALE || ranked->verdict == VERDICT_IMPROVED ||
        ranked->verdict == VERDICT_ALLOWED)
        fprintf(out, "<b class=\"%s\">%s</b> ", verdict_class(ranked->verdict), verdict_name(ranked->verdict));
    report_put_id(out, c->id);
    fputs(" <span class=\"numbers\">", out);
    if (c->outcome != OUTCOME_OK)
        markup_put(out, outcome_name(c->outcome));
    else if (peak && peak->sample_count)
        markup_put(out, format_value(text, sizeof text, metric_median(peak), "bytes"));
    if (timing)
        markup_printf(out, " · %s", format_value(text, sizeof text, metric_median(timing), timing->unit));
    fputs("</span></summary>\n", out);
    if (c->detail && *c->detail) {
        fputs("<p>", out);
        markup_put(out, c->detail);
        fputs("</p>\n", out);
    }
    put_facts(out, "arguments", &c->arguments);
    put_facts(out, "parameters", &c->parameters);
    fprintf(out, "<div class=\"scroll\"><table><tr><th>metric</th>%s<th>%s</th>%s</tr>\n",
            input->comparison ? "<th>before</th>" : "", input->comparison ? "after" : "value",
            input->comparison ? "<th>verdict</th>" : "");
    for (size_t i = 0; i < c->metric_count; i++)
        put_metric(out, input, c, &c->metrics[i]);
    fputs("</table></div></details>\n", out);
}

/* A case as text of its own, so that its size is known before it goes onto the page. */
static char *format_case(const struct report_input *input, const struct ranked *ranked, size_t *bytes)
{
    char *text = NULL;
    FILE *stream = open_memstream(&text, bytes);
    if (!stream)
        return NULL;
    put_case(stream, input, ranked);
    if (fclose(stream) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

int report_cases(const struct report_input *input, size_t room_bytes, FILE *out, struct plim_err *err)
{
    const struct result *result = input->result;
    struct ranked *ranked = heap_calloc(result->case_count, sizeof *ranked, err);
    int rc = ranked ? 0 : -1;
    for (size_t i = 0; ranked && i < result->case_count; i++)
        ranked[i] = (struct ranked){ &result->cases[i], report_case_verdict(input, &result->cases[i]), i };
    if (ranked && result->case_count) {
        qsort(ranked, result->case_count, sizeof *ranked, worst_first);
        fputs("<h2>Cases</h2>\n", out);
        for (size_t i = 0; i < result->case_count; i++) {
            size_t bytes = 0;
            char *text = format_case(input, &ranked[i], &bytes);
            if (!text)
                rc = plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the report");
            if (text && bytes <= room_bytes)
                fwrite(text, 1, bytes, out);
            free(text);
            if (rc < 0 || bytes > room_bytes) {
                if (rc == 0)
                    fprintf(out, "<p class=\"note\">%zu more cases do not fit on this page.</p>\n",
                            result->case_count - i);
                break;
            }
            room_bytes -= bytes;
        }
    }
    free(ranked);
    return rc;
}

/* ---- the machine ---- */

static void put_fact_rows(FILE *out, const struct facts *facts, const struct facts *before)
{
    char number[40], other[40];
    for (size_t i = 0; i < facts->count; i++) {
        const struct fact *f = &facts->items[i], *old = before ? facts_find(before, f->name) : NULL;
        const char *unit = strstr(f->name, "_bytes_per_s")  ? "bytes/s"
                           : strstr(f->name, "flops_per_s") ? "flop/s"
                                                            : NULL;
        const char *now = f->text ? f->text : unit ? format_value(number, sizeof number, f->number, unit)
                                                   : format_number(number, sizeof number, f->number);
        const char *was = !old        ? now
                          : old->text ? old->text
                          : unit      ? format_value(other, sizeof other, old->number, unit)
                                      : format_number(other, sizeof other, old->number);
        fputs("<tr><td>", out);
        markup_put(out, f->name);
        fputs("</td><td>", out);
        markup_put(out, now);
        if (strcmp(was, now) != 0) {
            fputs(" <span class=\"why\">(before: ", out);
            markup_put(out, was);
            fputs(")</span>", out);
        }
        fputs("</td></tr>\n", out);
    }
}

void report_environment(const struct report_input *input, FILE *out)
{
    const struct result *now = input->result,
                        *before = input->timings_before ? input->timings_before : input->memory_before;
    if (!now->machine.count && !now->recorded.count)
        return;
    fputs("<h2>Machine</h2>\n<p>", out);
    markup_put(out, now->machine_class ? now->machine_class : "");
    if (before && before->machine_class && now->machine_class &&
        strcmp(before->machine_class, now->machine_class) != 0) {
        fputs("; before: ", out);
        markup_put(out, before->machine_class);
    }
    fputs("</p>\n<details><summary>Facts, load and yardsticks</summary><div class=\"scroll\"><table>\n", out);
    put_fact_rows(out, &now->machine, before ? &before->machine : NULL);
    put_fact_rows(out, &now->recorded, before ? &before->recorded : NULL);
    put_fact_rows(out, &now->yardsticks, before ? &before->yardsticks : NULL);
    fputs("</table></div></details>\n", out);
}
