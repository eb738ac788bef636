/* "plots" of a suite: read here, so that a typo is found before the run, and drawn by `plimsoll plot`. */

#include <string.h>

#include "heap.h"
#include "metrics.h"
#include "suite_parse.h"

/* Refuses a name by which cases cannot be told apart: no parameter and no argument of any workload in the suite. */
static int check_dimension(const struct suite *suite, struct plim_json where, const char *name, bool grouping,
                           struct plim_err *err)
{
    const char *names[PLIM_PARAMETER_COUNT + 96];
    const char *nearest;
    size_t count = 0;

    if (grouping) {
        names[count++] = "model";
        names[count++] = "case";
    }
    for (const char *const *p = plim_parameter_names(); *p; p++)
        names[count++] = *p;
    for (const struct workload *const *w = workloads(); *w; w++) {
        bool used = false;

        for (size_t i = 0; i < suite->case_count && !used; i++)
            used = suite->cases[i].workload == *w;
        for (const struct argument_row *row = (*w)->arguments; used && row->name && count < COUNT_OF(names) - 1; row++)
            names[count++] = row->name;
    }
    names[count] = NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return 0;
    nearest = plim_nearest_name(name, names);
    return plim_json_err(where, err, "\"%s\" is no parameter%s and no argument of a workload here%s%s%s", name,
                         grouping ? ", not \"model\", not \"case\"," : "", nearest ? "; did you mean " : "",
                         nearest ? nearest : "", nearest ? "?" : "");
}

static int parse_grouping(const struct suite *suite, struct plim_json list, char ***out, struct plim_err *err)
{
    if (!plim_json_has(list)) {
        *out = heap_calloc(1, sizeof **out, err);
        return *out ? 0 : -1;
    }
    if (json_string_list(list, out, err) < 0)
        return -1;
    for (size_t i = 0; (*out)[i]; i++)
        if (check_dimension(suite, list, (*out)[i], true, err) < 0)
            return -1;
    return 0;
}

static int parse_metrics(struct suite_plot *plot, struct plim_json y, struct plim_err *err)
{
    if (json_string_list(y, &plot->y, err) < 0)
        return -1;
    for (size_t i = 0; plot->y[i]; i++)
        if (!metric_find(plot->y[i])) {
            const char *nearest = metric_nearest(plot->y[i]);

            return plim_json_err(y, err, "\"%s\" is no metric%s%s%s", plot->y[i], nearest ? "; did you mean " : "",
                                 nearest ? nearest : "", nearest ? "?" : "");
        }
    return 0;
}

static int parse_curve(const struct suite *suite, struct suite_plot *plot, struct plim_json object,
                       struct plim_err *err)
{
    static const char *const keys[] = { "kind", "name", "title", "cases", "x", "x_scale", "y", "series", "mark_knee", NULL };
    static const char *const scales[] = { "linear", "log", NULL };
    struct plim_json x = plim_json_get(object, "x"), scale = plim_json_get(object, "x_scale");
    struct plim_json knee = plim_json_get(object, "mark_knee"), y = plim_json_get(object, "y");
    const char *text;
    int index = 1;

    if (plim_json_only_keys(object, keys, err) < 0)
        return -1;
    if (plim_json_string(x, &text, err) < 0 || check_dimension(suite, x, text, false, err) < 0 ||
        !(plot->x = heap_strdup(text, err)))
        return -1;
    if (plim_json_has(scale) && plim_json_choice(scale, scales, &index, err) < 0)
        return -1;
    plot->x_is_log = index == 1;
    if (plim_json_has(knee) && plim_json_bool(knee, &plot->mark_knee, err) < 0)
        return -1;
    if (parse_metrics(plot, y, err) < 0)
        return -1;
    return parse_grouping(suite, plim_json_get(object, "series"), &plot->series, err);
}

static int parse_tag_bars(const struct suite *suite, struct suite_plot *plot, struct plim_json object,
                          struct plim_err *err)
{
    static const char *const keys[] = { "kind", "name", "title", "cases", "groups", NULL };

    if (plim_json_only_keys(object, keys, err) < 0)
        return -1;
    return parse_grouping(suite, plim_json_get(object, "groups"), &plot->series, err);
}

static int parse_bars(const struct suite *suite, struct suite_plot *plot, struct plim_json object, struct plim_err *err)
{
    static const char *const keys[] = { "kind", "name", "title", "cases", "y", "groups", NULL };

    if (plim_json_only_keys(object, keys, err) < 0 || parse_metrics(plot, plim_json_get(object, "y"), err) < 0)
        return -1;
    return parse_grouping(suite, plim_json_get(object, "groups"), &plot->series, err);
}

static int parse_plot(const struct suite *suite, struct suite_plot *plot, struct plim_json object,
                      struct plim_err *err)
{
    static const char *const kinds[] = { "curve", "tag_bars", "bars", NULL };
    struct plim_json cases = plim_json_get(object, "cases"), title = plim_json_get(object, "title");
    const char *name, *pattern = "*", *heading;
    int kind;

    if (plim_json_object(object, err) < 0 || plim_json_choice(plim_json_get(object, "kind"), kinds, &kind, err) < 0 ||
        json_plain_name(plim_json_get(object, "name"), &name, err) < 0)
        return -1;
    heading = name;
    if (plim_json_has(cases) && plim_json_string(cases, &pattern, err) < 0)
        return -1;
    if (plim_json_has(title) && plim_json_string(title, &heading, err) < 0)
        return -1;
    plot->kind = (enum plot_kind)kind;
    if (!(plot->name = heap_strdup(name, err)) || !(plot->title = heap_strdup(heading, err)) ||
        !(plot->cases = heap_strdup(pattern, err)))
        return -1;
    switch (plot->kind) {
    case PLOT_CURVE:
        return parse_curve(suite, plot, object, err);
    case PLOT_BARS:
        return parse_bars(suite, plot, object, err);
    case PLOT_TAG_BARS:
        break;
    }
    return parse_tag_bars(suite, plot, object, err);
}

int suite_parse_plots(struct suite *suite, struct plim_json plots, struct plim_err *err)
{
    if (!plim_json_has(plots))
        return 0;
    if (plim_json_array(plots, err) < 0)
        return -1;
    for (size_t i = 0; i < plim_json_length(plots); i++) {
        struct plim_json object = plim_json_at(plots, i);
        struct suite_plot *items = heap_room(suite->plots, suite->plot_count, sizeof *items, err);

        if (!items)
            return -1;
        suite->plots = items;
        items += suite->plot_count++;
        if (parse_plot(suite, items, object, err) < 0)
            return -1;
        for (size_t k = 0; k + 1 < suite->plot_count; k++)
            if (strcmp(suite->plots[k].name, items->name) == 0)
                return plim_json_err(object, err, "a second plot named %s", items->name);
    }
    return 0;
}
