#include "suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "heap.h"
#include "metrics.h"
#include "plimsoll/file.h"
#include "share.h"
#include "suite_parse.h"

struct suite_case *suite_find_case(const struct suite *suite, const char *id)
{
    for (size_t i = 0; i < suite->case_count; i++)
        if (strcmp(suite->cases[i].id, id) == 0)
            return &suite->cases[i];
    return NULL;
}

/* ---- the document ---- */

static int check_schema(struct plim_json schema, struct plim_err *err)
{
    static const char *const keys[] = { "name", "major", NULL };
    const char *name;
    int64_t major;

    if (plim_json_object(schema, err) < 0 || plim_json_only_keys(schema, keys, err) < 0 ||
        plim_json_string(plim_json_get(schema, "name"), &name, err) < 0)
        return -1;
    if (strcmp(name, SUITE_SCHEMA) != 0)
        return plim_json_err(plim_json_get(schema, "name"), err, "\"%s\"; wanted \"" SUITE_SCHEMA "\"", name);
    if (plim_json_int(plim_json_get(schema, "major"), 0, 1000000, &major, err) < 0)
        return -1;
    if (major != SUITE_SCHEMA_MAJOR)
        return plim_json_err(plim_json_get(schema, "major"), err, "version %lld; this program reads version %d",
                             (long long)major, SUITE_SCHEMA_MAJOR);
    return 0;
}

static int parse_root(struct suite *suite, struct plim_json root, struct plim_err *err)
{
    static const char *const keys[] = { "schema", "name", "description", "models", "defaults", "cases", "plots", NULL };
    struct plim_json description = plim_json_get(root, "description");
    const char *name, *text = "";

    if (plim_json_object(root, err) < 0 || check_schema(plim_json_get(root, "schema"), err) < 0 ||
        plim_json_only_keys(root, keys, err) < 0 || json_plain_name(plim_json_get(root, "name"), &name, err) < 0)
        return -1;
    if (plim_json_has(description) && plim_json_string(description, &text, err) < 0)
        return -1;
    if (!(suite->name = heap_strdup(name, err)) || !(suite->description = heap_strdup(text, err)))
        return -1;
    if (suite_parse_models(suite, plim_json_get(root, "models"), err) < 0 || suite_parse_cases(suite, root, err) < 0)
        return -1;
    return suite_parse_plots(suite, plim_json_get(root, "plots"), err);
}

int suite_parse(struct suite *suite, const char *document, const char *text, size_t length, struct plim_err *err)
{
    cJSON *root = NULL;
    int rc;

    *suite = (struct suite){ 0 };
    if (plim_json_parse(document, text, length, &root, err) < 0)
        return -1;
    snprintf(suite->digest, sizeof suite->digest, "%016llx", (unsigned long long)XXH3_64bits(text, length));
    rc = parse_root(suite, plim_json_root(root, document), err);
    cJSON_Delete(root);
    if (rc < 0)
        suite_release(suite);
    return rc;
}

void suite_release(struct suite *suite)
{
    for (size_t i = 0; i < suite->model_count; i++) {
        free(suite->models[i].name);
        free(suite->models[i].directory);
        free(suite->models[i].fetch);
    }
    for (size_t i = 0; i < suite->case_count; i++)
        suite_case_release(&suite->cases[i]);
    for (size_t i = 0; i < suite->plot_count; i++) {
        struct suite_plot *plot = &suite->plots[i];

        free(plot->name);
        free(plot->title);
        free(plot->cases);
        free(plot->x);
        string_list_release(&plot->y);
        string_list_release(&plot->series);
    }
    free(suite->models);
    free(suite->cases);
    free(suite->plots);
    free(suite->path);
    free(suite->name);
    free(suite->description);
    *suite = (struct suite){ 0 };
}

/* ---- files ---- */

char *suite_locate(const char *name, struct plim_err *err)
{
    char *relative, *path;

    if (strchr(name, '/') || (strlen(name) > 5 && strcmp(name + strlen(name) - 5, ".json") == 0))
        return heap_strdup(name, err);
    relative = heap_printf(err, "suites/%s.json", name);
    path = relative ? share_locate(relative, err) : NULL;
    if (path && !plim_path_exists(path)) {
        plim_err_input(err, "no suite \"%s\": there is no suites/%s.json here or beside the program", name, name);
        free(path);
        path = NULL;
    }
    free(relative);
    return path;
}

int suite_read(struct suite *suite, const char *name, struct plim_err *err)
{
    char *path = suite_locate(name, err), *text = NULL;
    size_t length;
    int rc = -1;

    *suite = (struct suite){ 0 };
    if (!path || plim_read_file(path, SUITE_BYTES_LIMIT, &text, &length, err) < 0)
        goto out;
    if (suite_parse(suite, path, text, length, err) < 0)
        goto out;
    suite->path = path;
    path = NULL;
    rc = 0;

out:
    free(text);
    free(path);
    return rc;
}

/* ---- what a case asks of its surroundings ---- */

struct metric_gate suite_gate_of(const struct suite_case *c, const char *metric, enum metric_class class)
{
    struct metric_gate gate = { 0 };
    bool named = false;

    for (int want_class = 1; want_class >= 0; want_class--)
        for (size_t i = 0; i < c->gates.count; i++) {
            const struct suite_gate *item = &c->gates.items[i];

            if (want_class ? item->is_class && item->class == class
                           : !item->is_class && strcmp(item->metric, metric) == 0)
                gate = item->gate;
            named |= !item->is_class && strcmp(item->metric, metric) == 0;
        }
    if (!named && metric_only_explains(metric))
        gate.level = GATE_OFF;
    return gate;
}

/* A parameter of every case, or an argument of those whose workload has it. */
static int set_in_case(struct suite_case *c, const char *name, const char *text, bool *taken, struct plim_err *err)
{
    struct plim_parameters resolved;
    enum plim_parameter parameter;
    struct plim_err unknown = PLIM_ERR_INIT;

    if (workload_argument(c->workload, name)) {
        *taken = true;
        return argument_set(c->workload, &c->arguments, name, text, err);
    }
    if (plim_parameter_find(name, &parameter, &unknown) < 0)
        return 0;
    *taken = true;
    if (plim_parameters_set(&c->parameters, name, text, err) < 0)
        return -1;
    resolved = c->parameters;
    return plim_parameters_resolve(&resolved, err) < 0 ? plim_err_wrap(err, "%s", c->id) : 0;
}

int suite_set(struct suite *suite, const char *name, const char *text, struct plim_err *err)
{
    enum plim_parameter parameter;
    bool taken = false;

    for (size_t i = 0; i < suite->case_count; i++)
        if (set_in_case(&suite->cases[i], name, text, &taken, err) < 0)
            return -1;
    return taken ? 0 : plim_parameter_find(name, &parameter, err);
}
