/* What a threshold measurement found: for people, for programs, and drawn. */

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plot_parts.h"
#include "plot_sheet.h"
#include "table.h"
#include "threshold.h"

#define POOR_FIT 0.10

static const double *samples_of(const struct threshold *t, int arm, size_t size)
{
    return t->times[arm] + size * t->rounds;
}

static const char *argument_of(const struct threshold_question *q)
{
    return q->argument ? q->argument : q->which->argument;
}

/* "37.4"; "< 4" and "> 128" for what lies outside the sizes that were timed. */
static char *place(char *buffer, size_t size, const struct threshold *t, double x)
{
    if (x <= 0)
        snprintf(buffer, size, "< %.0f", t->x[0]);
    else if (isinf(x))
        snprintf(buffer, size, "> %.0f", t->x[t->size_count - 1]);
    else
        snprintf(buffer, size, "%.1f", x);
    return buffer;
}

/* ---- for people ---- */

static void row_cells(struct table *t, const struct threshold *threshold, size_t size)
{
    double below = 1e9 * median(samples_of(threshold, 0, size), threshold->rounds);
    double above = 1e9 * median(samples_of(threshold, 1, size), threshold->rounds);
    char text[40];

    table_cell(t, STYLE_PLAIN, "%.0f", threshold->x[size]);
    table_cell(t, below <= above ? STYLE_GOOD : STYLE_PLAIN, "%s", format_value(text, sizeof text, below, "ns"));
    table_cell(t, above < below ? STYLE_GOOD : STYLE_PLAIN, "%s", format_value(text, sizeof text, above, "ns"));
    table_cell(t, STYLE_PLAIN, "%.3f", above / below);
    for (int arm = 0; arm < 2 && threshold->peaks[0]; arm++)
        table_cell(t, STYLE_PLAIN, "%s", format_value(text, sizeof text, threshold->peaks[arm][size], "bytes"));
}

/* The curves do not cross among the sizes. */
static void print_one_sided(const struct threshold *t, const struct threshold_question *q, FILE *out)
{
    const struct interval *at = &t->crossing.at;
    bool below_wins = isinf(at->estimate);
    char low[32], high[32];

    fprintf(out, "%s is the faster one at every %s from %.0f to %.0f", below_wins ? q->which->below_name : q->which->above_name,
            argument_of(q), t->x[0], t->x[t->size_count - 1]);
    if (at->low != at->high)
        fprintf(out, ", though the 95%% interval of a crossing is %s to %s", place(low, sizeof low, t, at->low),
                place(high, sizeof high, t, at->high));
    fputc('\n', out);
}

static void print_memory(const struct threshold *t, const struct threshold_question *q, FILE *out)
{
    size_t last = t->size_count - 1;
    char below[40], above[40];

    if (t->peaks[0])
        fprintf(out, "memory, which it is there for: %s %s against %s by the %s at %s %.0f (%s)\n",
                format_value(below, sizeof below, t->peaks[0][last], "bytes"), q->which->below_name,
                format_value(above, sizeof above, t->peaks[1][last], "bytes"), q->which->above_name, argument_of(q),
                t->x[last], q->which->peak);
}

static void print_default(const struct threshold *t, const struct threshold_question *q, FILE *out)
{
    const struct interval *at = &t->crossing.at;
    bool timed = t->default_size >= t->x[0] && t->default_size <= t->x[t->size_count - 1];

    fprintf(out, "the default, %s = %lld", q->which->parameter, (long long)t->default_value);
    if (q->which->power != 1)
        fprintf(out, " (%s %.1f)", argument_of(q), t->default_size);
    if (t->default_is_inside)
        fputs(", lies inside\n", out);
    else if (!timed && (isinf(at->estimate) || at->estimate <= 0))
        fputs(", is not among the sizes that were timed\n", out);
    else
        fprintf(out, ", lies %s it\n", t->default_size < at->low ? "below" : "above");
}

