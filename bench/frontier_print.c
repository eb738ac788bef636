#include "frontier_print.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/units.h"
#include "plot_parts.h"
#include "plot_sheet.h"
#include "table.h"

#define SETTING_BYTES 300

static const char *work_of(const struct frontier_question *q)
{
    return q->decode ? "decoding" : "the prompt";
}

/* ---- for people ---- */

static int print_points(const struct frontier *f, FILE *out, bool colours, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    char setting[SETTING_BYTES], text[40];
    int rc;

    table_column(&t, "setting", TABLE_LEFT);
    table_column(&t, "predicted", TABLE_RIGHT);
    table_column(&t, "measured", TABLE_RIGHT);
    table_column(&t, "tokens/s", TABLE_RIGHT);
    table_column(&t, "", TABLE_LEFT);
    for (size_t i = 0; i < f->point_count; i++) {
        const struct frontier_point *p = &f->points[i];

        if (!p->on_front)
            continue;
        table_cell(&t, STYLE_PLAIN, "%s", frontier_describe(&p->parameters, setting, sizeof setting));
        table_cell(&t, STYLE_PLAIN, "%s", format_value(text, sizeof text, (double)p->plan.peak_bytes, "bytes"));
        table_cell(&t, p->peak_bytes == p->plan.peak_bytes ? STYLE_PLAIN : STYLE_BAD, "%s",
                   format_value(text, sizeof text, (double)p->peak_bytes, "bytes"));
        table_cell(&t, STYLE_PLAIN, "%.4g", p->tokens_per_s);
        table_cell(&t, STYLE_GOOD, "%s", i == f->best ? "fastest" : "");
    }
    rc = table_print(&t, out, colours, err);
    table_release(&t);
    return rc;
}

static void print_limit(const struct frontier *f, const struct frontier_question *q, FILE *out)
{
    const char *name = frontier_limit_name(q->limit);

    if (f->limit < 0)
        fprintf(out, "no %s fits at that setting\n", name);
    else if (f->limit_is_open)
        fprintf(out, "%s: %lld, the most there is, still fits; ran %zu of %d times\n", name, (long long)f->limit,
                f->limit_fits, FRONTIER_VERIFICATIONS);
    else
        fprintf(out, "out-of-memory frontier: %s = %lld fits (ran %zu of %d times), %lld does not (refused %zu of %d)\n",
                name, (long long)f->limit, f->limit_fits, FRONTIER_VERIFICATIONS, (long long)f->limit + 1,
                f->limit_refused, FRONTIER_VERIFICATIONS);
}

int frontier_print(const struct frontier *f, const struct frontier_question *q, FILE *out, bool colours,
                   struct plim_err *err)
{
    char budget[32], least[32], setting[SETTING_BYTES];

    plim_format_bytes(budget, sizeof budget, q->budget_bytes);
    if (!f->found) {
        fprintf(out, "nothing fits %s: of %zu settings the smallest is predicted to need %s\n", budget, f->settings,
                plim_format_bytes(least, sizeof least, f->least_bytes));
        return 0;
    }
    fprintf(out, "within %s, %zu of %zu settings are predicted to fit; the front of speed (%s) and peak:\n", budget,
            f->fitting, f->settings, work_of(q));
    if (print_points(f, out, colours, err) < 0)
        return -1;
    fprintf(out, "fastest: %s\n  verified: %zu of %d further runs fitted, with the predicted peak\n",
            frontier_describe(&f->points[f->best].parameters, setting, sizeof setting), f->verified,
            FRONTIER_VERIFICATIONS);
    print_limit(f, q, out);
    return 0;
}

/* ---- for programs ---- */

static bool add_point(cJSON *array, const struct frontier_point *p)
{
    char setting[SETTING_BYTES];
    cJSON *item = cJSON_CreateObject();

    return item && cJSON_AddItemToArray(array, item) &&
           cJSON_AddStringToObject(item, "setting", frontier_describe(&p->parameters, setting, sizeof setting)) &&
           cJSON_AddNumberToObject(item, "predicted_bytes", (double)p->plan.peak_bytes) &&
           cJSON_AddNumberToObject(item, "peak_bytes", (double)p->peak_bytes) &&
           cJSON_AddNumberToObject(item, "tokens_per_s", p->tokens_per_s) &&
           cJSON_AddBoolToObject(item, "on_front", p->on_front);
}

static bool add_limit(cJSON *root, const struct frontier *f, const struct frontier_question *q)
{
    cJSON *limit = cJSON_AddObjectToObject(root, "limit");

    return limit && cJSON_AddStringToObject(limit, "name", frontier_limit_name(q->limit)) &&
           cJSON_AddNumberToObject(limit, "value", (double)f->limit) &&
           cJSON_AddBoolToObject(limit, "open", f->limit_is_open) &&
           cJSON_AddNumberToObject(limit, "runs_that_fit", (double)f->limit_fits) &&
           cJSON_AddNumberToObject(limit, "runs_refused_above", (double)f->limit_refused);
}

