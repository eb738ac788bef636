/*
 * Sweeps: from lists and ranges to combinations.
 *
 * Every value is made canonical before anything else, so that "1048576" and "1Mi" are one combination, exclude finds
 * what sweep wrote in another way, and case ids do not depend on the spelling.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/units.h"
#include "suite_parse.h"

#define VALUE_SIZE 256

struct axis {
    char *name;
    char **values;          /* canonical */
    size_t count;
};

struct axes {
    struct axis *items;
    size_t count;
};

static void axes_release(struct axes *axes)
{
    for (size_t i = 0; i < axes->count; i++) {
        for (size_t k = 0; k < axes->items[i].count; k++)
            free(axes->items[i].values[k]);
        free(axes->items[i].values);
        free(axes->items[i].name);
    }
    free(axes->items);
    *axes = (struct axes){ 0 };
}

static void combination_release(struct combination *combination)
{
    for (size_t i = 0; i < combination->count; i++) {
        free(combination->items[i].name);
        free(combination->items[i].value);
    }
    free(combination->items);
    *combination = (struct combination){ 0 };
}

void combinations_release(struct combinations *combinations)
{
    for (size_t i = 0; i < combinations->count; i++)
        combination_release(&combinations->items[i]);
    free(combinations->items);
    *combinations = (struct combinations){ 0 };
}

/* ---- axes ---- */

static int axis_add(struct axis *axis, const struct case_template *template, struct plim_json where, const char *text,
                    struct plim_err *err)
{
    char canonical[VALUE_SIZE];
    char **values;

    if (template_canonical(template, axis->name, text, canonical, sizeof canonical, err) < 0)
        return json_wrap(where, err);
    for (size_t i = 0; i < axis->count; i++)
        if (strcmp(axis->values[i], canonical) == 0)
            return plim_json_err(where, err, "%s comes twice", canonical);
    if (axis->count >= SUITE_CASE_LIMIT)
        return plim_json_err(where, err, "more than %d values", SUITE_CASE_LIMIT);
    values = heap_room(axis->values, axis->count, sizeof *values, err);
    if (!values)
        return -1;
    axis->values = values;
    values[axis->count] = heap_strdup(canonical, err);
    if (!values[axis->count])
        return -1;
    axis->count++;
    return 0;
}

static int range_end(struct plim_json range, const char *key, int64_t low, int64_t *out, struct plim_err *err)
{
    struct plim_json value = plim_json_get(range, key);
    char text[64];

    if (!plim_json_has(value))
        return plim_json_err(range, err, "a range has \"from\", \"to\" and \"factor\" or \"step\"; \"%s\" is missing", key);
    if (json_scalar_text(value, text, sizeof text, err) < 0)
        return -1;
    if (plim_parse_count(text, out, err) < 0)
        return json_wrap(value, err);
    if (*out < low)
        return plim_json_err(value, err, "%lld; wanted %lld or more", (long long)*out, (long long)low);
    return 0;
}

static int axis_parse_range(struct axis *axis, const struct case_template *template, struct plim_json range,
                            struct plim_err *err)
{
    static const char *const keys[] = { "from", "to", "factor", "step", NULL };
    bool by_factor = plim_json_has(plim_json_get(range, "factor"));
    int64_t from, to, stride;

    if (plim_json_only_keys(range, keys, err) < 0)
        return -1;
    if (by_factor && plim_json_has(plim_json_get(range, "step")))
        return plim_json_err(range, err, "a range has \"factor\" or \"step\", not both");
    if (range_end(range, "from", by_factor ? 1 : 0, &from, err) < 0 || range_end(range, "to", from, &to, err) < 0 ||
        range_end(range, by_factor ? "factor" : "step", by_factor ? 2 : 1, &stride, err) < 0)
        return -1;

    for (int64_t value = from;;) {
        char text[32];

        snprintf(text, sizeof text, "%lld", (long long)value);
        if (axis_add(axis, template, range, text, err) < 0)
            return -1;
        /* Compared without computing a next value that may not fit. */
        if (by_factor ? value > to / stride : value > to - stride)
            return 0;
        value = by_factor ? value * stride : value + stride;
    }
}

