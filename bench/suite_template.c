/* What the entries of a suite have in common: scalars and lists, gates, and the settings that a case starts from. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "metrics.h"
#include "suite_parse.h"

int json_wrap(struct plim_json value, struct plim_err *err)
{
    return plim_err_wrap(err, "%s: %s", value.document, value.path);
}

int json_scalar_text(struct plim_json value, char *buffer, size_t size, struct plim_err *err)
{
    const char *text;
    double number;

    if (!plim_json_has(value))
        return plim_json_err(value, err, "missing");
    if (cJSON_IsBool(value.node)) {
        snprintf(buffer, size, "%s", cJSON_IsTrue(value.node) ? "on" : "off");
        return 0;
    }
    if (cJSON_IsNumber(value.node)) {
        if (plim_json_double(value, &number, err) < 0)
            return -1;
        format_number(buffer, size, number);
        return 0;
    }
    if (!cJSON_IsString(value.node))
        return plim_json_err(value, err, "wanted a number, a text, true or false");
    if (plim_json_string(value, &text, err) < 0)
        return -1;
    if (strlen(text) >= size)
        return plim_json_err(value, err, "longer than %zu bytes", size - 1);
    snprintf(buffer, size, "%s", text);
    return 0;
}

void string_list_release(char ***list)
{
    for (size_t i = 0; *list && (*list)[i]; i++)
        free((*list)[i]);
    free(*list);
    *list = NULL;
}

int json_string_list(struct plim_json value, char ***out, struct plim_err *err)
{
    bool is_array = cJSON_IsArray(value.node);
    size_t count = is_array ? plim_json_length(value) : 1;

    if (is_array && count == 0)
        return plim_json_err(value, err, "the list is empty");
    *out = heap_calloc(count + 1, sizeof **out, err);
    if (!*out)
        return -1;
    for (size_t i = 0; i < count; i++) {
        const char *text;

        if (plim_json_string(is_array ? plim_json_at(value, i) : value, &text, err) < 0)
            goto fail;
        (*out)[i] = heap_strdup(text, err);
        if (!(*out)[i])
            goto fail;
    }
    return 0;

fail:
    string_list_release(out);
    return -1;
}

int json_plain_name(struct plim_json value, const char **out, struct plim_err *err)
{
    if (plim_json_string(value, out, err) < 0)
        return -1;
    if (!result_name_is_plain(*out))
        return plim_json_err(value, err, "\"%s\": a name has letters, digits, '.', '_', '-', '+', does not begin with "
                             "'.', and is at most 100 bytes long", *out);
    return 0;
}

/* ---- gates ---- */

void gates_release(struct suite_gates *gates)
{
    for (size_t i = 0; i < gates->count; i++)
        free(gates->items[i].metric);
    free(gates->items);
    *gates = (struct suite_gates){ 0 };
}

static struct suite_gate *gates_add(struct suite_gates *gates, struct plim_err *err)
{
    struct suite_gate *items = heap_room(gates->items, gates->count, sizeof *items, err);

    if (!items)
        return NULL;
    gates->items = items;
    return &items[gates->count++];
}

int gates_copy(struct suite_gates *to, const struct suite_gates *from, struct plim_err *err)
{
    for (size_t i = 0; i < from->count; i++) {
        struct suite_gate *gate = gates_add(to, err);

        if (!gate)
            return -1;
        *gate = from->items[i];
        if (gate->metric && !(gate->metric = heap_strdup(from->items[i].metric, err)))
            return -1;
    }
    return 0;
}

static int parse_gate_value(struct plim_json value, struct metric_gate *gate, struct plim_err *err)
{
    static const char *const keys[] = { "level", "relative", "absolute", NULL };
    struct plim_json level = value;
    int index = GATE_FAIL;

    *gate = (struct metric_gate){ 0 };
    if (cJSON_IsObject(value.node)) {
        struct plim_json relative = plim_json_get(value, "relative"), absolute = plim_json_get(value, "absolute");

        if (plim_json_only_keys(value, keys, err) < 0)
            return -1;
        if (plim_json_has(relative) && plim_json_double(relative, &gate->relative, err) < 0)
            return -1;
        if (plim_json_has(absolute) && plim_json_double(absolute, &gate->absolute, err) < 0)
            return -1;
        if (gate->relative < 0)
            return plim_json_err(relative, err, "%g; wanted a tolerance of 0 or more", gate->relative);
        if (gate->absolute < 0)
            return plim_json_err(absolute, err, "%g; wanted a tolerance of 0 or more", gate->absolute);
        level = plim_json_get(value, "level");
    }
    if (plim_json_has(level) && plim_json_choice(level, gate_level_names, &index, err) < 0)
        return -1;
    gate->level = (enum gate_level)index;
    return 0;
}

/* The class that `key` names, or -1. */
static int class_named(const char *key)
{
    for (int class = 0; class < METRIC_CLASS_COUNT; class++)
        if (strcmp(metric_class_name((enum metric_class)class), key) == 0)
            return class;
    return -1;
}

