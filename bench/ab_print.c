/* An A/B run for people and programs: the comparison, and below it how far it can be trusted. */

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "ab_parts.h"
#include "plimsoll/units.h"

static const char *const suspicion_names[] = { "clear", "undecided", "faster", "slower" };
static const char *const control_names[AB_CONTROLS] = { "slowdown of 25%", "page of memory" };

/* ---- text ---- */

static void print_counts(const struct ab_report *report, FILE *out)
{
    size_t screened = 0, confirmed = 0, replaced = 0, disturbed = 0, fresh = 0;
    char took[32];

    for (size_t i = 0; i < report->case_count; i++) {
        const struct ab_case *c = &report->cases[i];

        screened += c->stages[AB_SCREEN].count;
        confirmed += c->confirmed;
        fresh += c->stages[AB_CONFIRM].count;
        replaced += c->replaced;
        disturbed += c->disturbed;
    }
    fprintf(out, "%zu cases screened with %zu pairs, %zu confirmed with %zu fresh ones, in %s", report->case_count,
            screened, confirmed, fresh, plim_format_duration(took, sizeof took, report->spent_ns));
    if (replaced || disturbed)
        fprintf(out, "; %zu disturbed pairs measured again, %zu kept", replaced, disturbed);
    fputs("\n", out);
}

static void print_controls(const struct ab_report *report, FILE *out)
{
    if (!report->control_count)
        fputs("No controls: what this run would have seen is unproven.\n", out);
    for (size_t i = 0; i < report->control_count; i++)
        fprintf(out, "Control, a planted %s: %s\n", control_names[i], report->control_details[i]);
}

static int print_text(const struct ab_report *report, const struct comparison_view *view, FILE *out,
                      struct plim_err *err)
{
    bool markdown = view->format == COMPARISON_MARKDOWN;

    if (comparison_print(&report->comparison, view, out, err) < 0)
        return -1;
    fputs(markdown ? "\n<details><summary>How it was measured</summary>\n\n" : "", out);
    print_counts(report, out);
    fputs(markdown ? "\n" : "", out);
    print_controls(report, out);
    fputs(markdown ? "\n</details>\n" : "", out);
    return 0;
}

/* ---- JSON ---- */

static void add_number(cJSON *object, const char *name, double value)
{
    if (isfinite(value))
        cJSON_AddNumberToObject(object, name, value);
}

static void add_pairs(cJSON *object, const char *name, const struct ab_pairs *pairs)
{
    cJSON *stage = cJSON_AddObjectToObject(object, name);

    cJSON_AddItemToObject(stage, "a", cJSON_CreateDoubleArray(pairs->values[AB_A], (int)pairs->count));
    cJSON_AddItemToObject(stage, "b", cJSON_CreateDoubleArray(pairs->values[AB_B], (int)pairs->count));
}

static cJSON *timing_to_json(const struct ab_case *c)
{
    cJSON *object = cJSON_CreateObject();

    cJSON_AddStringToObject(object, "case", c->spec->id);
    cJSON_AddStringToObject(object, "metric", c->metric);
    cJSON_AddStringToObject(object, "verdict", verdict_name(c->verdict));
    cJSON_AddStringToObject(object, "screening", suspicion_names[c->suspicion]);
    cJSON_AddBoolToObject(object, "confirmed", c->confirmed);
    cJSON_AddBoolToObject(object, "out_of_time", c->out_of_time);
    add_number(object, "min_effect", c->min_effect);
    add_number(object, "slowdown", c->evidence.slowdown.estimate);
    add_number(object, "slowdown_low", c->evidence.slowdown.low);
    add_number(object, "slowdown_high", c->evidence.slowdown.high);
    add_number(object, "spread", c->evidence.spread);
    add_number(object, "p_slower", c->evidence.p_slower);
    add_number(object, "p_faster", c->evidence.p_faster);
    add_number(object, "p_corrected", fmin(c->p_slower, c->p_faster));
    add_number(object, "p_mann_whitney", c->mann_whitney_p);
    add_number(object, "replaced_pairs", (double)c->replaced);
    add_number(object, "disturbed_pairs", (double)c->disturbed);
    add_pairs(object, "screen", &c->stages[AB_SCREEN]);
    add_pairs(object, "confirm", &c->stages[AB_CONFIRM]);
    return object;
}

static void add_controls(cJSON *root, const struct ab_report *report)
{
    cJSON *controls = cJSON_AddArrayToObject(root, "controls");

    for (size_t i = 0; i < report->control_count; i++) {
        cJSON *control = cJSON_CreateObject();

        cJSON_AddStringToObject(control, "planted", control_names[i]);
        cJSON_AddBoolToObject(control, "caught", !report->missed[i]);
        cJSON_AddStringToObject(control, "detail", report->control_details[i]);
        cJSON_AddItemToArray(controls, control);
    }
}

static int print_json(const struct ab_report *report, const struct comparison_view *view, FILE *out,
                      struct plim_err *err)
{
    cJSON *root = comparison_to_json(&report->comparison, view->exit_status);
    cJSON *ab = cJSON_AddObjectToObject(root, "ab"), *timings = cJSON_AddArrayToObject(ab, "timings");
    char *text;
    int rc = 0;

    add_number(ab, "seconds", (double)report->spent_ns / 1e9);
    add_controls(ab, report);
    for (size_t i = 0; i < report->case_count; i++)
        if (*report->cases[i].metric)
            cJSON_AddItemToArray(timings, timing_to_json(&report->cases[i]));
    text = cJSON_Print(root);
    if (text)
        fprintf(out, "%s\n", text);
    else
        rc = plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for an A/B run as JSON");
    cJSON_free(text);
    cJSON_Delete(root);
    return rc;
}

int ab_print(const struct ab_report *report, const struct comparison_view *view, FILE *out, struct plim_err *err)
{
    if ((view->format == COMPARISON_JSON ? print_json(report, view, out, err) : print_text(report, view, out, err)) < 0)
        return -1;
    if (fflush(out) != 0 || ferror(out))
        return plim_err_errno(err, "writing the comparison");
    return 0;
}
