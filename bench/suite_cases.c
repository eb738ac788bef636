/* "defaults" and "cases" of a suite: from entries to expanded cases with their ids. */

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "suite_parse.h"

/* MODEL/NAME/SWEPT; see suite.h. */
static char *make_id(const char *model, const char *name, const struct combination *combination, struct plim_err *err)
{
    char *id = model ? heap_printf(err, "%s/%s", model, name) : heap_strdup(name, err);

    for (size_t i = 0; id && i < combination->count; i++) {
        const struct setting *setting = &combination->items[i];
        char *longer = heap_printf(err, "%s%c%s=%s", id, i ? ',' : '/', setting->name, setting->value);

        free(id);
        id = longer;
    }
    return id;
}

static int facts_copy(struct facts *to, const struct facts *from, struct plim_err *err)
{
    for (size_t i = 0; i < from->count; i++) {
        const struct fact *fact = &from->items[i];
        int rc = fact->text ? facts_set_text(to, fact->name, fact->text, err)
                            : facts_set_number(to, fact->name, fact->number, err);

        if (rc < 0)
            return -1;
    }
    return 0;
}

/* What an entry of "cases" is, apart from its template. */
struct case_entry {
    const char *name;
    const char *note;
    enum outcome expect;
    size_t models[64];       /* indices; SIZE_MAX stands for no model */
    size_t model_count;
};

static int fill_case(struct suite_case *c, const struct suite *suite, const struct case_entry *entry, size_t model,
                     const struct case_template *template, const struct combination *combination,
                     struct plim_err *err)
{
    struct case_template set = { .parameters = template->parameters, .workload = template->workload };
    struct plim_parameters resolved;
    int rc = -1;

    c->model = model;
    c->workload = template->workload;
    c->repeats = template->repeats;
    c->warmup = template->warmup;
    c->timeout_s = template->timeout_s;
    c->expect = entry->expect;
    if (facts_copy(&set.arguments, &template->arguments, err) < 0)
        goto out;
    for (size_t i = 0; i < combination->count; i++)
        if (template_set(&set, combination->items[i].name, combination->items[i].value, err) < 0)
            goto out;
    resolved = set.parameters;
    if (plim_parameters_resolve(&resolved, err) < 0)   /* refuses combinations now, not in the middle of a run */
        goto out;
    c->parameters = set.parameters;
    c->arguments = set.arguments;
    set.arguments = (struct facts){ 0 };
    if (gates_copy(&c->gates, &template->gates, err) < 0)
        goto out;
    if (!(c->name = heap_strdup(entry->name, err)) || (entry->note && !(c->note = heap_strdup(entry->note, err))))
        goto out;
    c->id = make_id(model == SIZE_MAX ? NULL : suite->models[model].name, entry->name, combination, err);
    rc = c->id ? 0 : -1;

out:
    facts_release(&set.arguments);
    return rc;
}

void suite_case_release(struct suite_case *c)
{
    free(c->id);
    free(c->name);
    free(c->note);
    facts_release(&c->arguments);
    gates_release(&c->gates);
    *c = (struct suite_case){ 0 };
}

static int add_case(struct suite *suite, const struct case_entry *entry, size_t model,
                    const struct case_template *template, const struct combination *combination,
                    struct plim_json where, struct plim_err *err)
{
    struct suite_case made = { 0 };
    struct suite_case *items;

    if (suite->case_count >= SUITE_CASE_LIMIT)
        return plim_json_err(where, err, "the suite has more than %d cases", SUITE_CASE_LIMIT);
    if (fill_case(&made, suite, entry, model, template, combination, err) < 0) {
        suite_case_release(&made);
        return err->kind == PLIM_ERR_INPUT ? json_wrap(where, err) : -1;
    }
    if (suite_find_case(suite, made.id)) {
        plim_json_err(where, err, "a second case with the id %s", made.id);
        suite_case_release(&made);
        return -1;
    }
    items = heap_room(suite->cases, suite->case_count, sizeof *items, err);
    if (!items) {
        suite_case_release(&made);
        return -1;
    }
    suite->cases = items;
    items[suite->case_count++] = made;
    return 0;
}

