/* Requests: the parent formats them, the worker parses them. */

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/json.h"
#include "protocol.h"

void case_request_release(struct case_request *request)
{
    free(request->id);
    free(request->model_directory);
    free(request->trace_path);
    facts_release(&request->arguments);
    *request = (struct case_request){ 0 };
}

void request_release(struct request *request)
{
    case_request_release(&request->run);
    *request = (struct request){ 0 };
}

/* ---- format ---- */

static char *print_and_delete(cJSON *root, bool complete, struct plim_err *err)
{
    char *text = complete ? cJSON_PrintUnformatted(root) : NULL;

    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory formatting a request");
    return text;
}

/* The parameters that were set, as text, so that the worker's own defaults fill in the rest. */
static bool add_parameters(cJSON *root, const struct plim_parameters *parameters)
{
    cJSON *object = cJSON_AddObjectToObject(root, "parameters");

    for (int p = 0; object && p < PLIM_PARAMETER_COUNT; p++) {
        char text[64];

        if (!parameters->set[p])
            continue;
        plim_parameters_format(parameters, (enum plim_parameter)p, text, sizeof text);
        if (!cJSON_AddStringToObject(object, plim_parameter_row((enum plim_parameter)p)->name, text))
            return false;
    }
    return object != NULL;
}

static bool add_arguments(cJSON *root, const struct facts *arguments)
{
    cJSON *object = cJSON_AddObjectToObject(root, "arguments");

    for (size_t i = 0; object && i < arguments->count; i++) {
        const struct fact *fact = &arguments->items[i];
        char number[32];

        /* Numbers as raw text: cJSON's own printing rounds at 15 digits. */
        if (!(fact->text ? cJSON_AddStringToObject(object, fact->name, fact->text)
                         : cJSON_AddRawToObject(object, fact->name,
                                                format_number(number, sizeof number, fact->number))))
            return false;
    }
    return object != NULL;
}

/* Only where something is planted: workers from before the controls refuse the key. */
static bool add_control(cJSON *root, const struct control *control)
{
    cJSON *object;

    if (!(control->delay_fraction > 0) && !control->extra_bytes)
        return true;
    object = cJSON_AddObjectToObject(root, "control");
    return object && cJSON_AddNumberToObject(object, "delay_fraction", control->delay_fraction) &&
           cJSON_AddNumberToObject(object, "extra_bytes", (double)control->extra_bytes);
}

char *request_format_case(const struct case_request *request, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    bool complete = root && cJSON_AddNumberToObject(root, "protocol", PROTOCOL_VERSION) &&
                    cJSON_AddStringToObject(root, "request", "case") &&
                    cJSON_AddStringToObject(root, "id", request->id) &&
                    cJSON_AddStringToObject(root, "workload", request->workload->name) &&
                    (!request->model_directory ||
                     cJSON_AddStringToObject(root, "model_directory", request->model_directory)) &&
                    (!request->trace_path || cJSON_AddStringToObject(root, "trace_path", request->trace_path)) &&
                    add_parameters(root, &request->parameters) && add_arguments(root, &request->arguments) &&
                    cJSON_AddNumberToObject(root, "repeats", request->repeats) &&
                    cJSON_AddNumberToObject(root, "warmup", request->warmup) &&
                    add_control(root, &request->control);

    return print_and_delete(root, complete, err);
}

char *request_format_machine(bool yardsticks, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    bool complete = root && cJSON_AddNumberToObject(root, "protocol", PROTOCOL_VERSION) &&
                    cJSON_AddStringToObject(root, "request", "machine") &&
                    cJSON_AddBoolToObject(root, "yardsticks", yardsticks);

    return print_and_delete(root, complete, err);
}

/* ---- parse ---- */

