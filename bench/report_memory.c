/* What made the peak: for each case that matters two stacked bars, before and after, tag by tag. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "markup.h"
#include "plimsoll/pool.h"
#include "report_parts.h"
#include "svg.h"
#include "table.h"

#define BARS_IN_SIGHT 6
#define BAR_CASES 60

struct held {
    double tags[PLIM_TAG_COUNT];   /* bytes at the peak of the fast tier */
    double total;
    bool known;
};

struct pair {
    const struct result_case *c;
    struct held before, after;
    double grown;                  /* the most that one tag, or the total, grew or shrank; 0: all the same */
};

static struct held read_held(const struct result_case *c)
{
    struct held held = { .known = false };
    for (int tag = 0; c && tag < PLIM_TAG_COUNT; tag++) {
        char name[96];
        snprintf(name, sizeof name, "at_peak_%s_bytes", plim_tag_name((enum plim_tag)tag));
        const struct metric *metric = case_find_metric(c, name);
        if (!metric || !metric->sample_count || tag == PLIM_TAG_WEIGHTS_MAPPED) /* mapped files are not in the total */
            continue;
        held.tags[tag] = metric->samples[0];
        held.total += metric->samples[0];
        held.known = true;
    }
    return held;
}

static struct pair make_pair(const struct report_input *input, const struct result_case *c)
{
    struct pair pair = { c, read_held(report_case_before(input->memory_before, c)), read_held(c), 0 };
    if (!pair.before.known || !pair.after.known)
        return pair;
    pair.grown = fabs(pair.after.total - pair.before.total);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        pair.grown = fmax(pair.grown, fabs(pair.after.tags[tag] - pair.before.tags[tag]));
    return pair;
}

/* What changed first, then what is largest. */
static int by_interest(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    if (x->grown != y->grown)
        return x->grown > y->grown ? -1 : 1;
    if (x->after.total != y->after.total)
        return x->after.total > y->after.total ? -1 : 1;
    return strcmp(x->c->id, y->c->id);
}

static void put_legend(FILE *out, const struct pair *pairs, size_t count)
{
    fputs("<ul class=\"legend\">", out);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        bool used = false;
        for (size_t i = 0; i < count && !used; i++)
            used = pairs[i].before.tags[tag] > 0 || pairs[i].after.tags[tag] > 0;
        if (used)
            fprintf(out, "<li><i class=\"g%d\"></i>%s</li>", tag % 12, plim_tag_name((enum plim_tag)tag));
    }
    fputs("</ul>\n", out);
}

static void put_bar(FILE *out, const struct held *held, double y, double scale, const char *name)
{
    char total[40], title[100], bytes[40];
    svg_text(out, 0, y + 12, "start", "soft", name);
    double x = 44;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        double width = held->tags[tag] * scale;
        if (width <= 0)
            continue;
        char class[8];
        snprintf(class, sizeof class, "g%d", tag % 12);
        snprintf(title, sizeof title, "%s: %s", plim_tag_name((enum plim_tag)tag),
                 format_value(bytes, sizeof bytes, held->tags[tag], "bytes"));
        svg_rect(out, x, y, width, 16, class, title);
        x += width;
    }
    svg_text(out, x + 5, y + 12, "start", "numbers", format_value(total, sizeof total, held->total, "bytes"));
}

/* The tags that moved: "activations +2.00 MiB, dequant -4096 B". */
static void put_words(FILE *out, const struct pair *pair)
{
    char text[48];
    const char *separator = "";
    if (!pair->before.known)
        return;
    fputs("<br/><span>", out);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        double change = pair->after.tags[tag] - pair->before.tags[tag];
        if (change == 0)
            continue;
        fprintf(out, "%s%s %s", separator, plim_tag_name((enum plim_tag)tag),
                format_difference(text, sizeof text, change, "bytes"));
        separator = ", ";
    }
    if (!*separator)
        fputs("unchanged", out);
    fputs("</span>", out);
}

static void put_pair(FILE *out, const struct pair *pair)
{
    double most = fmax(pair->before.total, pair->after.total);
    double scale = most > 0 ? (REPORT_CHART_WIDTH - 44 - 66) / most : 0;
    fputs("<figure><figcaption>", out);
    report_put_id(out, pair->c->id);
    put_words(out, pair);
    fputs("</figcaption>\n", out);
    svg_begin(out, REPORT_CHART_WIDTH, pair->before.known ? 40 : 18, "memory at the peak, by tag");
    if (pair->before.known)
        put_bar(out, &pair->before, 0, scale, "before");
    put_bar(out, &pair->after, pair->before.known ? 22 : 0, scale, pair->before.known ? "after" : "peak");
    svg_end(out);
    fputs("</figure>\n", out);
}

int report_memory(const struct report_input *input, FILE *out, struct plim_err *err)
{
    const struct result *result = input->result;
    struct pair *pairs = heap_calloc(result->case_count, sizeof *pairs, err);
    size_t count = 0;
    if (!pairs)
        return -1;
    for (size_t i = 0; i < result->case_count; i++) {
        struct pair pair = make_pair(input, &result->cases[i]);
        if (pair.after.known)
            pairs[count++] = pair;
    }
    qsort(pairs, count, sizeof *pairs, by_interest);
    if (count) {
        size_t shown = count < BAR_CASES ? count : BAR_CASES, in_sight = 0;
        while (in_sight < shown && in_sight < BARS_IN_SIGHT &&
               (in_sight < 3 || pairs[in_sight].grown > 0 || pairs[0].grown <= 0))
            in_sight++;
        fputs("<h2>What made the peak</h2>\n<p>Requested bytes on the fast tier at the moment of the peak, by tag. ",
              out);
        fputs("Bars of one case share a scale; what changed comes first.", out);
        if (shown < count)
            fprintf(out, " %zu of %zu cases.", shown, count);
        fputs("</p>\n", out);
        put_legend(out, pairs, shown);
        fputs("<div class=\"charts\">\n", out);
        for (size_t i = 0; i < shown; i++) {
            if (i == in_sight) {
                fputs("</div>\n", out);
                report_fold(out, shown - i, "cases");
                fputs("<div class=\"charts\">\n", out);
            }
            put_pair(out, &pairs[i]);
        }
        fputs(shown > in_sight ? "</div></details>\n" : "</div>\n", out);
    }
    free(pairs);
    return 0;
}