static void print_verdict(const struct threshold *t, const struct threshold_question *q, FILE *out)
{
    const struct crossing *c = &t->crossing;
    char at[32], low[32], high[32];

    if (c->crosses_backwards) {
        fprintf(out, "%s is the faster one for small sizes and %s for large ones: %s works the wrong way round here\n",
                q->which->above_name, q->which->below_name, q->which->parameter);
        return;
    }
    if (isinf(c->at.estimate) || c->at.estimate <= 0)
        print_one_sided(t, q, out);
    else
        fprintf(out,
                "%s becomes the faster one at %s %s, 95%% interval %s to %s (%s through medians of %zu rounds, "
                "residual %.1f%%)\n",
                q->which->above_name, argument_of(q), place(at, sizeof at, t, c->at.estimate),
                place(low, sizeof low, t, c->at.low), place(high, sizeof high, t, c->at.high),
                c->curve == CURVE_LINE ? "lines" : "powers", t->rounds, 100 * c->residual);
    if (c->residual > POOR_FIT)
        fprintf(out, "note: the curves miss the medians by %.0f%%; on a quieter machine, or between closer sizes, they may fit\n",
                100 * c->residual);
    if (c->reversed > 0.01)
        fprintf(out, "note: in %.0f%% of redraws the curves cross the wrong way round; more rounds would help\n",
                100 * c->reversed);
    print_default(t, q, out);
    print_memory(t, q, out);
}

int threshold_print(const struct threshold *t, const struct threshold_question *q, FILE *out, bool colours,
                    struct plim_err *err)
{
    struct table table = TABLE_INIT;
    char below[64], above[64];
    int rc;

    table_column(&table, argument_of(q), TABLE_RIGHT);
    table_column(&table, q->which->below_name, TABLE_RIGHT);
    table_column(&table, q->which->above_name, TABLE_RIGHT);
    table_column(&table, "ratio", TABLE_RIGHT);
    if (t->peaks[0]) {
        snprintf(below, sizeof below, "peak %s", q->which->below_name);
        snprintf(above, sizeof above, "peak %s", q->which->above_name);
        table_column(&table, below, TABLE_RIGHT);
        table_column(&table, above, TABLE_RIGHT);
    }
    for (size_t i = 0; i < t->size_count; i++)
        row_cells(&table, t, i);
    rc = table_print(&table, out, colours, err);
    table_release(&table);
    if (rc == 0)
        print_verdict(t, q, out);
    return rc;
}

/* ---- for programs ---- */

/* JSON has no infinity: null, and the range says on which side. */
static bool add_place(cJSON *object, const char *name, double x)
{
    return x > 0 && isfinite(x) ? cJSON_AddNumberToObject(object, name, x) != NULL
                                : cJSON_AddStringToObject(object, name, x > 0 ? "above" : "below") != NULL;
}

static bool add_samples(cJSON *object, const char *name, const double *samples, size_t n)
{
    cJSON *array = cJSON_CreateDoubleArray(samples, (int)n);

    return array && cJSON_AddItemToObject(object, name, array);
}

static bool add_peaks(cJSON *item, const struct threshold *t, const struct threshold_question *q, size_t size)
{
    cJSON *peaks = t->peaks[0] ? cJSON_AddObjectToObject(item, q->which->peak) : NULL;

    if (!t->peaks[0])
        return true;
    return peaks && cJSON_AddNumberToObject(peaks, q->which->below_name, t->peaks[0][size]) &&
           cJSON_AddNumberToObject(peaks, q->which->above_name, t->peaks[1][size]);
}

static bool add_sizes(cJSON *root, const struct threshold *t, const struct threshold_question *q)
{
    cJSON *sizes = cJSON_AddArrayToObject(root, "sizes");

    for (size_t i = 0; sizes && i < t->size_count; i++) {
        cJSON *item = cJSON_CreateObject();

        if (!item || !cJSON_AddItemToArray(sizes, item) || !cJSON_AddNumberToObject(item, argument_of(q), t->x[i]) ||
            !add_samples(item, q->which->below_name, samples_of(t, 0, i), t->rounds) ||
            !add_samples(item, q->which->above_name, samples_of(t, 1, i), t->rounds) || !add_peaks(item, t, q, i))
            return false;
    }
    return sizes != NULL;
}