static int parse_gates(struct suite_gates *gates, struct plim_json object, struct plim_err *err)
{
    const cJSON *child;

    if (plim_json_object(object, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, object.node) {
        struct plim_json value = plim_json_get(object, child->string);
        struct suite_gate *gate;
        int class = class_named(child->string);

        if (class < 0 && !metric_find(child->string)) {
            const char *nearest = metric_nearest(child->string);

            return plim_json_err(object, err, "\"%s\" is no metric and no class (exact, bounded, system, timing)%s%s%s",
                                 child->string, nearest ? "; did you mean " : "", nearest ? nearest : "",
                                 nearest ? "?" : "");
        }
        gate = gates_add(gates, err);
        if (!gate)
            return -1;
        gate->is_class = class >= 0;
        if (gate->is_class)
            gate->class = (enum metric_class)class;
        else if (!(gate->metric = heap_strdup(child->string, err)))
            return -1;
        if (parse_gate_value(value, &gate->gate, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- templates ---- */

void template_release(struct case_template *template)
{
    gates_release(&template->gates);
    facts_release(&template->arguments);
}

static const char *const *settable_names(const struct case_template *template)
{
    static const char *names[PLIM_PARAMETER_COUNT + 33];
    const char *const *parameters = plim_parameter_names();
    size_t count = 0;

    while (count < PLIM_PARAMETER_COUNT && parameters[count]) {
        names[count] = parameters[count];
        count++;
    }
    if (template->workload)
        for (const struct argument_row *row = template->workload->arguments;
             row->name && count < COUNT_OF(names) - 1; row++)
            names[count++] = row->name;
    names[count] = NULL;
    return names;
}

static bool is_parameter(const char *name)
{
    for (const char *const *p = plim_parameter_names(); *p; p++)
        if (strcmp(*p, name) == 0)
            return true;
    return false;
}

int template_check_name(const struct case_template *template, struct plim_json where, const char *name,
                        struct plim_err *err)
{
    const char *const *names = settable_names(template);
    const char *nearest;

    for (const char *const *n = names; *n; n++)
        if (strcmp(*n, name) == 0)
            return 0;
    nearest = plim_nearest_name(name, names);
    if (nearest)
        return plim_json_err(where, err, "\"%s\" is no parameter%s; did you mean %s?", name,
                             template->workload ? " and no argument of the workload" : "", nearest);
    return plim_json_err(where, err, "\"%s\" is no parameter%s", name,
                         template->workload ? " and no argument of the workload" : "");
}

int template_set(struct case_template *template, const char *name, const char *text, struct plim_err *err)
{
    if (template->workload && workload_argument(template->workload, name))
        return argument_set(template->workload, &template->arguments, name, text, err);
    return plim_parameters_set(&template->parameters, name, text, err);
}

int template_canonical(const struct case_template *template, const char *name, const char *text, char *buffer,
                       size_t size, struct plim_err *err)
{
    int rc = -1;

    if (is_parameter(name)) {
        struct plim_parameters parameters = template->parameters;
        enum plim_parameter parameter;

        if (plim_parameters_set(&parameters, name, text, err) < 0 || plim_parameter_find(name, &parameter, err) < 0)
            return -1;
        plim_parameters_format(&parameters, parameter, buffer, size);
        rc = 0;
    } else {
        struct facts scratch = { 0 };

        if (argument_set(template->workload, &scratch, name, text, err) == 0) {
            argument_format(&scratch, name, buffer, size);
            rc = 0;
        }
        facts_release(&scratch);
    }
    return rc;
}

static int parse_parameters(struct case_template *template, struct plim_json object, struct plim_err *err)
{
    const cJSON *child;

    if (plim_json_object(object, err) < 0 || plim_json_only_keys(object, plim_parameter_names(), err) < 0)
        return -1;
    cJSON_ArrayForEach(child, object.node) {
        struct plim_json value = plim_json_get(object, child->string);
        char text[64];

        if (json_scalar_text(value, text, sizeof text, err) < 0)
            return -1;
        if (plim_parameters_set(&template->parameters, child->string, text, err) < 0)
            return json_wrap(value, err);
    }
    return 0;
}

static int parse_optional_int(struct plim_json object, const char *key, int64_t low, int64_t high, int *out,
                              struct plim_err *err)
{
    struct plim_json value = plim_json_get(object, key);
    int64_t number;

    if (!plim_json_has(value))
        return 0;
    if (plim_json_int(value, low, high, &number, err) < 0)
        return -1;
    *out = (int)number;
    return 0;
}

int template_parse_common(struct case_template *template, struct plim_json object, struct plim_err *err)
{
    struct plim_json parameters = plim_json_get(object, "parameters"), gate = plim_json_get(object, "gate");
    struct plim_json timeout = plim_json_get(object, "timeout_s");

    if (plim_json_has(parameters) && parse_parameters(template, parameters, err) < 0)
        return -1;
    if (parse_optional_int(object, "repeats", 1, 1000, &template->repeats, err) < 0 ||
        parse_optional_int(object, "warmup", 0, 100, &template->warmup, err) < 0)
        return -1;
    if (plim_json_has(timeout)) {
        if (plim_json_double(timeout, &template->timeout_s, err) < 0)
            return -1;
        if (!(template->timeout_s > 0 && template->timeout_s <= 86400))
            return plim_json_err(timeout, err, "%g; wanted more than 0 and at most 86400 seconds", template->timeout_s);
    }
    if (plim_json_has(gate) && parse_gates(&template->gates, gate, err) < 0)
        return -1;
    return 0;
}