char *frontier_format(const struct frontier *f, const struct frontier_question *q, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *points;
    char setting[SETTING_BYTES], *text = NULL;
    bool complete = root && cJSON_AddBoolToObject(root, "found", f->found) &&
                    cJSON_AddNumberToObject(root, "budget_bytes", (double)q->budget_bytes) &&
                    cJSON_AddNumberToObject(root, "settings", (double)f->settings) &&
                    cJSON_AddNumberToObject(root, "fitting", (double)f->fitting) &&
                    cJSON_AddNumberToObject(root, "least_bytes", (double)f->least_bytes) &&
                    (points = cJSON_AddArrayToObject(root, "points"));

    for (size_t i = 0; complete && i < f->point_count; i++)
        if (f->points[i].measured)
            complete = add_point(points, &f->points[i]);
    if (complete && f->found)
        complete = cJSON_AddStringToObject(root, "fastest", frontier_describe(&f->points[f->best].parameters, setting,
                                                                              sizeof setting)) &&
                   cJSON_AddNumberToObject(root, "verified", (double)f->verified) && add_limit(root, f, q);
    if (complete)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    return text;
}

/* ---- drawn ---- */

static const char *const drawn[] = { "max_dq_size", "max_input_len", "max_attention_size", "kv_cache" };

/* Whether the measured points have more than one value of a parameter. */
static bool varies(const struct frontier *f, enum plim_parameter p)
{
    const struct plim_parameters *first = NULL;

    for (size_t i = 0; i < f->point_count; i++) {
        const struct plim_parameters *set = &f->points[i].parameters;

        if (!f->points[i].measured)
            continue;
        if (first && first->count[p] != set->count[p])
            return true;
        first = set;
    }
    return false;
}

/* "dq 1Mi, len 512": the searched parameters that tell the points apart, short. */
static void short_label(const struct frontier *f, const struct plim_parameters *set, char *buffer, size_t size)
{
    static const char *const shorter[] = { "dq", "len", "attn", "kv" };
    size_t used = 0;

    buffer[0] = '\0';
    for (size_t i = 0; i < 4; i++) {
        struct plim_err ignored = PLIM_ERR_INIT;
        enum plim_parameter p;
        char text[64];

        if (plim_parameter_find(drawn[i], &p, &ignored) < 0 || !set->set[p] || !varies(f, p) || used >= size)
            continue;
        plim_parameters_format(set, p, text, sizeof text);
        used += (size_t)snprintf(buffer + used, size - used, "%s%s %s", used ? ", " : "", shorter[i], text);
    }
}

static void put_points(FILE *out, const struct frontier *f, bool front_only)
{
    char label[120];

    for (size_t i = 0; i < f->point_count; i++) {   /* in order of their peaks, as a line needs them */
        const struct frontier_point *p = &f->points[i];

        if (!p->measured || (front_only && !p->on_front))
            continue;
        short_label(f, &p->parameters, label, sizeof label);
        fprintf(out, "%llu\t%.6g\t%s\n", (unsigned long long)p->peak_bytes, p->tokens_per_s, label);
    }
    fputs("\n\n", out);
}

static uint64_t most_bytes(const struct frontier *f)
{
    uint64_t most = 0;

    for (size_t i = 0; i < f->point_count; i++)
        if (f->points[i].measured)
            most = plim_max(most, f->points[i].peak_bytes);
    return most;
}

int frontier_plot(const struct frontier *f, const struct frontier_question *q, const char *directory, bool draw,
                  struct plim_err *err)
{
    struct plot_unit unit = plot_unit_for("bytes", (double)q->budget_bytes);
    char subtitle[300], budget[32];
    struct plot_sheet sheet = { .directory = directory, .name = "frontier", .style = "frontier.gp",
                                .title = "Speed and peak memory within a budget", .subtitle = subtitle,
                                .formats = "png svg" };

    snprintf(subtitle, sizeof subtitle, "budget %s; %zu prompt tokens, context %zu; speed of %s",
             plim_format_bytes(budget, sizeof budget, q->budget_bytes), q->prompt_tokens, q->context_tokens, work_of(q));
    if (plot_sheet_open(&sheet, err) == 0) {
        put_points(sheet.data, f, false);
        put_points(sheet.data, f, true);
        put_real(sheet.preamble, "byte_scale", unit.scale);
        put_variable(sheet.preamble, "byte_unit", unit.unit);
        put_real(sheet.preamble, "budget", (double)q->budget_bytes);
        put_real(sheet.preamble, "most_bytes", (double)most_bytes(f));
        put_real(sheet.preamble, "best_bytes", (double)f->points[f->best].peak_bytes);
        put_real(sheet.preamble, "best_speed", f->points[f->best].tokens_per_s);
    }
    return plot_sheet_finish(&sheet, draw, err);
}