static int parse_parameters(struct plim_parameters *parameters, struct plim_json object, struct plim_err *err)
{
    const cJSON *child;

    plim_parameters_default(parameters);
    if (plim_json_object(object, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, object.node) {
        const char *text;

        if (plim_json_string(plim_json_get(object, child->string), &text, err) < 0 ||
            plim_parameters_set(parameters, child->string, text, err) < 0)
            return -1;
    }
    return 0;
}

static int parse_arguments(const struct workload *workload, struct facts *arguments, struct plim_json object,
                           struct plim_err *err)
{
    const cJSON *child;

    if (plim_json_object(object, err) < 0 || arguments_default(workload, arguments, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, object.node) {
        struct plim_json value = plim_json_get(object, child->string);
        char number[32];
        const char *text = number;
        double parsed;

        if (cJSON_IsNumber(child)) {
            if (plim_json_double(value, &parsed, err) < 0)
                return -1;
            format_number(number, sizeof number, parsed);
        } else if (plim_json_string(value, &text, err) < 0) {
            return -1;
        }
        if (argument_set(workload, arguments, child->string, text, err) < 0)
            return -1;
    }
    return 0;
}

static int parse_control(struct control *control, struct plim_json object, struct plim_err *err)
{
    static const char *const keys[] = { "delay_fraction", "extra_bytes", NULL };
    struct plim_json delay = plim_json_get(object, "delay_fraction");
    int64_t bytes;

    if (!plim_json_has(object))
        return 0;
    if (plim_json_only_keys(object, keys, err) < 0 || plim_json_double(delay, &control->delay_fraction, err) < 0 ||
        plim_json_int(plim_json_get(object, "extra_bytes"), 0, (int64_t)1 << 40, &bytes, err) < 0)
        return -1;
    if (!(control->delay_fraction >= 0 && control->delay_fraction <= 100))
        return plim_json_err(delay, err, "%g; wanted 0 to 100", control->delay_fraction);
    control->extra_bytes = (uint64_t)bytes;
    return 0;
}

static int parse_case(struct case_request *run, struct plim_json root, struct plim_err *err)
{
    static const char *const keys[] = { "protocol", "request", "id", "workload", "model_directory", "parameters",
                                        "arguments", "repeats", "warmup", "trace_path", "control",
                                        NULL };
    struct plim_json directory = plim_json_get(root, "model_directory"), trace = plim_json_get(root, "trace_path");
    const char *text;
    int64_t repeats, warmup;

    if (plim_json_only_keys(root, keys, err) < 0 || plim_json_string(plim_json_get(root, "id"), &text, err) < 0 ||
        !(run->id = heap_strdup(text, err)) || plim_json_string(plim_json_get(root, "workload"), &text, err) < 0 ||
        !(run->workload = workload_find(text, err)))
        return -1;
    if (plim_json_has(directory) && (plim_json_string(directory, &text, err) < 0 ||
                                     !(run->model_directory = heap_strdup(text, err))))
        return -1;
    if (plim_json_has(trace) && (plim_json_string(trace, &text, err) < 0 || !(run->trace_path = heap_strdup(text, err))))
        return -1;
    if (run->workload->needs_model && !run->model_directory)
        return plim_json_err(root, err, "workload %s needs a model_directory", run->workload->name);
    if (parse_parameters(&run->parameters, plim_json_get(root, "parameters"), err) < 0 ||
        parse_arguments(run->workload, &run->arguments, plim_json_get(root, "arguments"), err) < 0 ||
        plim_json_int(plim_json_get(root, "repeats"), 1, 100000, &repeats, err) < 0 ||
        plim_json_int(plim_json_get(root, "warmup"), 0, 100000, &warmup, err) < 0 ||
        parse_control(&run->control, plim_json_get(root, "control"), err) < 0)
        return -1;
    run->repeats = (int)repeats;
    run->warmup = (int)warmup;
    return 0;
}

static int parse_root(struct request *request, struct plim_json root, struct plim_err *err)
{
    static const char *const kinds[] = { "case", "machine", NULL };
    static const char *const machine_keys[] = { "protocol", "request", "yardsticks", NULL };
    int64_t protocol;
    int kind;

    if (plim_json_object(root, err) < 0 ||
        plim_json_int(plim_json_get(root, "protocol"), 0, INT32_MAX, &protocol, err) < 0)
        return -1;
    if (protocol != PROTOCOL_VERSION)
        return plim_json_err(root, err, "protocol %lld; this worker speaks %d", (long long)protocol, PROTOCOL_VERSION);
    if (plim_json_choice(plim_json_get(root, "request"), kinds, &kind, err) < 0)
        return -1;
    request->kind = (enum request_kind)kind;
    if (request->kind == REQUEST_CASE)
        return parse_case(&request->run, root, err);
    if (plim_json_only_keys(root, machine_keys, err) < 0)
        return -1;
    return plim_json_bool(plim_json_get(root, "yardsticks"), &request->yardsticks, err);
}

int request_parse(struct request *request, const char *line, size_t length, struct plim_err *err)
{
    cJSON *root = NULL;
    int rc;

    *request = (struct request){ 0 };
    if (plim_json_parse("request", line, length, &root, err) < 0)
        return -1;
    rc = parse_root(request, plim_json_root(root, "request"), err);
    cJSON_Delete(root);
    if (rc < 0)
        request_release(request);
    return rc;
}