static int axis_parse(struct axis *axis, const struct case_template *template, struct plim_json value,
                      struct plim_err *err)
{
    if (cJSON_IsObject(value.node))
        return axis_parse_range(axis, template, value, err);
    if (!cJSON_IsArray(value.node))
        return plim_json_err(value, err, "wanted a list of values, or a range with \"from\", \"to\" and \"factor\" or "
                             "\"step\"");
    if (plim_json_length(value) == 0)
        return plim_json_err(value, err, "the list is empty");
    for (size_t i = 0; i < plim_json_length(value); i++) {
        char text[VALUE_SIZE];

        if (json_scalar_text(plim_json_at(value, i), text, sizeof text, err) < 0 ||
            axis_add(axis, template, plim_json_at(value, i), text, err) < 0)
            return -1;
    }
    return 0;
}

static int compare_axes(const void *a, const void *b)
{
    return strcmp(((const struct axis *)a)->name, ((const struct axis *)b)->name);
}

static int axes_parse(struct axes *axes, const struct case_template *template, struct plim_json entry,
                      struct plim_err *err)
{
    struct plim_json sweep = plim_json_get(entry, "sweep");
    struct plim_json fixed[] = { plim_json_get(entry, "parameters"), plim_json_get(entry, "workload") };
    const cJSON *child;

    if (!plim_json_has(sweep))
        return 0;
    if (plim_json_object(sweep, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, sweep.node) {
        struct plim_json value = plim_json_get(sweep, child->string);
        struct axis *items;

        if (strcmp(child->string, "model") == 0)
            return plim_json_err(sweep, err, "\"model\" is not swept here; give the case a list of models");
        if (template_check_name(template, sweep, child->string, err) < 0)
            return -1;
        for (size_t i = 0; i < COUNT_OF(fixed); i++)
            if (plim_json_has(plim_json_get(fixed[i], child->string)))
                return plim_json_err(sweep, err, "%s is swept, and fixed in %s", child->string, fixed[i].path);
        items = heap_room(axes->items, axes->count, sizeof *items, err);
        if (!items)
            return -1;
        axes->items = items;
        axes->count++;
        items[axes->count - 1].name = heap_strdup(child->string, err);
        if (!items[axes->count - 1].name || axis_parse(&items[axes->count - 1], template, value, err) < 0)
            return -1;
    }
    if (axes->count)
        qsort(axes->items, axes->count, sizeof *axes->items, compare_axes);
    return 0;
}

/* ---- combinations ---- */

static int combination_set(struct combination *combination, const char *name, const char *value, struct plim_err *err)
{
    struct setting *items = heap_room(combination->items, combination->count, sizeof *items, err);
    struct setting *item;

    if (!items)
        return -1;
    combination->items = items;
    item = &items[combination->count++];
    item->name = heap_strdup(name, err);
    item->value = item->name ? heap_strdup(value, err) : NULL;
    return item->value ? 0 : -1;
}

static struct combination *combinations_add(struct combinations *combinations, struct plim_err *err)
{
    struct combination *items = heap_room(combinations->items, combinations->count, sizeof *items, err);

    if (!items)
        return NULL;
    combinations->items = items;
    return &items[combinations->count++];
}

static int cross_product(const struct axes *axes, struct plim_json where, struct combinations *out,
                         struct plim_err *err)
{
    size_t total = 1;

    for (size_t i = 0; i < axes->count; i++)
        if (!plim_size_mul(total, axes->items[i].count, &total) || total > SUITE_CASE_LIMIT)
            return plim_json_err(where, err, "the sweep has more than %d combinations", SUITE_CASE_LIMIT);
    for (size_t n = 0; n < total; n++) {
        struct combination *combination = combinations_add(out, err);
        size_t period = total, rest = n;

        if (!combination)
            return -1;
        for (size_t i = 0; i < axes->count; i++) {   /* the last axis moves fastest */
            const struct axis *axis = &axes->items[i];

            period /= axis->count;
            if (combination_set(combination, axis->name, axis->values[rest / period], err) < 0)
                return -1;
            rest %= period;
        }
    }
    return 0;
}

static int compare_settings(const void *a, const void *b)
{
    return strcmp(((const struct setting *)a)->name, ((const struct setting *)b)->name);
}

/* An object of exclude or include. *applies is false when it names another model. */
static int parse_combination(const struct case_template *template, const char *model, struct plim_json object,
                             struct combination *out, bool *applies, struct plim_err *err)
{
    const cJSON *child;

