#include "case_list.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "model_store.h"

static bool add_facts(cJSON *object, const char *name, const struct facts *facts)
{
    cJSON *member = cJSON_AddObjectToObject(object, name);

    for (size_t i = 0; member && i < facts->count; i++) {
        const struct fact *fact = &facts->items[i];

        if (!(fact->text ? cJSON_AddStringToObject(member, fact->name, fact->text)
                         : cJSON_AddNumberToObject(member, fact->name, fact->number)))
            return false;
    }
    return member != NULL;
}

static bool add_case(cJSON *object, const struct suite_case *c, const struct result_case *described,
                     const char *model_directory, int repeats)
{
    return object && cJSON_AddStringToObject(object, "id", described->id) &&
           cJSON_AddStringToObject(object, "model", described->model) &&
           (!model_directory || cJSON_AddStringToObject(object, "model_directory", model_directory)) &&
           cJSON_AddStringToObject(object, "workload", described->workload) &&
           add_facts(object, "parameters", &described->parameters) &&
           add_facts(object, "arguments", &described->arguments) && cJSON_AddNumberToObject(object, "repeats", repeats) &&
           cJSON_AddNumberToObject(object, "warmup", c->warmup) &&
           cJSON_AddNumberToObject(object, "timeout_s", c->timeout_s);
}

static int list_case(cJSON *cases, const struct suite *suite, const struct suite_case *c,
                     const struct run_options *options, struct plim_err *err)
{
    struct result_case described = { 0 };
    char *directory = NULL;
    cJSON *object = NULL;
    int rc = -1;

    if (runner_describe_case(suite, c, &described, err) < 0)
        goto out;
    if (c->model != SIZE_MAX &&
        !(directory = model_store_path(&suite->models[c->model], options->models_directory, err)))
        goto out;
    object = cJSON_CreateObject();
    if (add_case(object, c, &described, directory, options->repeats ? options->repeats : c->repeats) &&
        cJSON_AddItemToArray(cases, object)) {
        object = NULL;
        rc = 0;
    } else {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    }

out:
    cJSON_Delete(object);
    free(directory);
    case_release(&described);
    return rc;
}

char *case_list_format(const struct suite *suite, const struct run_options *options, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *about = cJSON_AddObjectToObject(root, "suite");
    cJSON *cases = cJSON_AddArrayToObject(root, "cases");
    char *text = NULL;
    int rc = 0;

    if (!cases || !cJSON_AddStringToObject(about, "name", suite->name) ||
        !cJSON_AddStringToObject(about, "digest", suite->digest)) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < suite->case_count && rc == 0; i++)
        if (case_patterns_match(&options->cases, &suite->cases[i]))
            rc = list_case(cases, suite, &suite->cases[i], options, err);
    if (rc == 0 && !(text = cJSON_Print(root)))
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");

out:
    cJSON_Delete(root);
    return text;
}