char *threshold_format(const struct threshold *t, const struct threshold_question *q, struct plim_err *err)
{
    const struct crossing *c = &t->crossing;
    cJSON *root = cJSON_CreateObject(), *crossing = NULL;
    char *text = NULL;
    bool complete = root && cJSON_AddStringToObject(root, "parameter", q->which->parameter) &&
                    cJSON_AddNumberToObject(root, "default", (double)t->default_value) &&
                    cJSON_AddBoolToObject(root, "default_is_inside", t->default_is_inside) &&
                    (crossing = cJSON_AddObjectToObject(root, "crossing")) &&
                    add_place(crossing, "estimate", c->at.estimate) && add_place(crossing, "low", c->at.low) &&
                    add_place(crossing, "high", c->at.high) && cJSON_AddNumberToObject(crossing, "level", 0.95) &&
                    cJSON_AddStringToObject(crossing, "curve", c->curve == CURVE_LINE ? "line" : "power") &&
                    cJSON_AddNumberToObject(crossing, "residual", c->residual) &&
                    cJSON_AddBoolToObject(crossing, "backwards", c->crosses_backwards) && add_sizes(root, t, q);

    if (complete)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    return text;
}

/* ---- drawn ---- */

static void put_samples(FILE *out, const struct threshold *t)
{
    for (int arm = 0; arm < 2; arm++) {
        for (size_t size = 0; size < t->size_count; size++)
            for (size_t i = 0; i < t->rounds; i++)
                fprintf(out, "%g\t%.9g\n", t->x[size], 1e9 * samples_of(t, arm, size)[i]);
        fputs("\n\n", out);
    }
}

static void put_curves(FILE *out, const struct threshold *t)
{
    double first = t->x[0], ratio = t->x[t->size_count - 1] / first;

    for (int i = 0; i <= 100; i++) {
        double x = first * pow(ratio, i / 100.0);

        fprintf(out, "%g\t%.9g\t%.9g\n", x, 1e9 * crossing_time(&t->crossing, 0, x),
                1e9 * crossing_time(&t->crossing, 1, x));
    }
    fputs("\n\n", out);
}

/* Within the sizes, so that an open interval is drawn up to the edge. */
static double clamp(const struct threshold *t, double x)
{
    return fmin(fmax(x, t->x[0]), t->x[t->size_count - 1]);
}

int threshold_plot(const struct threshold *t, const struct threshold_question *q, const char *directory, bool draw,
                   struct plim_err *err)
{
    struct plot_unit unit = plot_unit_for("ns", 1e9 * t->times[0][(t->size_count - 1) * t->rounds]);
    char *name = heap_printf(err, "threshold-%s", q->which->parameter), title[200], subtitle[200], at[32], low[32], high[32];
    struct plot_sheet sheet = { .directory = directory, .name = name, .style = "threshold.gp", .title = title,
                                .subtitle = subtitle, .formats = "png svg" };
    int rc = -1;

    if (!name)
        return -1;
    snprintf(title, sizeof title, "%s: where %s and %s take equally long", q->which->parameter, q->which->below_name,
             q->which->above_name);
    size_t used = (size_t)snprintf(subtitle, sizeof subtitle, "crossing at %s (95%% interval %s to %s); the default is %lld",
                                   place(at, sizeof at, t, t->crossing.at.estimate),
                                   place(low, sizeof low, t, t->crossing.at.low),
                                   place(high, sizeof high, t, t->crossing.at.high), (long long)t->default_value);
    if (q->which->power != 1 && used < sizeof subtitle)
        snprintf(subtitle + used, sizeof subtitle - used, " (%s %.1f)", argument_of(q), t->default_size);
    if (plot_sheet_open(&sheet, err) == 0) {
        put_samples(sheet.data, t);
        put_curves(sheet.data, t);
        put_variable(sheet.preamble, "x_label", argument_of(q));
        put_variable(sheet.preamble, "below_title", q->which->below_name);
        put_variable(sheet.preamble, "above_title", q->which->above_name);
        put_real(sheet.preamble, "time_scale", unit.scale);
        put_variable(sheet.preamble, "time_unit", unit.unit);
        put_real(sheet.preamble, "x_low", t->x[0]);
        put_real(sheet.preamble, "x_high", t->x[t->size_count - 1]);
        put_real(sheet.preamble, "low", clamp(t, t->crossing.at.low));
        put_real(sheet.preamble, "high", clamp(t, t->crossing.at.high));
        put_real(sheet.preamble, "default_value", t->default_size);
    }
    rc = plot_sheet_finish(&sheet, draw, err);
    free(name);
    return rc;
}