    *applies = true;
    if (plim_json_object(object, err) < 0)
        return -1;
    if (plim_json_length(object) == 0)
        return plim_json_err(object, err, "the combination is empty");
    cJSON_ArrayForEach(child, object.node) {
        struct plim_json value = plim_json_get(object, child->string);
        char text[VALUE_SIZE], canonical[VALUE_SIZE];

        if (strcmp(child->string, "model") == 0 && model) {
            const char *name;

            if (plim_json_string(value, &name, err) < 0)
                return -1;
            if (strcmp(name, model) != 0)
                *applies = false;
            continue;
        }
        if (template_check_name(template, object, child->string, err) < 0 ||
            json_scalar_text(value, text, sizeof text, err) < 0)
            return -1;
        if (template_canonical(template, child->string, text, canonical, sizeof canonical, err) < 0)
            return json_wrap(value, err);
        if (combination_set(out, child->string, canonical, err) < 0)
            return -1;
    }
    if (out->count)
        qsort(out->items, out->count, sizeof *out->items, compare_settings);
    return 0;
}

static const char *combination_value(const struct combination *combination, const char *name)
{
    for (size_t i = 0; i < combination->count; i++)
        if (strcmp(combination->items[i].name, name) == 0)
            return combination->items[i].value;
    return NULL;
}

static bool combination_matches(const struct combination *combination, const struct combination *pattern)
{
    for (size_t i = 0; i < pattern->count; i++) {
        const char *value = combination_value(combination, pattern->items[i].name);

        if (!value || strcmp(value, pattern->items[i].value) != 0)
            return false;
    }
    return true;
}

/* Leaves out what matches. A pattern that matches nothing is a mistake in the suite: it is refused. */
static int exclude(struct combinations *combinations, const struct combination *pattern, struct plim_json where,
                   struct plim_err *err)
{
    bool matched = false;

    for (size_t i = 0; i < combinations->count; i++)
        if (combination_matches(&combinations->items[i], pattern))
            combinations->items[i].excluded = matched = true;
    return matched ? 0 : plim_json_err(where, err, "matches no combination of the sweep");
}

static int apply_list(const struct case_template *template, const char *model, struct plim_json list, bool including,
                      struct combinations *out, struct plim_err *err)
{
    if (!plim_json_has(list))
        return 0;
    if (plim_json_array(list, err) < 0)
        return -1;
    for (size_t i = 0; i < plim_json_length(list); i++) {
        struct plim_json object = plim_json_at(list, i);
        struct combination combination = { 0 };
        bool applies;
        int rc = parse_combination(template, model, object, &combination, &applies, err);

        if (rc == 0 && applies && !including)
            rc = exclude(out, &combination, object, err);
        if (rc == 0 && applies && including) {
            struct combination *added = combinations_add(out, err);

            if (added) {
                *added = combination;
                combination = (struct combination){ 0 };
            } else {
                rc = -1;
            }
        }
        combination_release(&combination);
        if (rc < 0)
            return -1;
    }
    return 0;
}

int sweep_expand(const struct case_template *template, const char *model, struct plim_json entry,
                 struct combinations *out, struct plim_err *err)
{
    struct axes axes = { 0 };
    int rc = -1;

    if (axes_parse(&axes, template, entry, err) < 0)
        goto out;
    /* Without a sweep there is one case, as the entry says, or those that "include" lists. */
    if ((axes.count || !plim_json_has(plim_json_get(entry, "include"))) &&
        cross_product(&axes, plim_json_get(entry, "sweep"), out, err) < 0)
        goto out;
    if (apply_list(template, model, plim_json_get(entry, "exclude"), false, out, err) < 0 ||
        apply_list(template, model, plim_json_get(entry, "include"), true, out, err) < 0)
        goto out;
    rc = 0;

out:
    axes_release(&axes);
    if (rc < 0)
        combinations_release(out);
    return rc;
}