static int parse_workload(struct case_template *template, struct plim_json object, struct plim_err *err)
{
    struct plim_json kind = plim_json_get(object, "kind");
    const char *name;
    const cJSON *child;

    if (plim_json_object(object, err) < 0 || plim_json_string(kind, &name, err) < 0)
        return -1;
    template->workload = workload_find(name, err);
    if (!template->workload)
        return json_wrap(kind, err);
    if (arguments_default(template->workload, &template->arguments, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, object.node) {
        struct plim_json value = plim_json_get(object, child->string);
        char text[4096];

        if (strcmp(child->string, "kind") == 0)
            continue;
        if (!workload_argument(template->workload, child->string)) {
            argument_set(template->workload, &template->arguments, child->string, "", err);
            return json_wrap(object, err);
        }
        if (json_scalar_text(value, text, sizeof text, err) < 0)
            return -1;
        if (argument_set(template->workload, &template->arguments, child->string, text, err) < 0)
            return json_wrap(value, err);
    }
    return 0;
}

static int find_model(const struct suite *suite, struct plim_json where, const char *name, size_t *out,
                      struct plim_err *err)
{
    const char **names;
    const char *nearest;

    for (size_t i = 0; i < suite->model_count; i++)
        if (strcmp(suite->models[i].name, name) == 0) {
            *out = i;
            return 0;
        }
    names = heap_calloc(suite->model_count + 1, sizeof *names, err);
    if (!names)
        return -1;
    for (size_t i = 0; i < suite->model_count; i++)
        names[i] = suite->models[i].name;
    nearest = plim_nearest_name(name, names);
    plim_json_err(where, err, "no model \"%s\" in \"models\"%s%s%s", name, nearest ? "; did you mean " : "",
                  nearest ? nearest : "", nearest ? "?" : "");
    free(names);
    return -1;
}

static int parse_case_models(const struct suite *suite, struct case_entry *entry, const struct workload *workload,
                             struct plim_json object, struct plim_err *err)
{
    struct plim_json model = plim_json_get(object, "model");
    char **names = NULL;
    int rc = -1;

    if (!workload->needs_model) {
        if (plim_json_has(model))
            return plim_json_err(model, err, "workload %s takes no model", workload->name);
        entry->models[entry->model_count++] = SIZE_MAX;
        return 0;
    }
    if (!plim_json_has(model))
        return plim_json_err(object, err, "workload %s needs a \"model\"", workload->name);
    if (json_string_list(model, &names, err) < 0)
        return -1;
    for (size_t i = 0; names[i]; i++) {
        if (entry->model_count == COUNT_OF(entry->models)) {
            plim_json_err(model, err, "more than %zu models", COUNT_OF(entry->models));
            goto out;
        }
        if (find_model(suite, model, names[i], &entry->models[entry->model_count++], err) < 0)
            goto out;
    }
    rc = 0;

out:
    string_list_release(&names);
    return rc;
}

/* "model" in exclude and include must be one that the case runs. */
static int check_listed_models(const struct suite *suite, const struct case_entry *entry, struct plim_json list,
                               struct plim_err *err)
{
    if (!cJSON_IsArray(list.node))
        return 0;
    for (size_t i = 0; i < plim_json_length(list); i++) {
        struct plim_json model = plim_json_get(plim_json_at(list, i), "model");
        bool found = !plim_json_has(model) || !cJSON_IsString(model.node);

        for (size_t k = 0; k < entry->model_count && !found; k++)
            found = entry->models[k] != SIZE_MAX &&
                    strcmp(suite->models[entry->models[k]].name, model.node->valuestring) == 0;
        if (!found)
            return plim_json_err(model, err, "\"%s\" is not a model of this case", model.node->valuestring);
    }
    return 0;
}

static int expand_entry(struct suite *suite, const struct case_entry *entry, const struct case_template *template,
                        struct plim_json object, struct plim_err *err)
{
    for (size_t m = 0; m < entry->model_count; m++) {
        size_t model = entry->models[m];
        struct combinations combinations = { 0 };
        int rc = sweep_expand(template, model == SIZE_MAX ? NULL : suite->models[model].name, object, &combinations,
                              err);

        for (size_t i = 0; rc == 0 && i < combinations.count; i++)
            if (!combinations.items[i].excluded)
                rc = add_case(suite, entry, model, template, &combinations.items[i], object, err);
        combinations_release(&combinations);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int parse_case(struct suite *suite, const struct case_template *defaults, struct plim_json object,
                      struct plim_err *err)
{
    static const char *const keys[] = { "name", "model", "workload", "parameters", "sweep", "exclude", "include",
                                        "repeats", "warmup", "timeout_s", "expect", "gate", "note", NULL };
    static const char *const expected[] = { "ok", "out_of_memory", NULL };
    struct plim_json note = plim_json_get(object, "note"), expect = plim_json_get(object, "expect");
    struct case_template template = { .parameters = defaults->parameters, .repeats = defaults->repeats,
                                      .warmup = defaults->warmup, .timeout_s = defaults->timeout_s };
    struct case_entry entry = { 0 };
    int index = 0, rc = -1;

    if (plim_json_object(object, err) < 0 || plim_json_only_keys(object, keys, err) < 0 ||
        json_plain_name(plim_json_get(object, "name"), &entry.name, err) < 0)
        goto out;
    if (plim_json_has(note) && plim_json_string(note, &entry.note, err) < 0)
        goto out;
    if (plim_json_has(expect) && plim_json_choice(expect, expected, &index, err) < 0)
        goto out;
    entry.expect = index ? OUTCOME_OUT_OF_MEMORY : OUTCOME_OK;
    if (gates_copy(&template.gates, &defaults->gates, err) < 0 ||
        template_parse_common(&template, object, err) < 0 ||
        parse_workload(&template, plim_json_get(object, "workload"), err) < 0 ||
        parse_case_models(suite, &entry, template.workload, object, err) < 0 ||
        check_listed_models(suite, &entry, plim_json_get(object, "exclude"), err) < 0 ||
        check_listed_models(suite, &entry, plim_json_get(object, "include"), err) < 0)
        goto out;
    rc = expand_entry(suite, &entry, &template, object, err);

out:
    template_release(&template);
    return rc;
}

int suite_parse_cases(struct suite *suite, struct plim_json root, struct plim_err *err)
{
    static const char *const keys[] = { "parameters", "repeats", "warmup", "timeout_s", "gate", NULL };
    struct plim_json defaults = plim_json_get(root, "defaults"), cases = plim_json_get(root, "cases");
    struct case_template template = { .repeats = 3, .warmup = 1, .timeout_s = 300 };
    int rc = -1;

    plim_parameters_default(&template.parameters);
    if (plim_json_has(defaults) &&
        (plim_json_object(defaults, err) < 0 || plim_json_only_keys(defaults, keys, err) < 0 ||
         template_parse_common(&template, defaults, err) < 0))
        goto out;
    if (plim_json_array(cases, err) < 0)
        goto out;
    if (plim_json_length(cases) == 0) {
        plim_json_err(cases, err, "the suite has no cases");
        goto out;
    }
    for (size_t i = 0; i < plim_json_length(cases); i++)
        if (parse_case(suite, &template, plim_json_at(cases, i), err) < 0)
            goto out;
    rc = 0;

out:
    template_release(&template);
    return rc;
}
