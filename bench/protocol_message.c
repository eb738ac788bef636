/* Messages: the worker formats them, the parent parses them. */

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/json.h"
#include "protocol.h"

static const char *const message_names[] = { "hello", "progress", "metric", "facts", "error", "done", NULL };
static const char *const section_names[] = { "machine", "recorded", "yardsticks", "refusal", NULL };

/* In the order of enum plim_err_kind. */
static const char *const *error_names(void)
{
    static const char *names[PLIM_ERR_INTERNAL + 2];

    for (int kind = PLIM_ERR_NONE; kind <= PLIM_ERR_INTERNAL; kind++)
        names[kind] = plim_err_kind_name((enum plim_err_kind)kind);
    return names;
}

void message_release(struct message *message)
{
    free(message->version);
    free(message->revision);
    free(message->text);
    metric_release(&message->metric);
    facts_release(&message->facts);
    *message = (struct message){ 0 };
}

/* ---- format ---- */

/*
 * Numbers are written as the shortest text that reads back as the same double. cJSON's own printing stops at 15 digits when
 * that is near enough, which loses the last bytes of a large count.
 */
static bool add_number(cJSON *object, const char *name, double number)
{
    char text[32];

    return cJSON_AddRawToObject(object, name, format_number(text, sizeof text, number)) != NULL;
}

static bool add_samples(cJSON *object, const struct metric *metric)
{
    size_t capacity = 32 * metric->sample_count + 3, used = 0;
    char *list = malloc(capacity);
    bool added;

    if (!list)
        return false;
    list[used++] = '[';
    for (size_t i = 0; i < metric->sample_count; i++) {
        if (i)
            list[used++] = ',';
        format_number(list + used, capacity - used, metric->samples[i]);
        used += strlen(list + used);
    }
    memcpy(list + used, "]", 2);
    added = cJSON_AddRawToObject(object, "samples", list) != NULL;
    free(list);
    return added;
}

static bool format_metric(cJSON *root, const struct metric *metric)
{
    if (!cJSON_AddStringToObject(root, "name", metric->name) || !cJSON_AddStringToObject(root, "unit", metric->unit) ||
        !cJSON_AddStringToObject(root, "class", metric_class_name(metric->class)) ||
        !cJSON_AddStringToObject(root, "direction", metric_direction_name(metric->direction)))
        return false;
    if (metric->texts.count)
        return cJSON_AddStringToObject(root, "key", metric->texts.items[0].name) &&
               cJSON_AddStringToObject(root, "text", metric->texts.items[0].text);
    return add_samples(root, metric);
}

static bool format_facts(cJSON *root, const struct message *message)
{
    cJSON *object;

    if (!cJSON_AddStringToObject(root, "section", section_names[message->section]) ||
        !(object = cJSON_AddObjectToObject(root, "facts")))
        return false;
    for (size_t i = 0; i < message->facts.count; i++) {
        const struct fact *fact = &message->facts.items[i];

        if (!(fact->text ? cJSON_AddStringToObject(object, fact->name, fact->text) != NULL
                         : add_number(object, fact->name, fact->number)))
            return false;
    }
    return true;
}

static bool format_body(cJSON *root, const struct message *message)
{
    switch (message->kind) {
    case MESSAGE_HELLO:
        return cJSON_AddNumberToObject(root, "protocol", (double)message->protocol) &&
               cJSON_AddStringToObject(root, "version", message->version) &&
               cJSON_AddStringToObject(root, "revision", message->revision);
    case MESSAGE_PROGRESS:
        return cJSON_AddNumberToObject(root, "done", (double)message->done) &&
               cJSON_AddNumberToObject(root, "total", (double)message->total) &&
               cJSON_AddStringToObject(root, "text", message->text ? message->text : "");
    case MESSAGE_METRIC:
        return format_metric(root, &message->metric);
    case MESSAGE_FACTS:
        return format_facts(root, message);
    case MESSAGE_ERROR:
        return cJSON_AddStringToObject(root, "kind", plim_err_kind_name(message->error)) &&
               cJSON_AddStringToObject(root, "text", message->text ? message->text : "");
    case MESSAGE_DONE:
        return add_number(root, "work_ns", (double)message->work_ns);
    }
    return false;
}

char *message_format(const struct message *message, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;

    if (root && cJSON_AddStringToObject(root, "message", message_names[message->kind]) && format_body(root, message))
        text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory formatting a message");
    return text;
}

/* ---- parse ---- */

static int copy_string(struct plim_json value, char **out, struct plim_err *err)
{
    const char *text;

    if (plim_json_string(value, &text, err) < 0)
        return -1;
    *out = heap_strdup(text, err);
    return *out ? 0 : -1;
}

static int parse_facts(struct facts *facts, struct plim_json object, struct plim_err *err)
{
    const cJSON *child;

    if (plim_json_object(object, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, object.node) {
        struct plim_json value = plim_json_get(object, child->string);
        const char *text;
        double number;
        int rc;

        if (cJSON_IsNumber(child))
            rc = plim_json_double(value, &number, err) < 0 ? -1 : facts_set_number(facts, child->string, number, err);
        else
            rc = plim_json_string(value, &text, err) < 0 ? -1 : facts_set_text(facts, child->string, text, err);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int parse_metric(struct metric *metric, struct plim_json root, struct plim_err *err)
{
    struct plim_json samples = plim_json_get(root, "samples"), text = plim_json_get(root, "text");
    const char *digest, *key;
    int class, direction;

    if (copy_string(plim_json_get(root, "name"), &metric->name, err) < 0 ||
        copy_string(plim_json_get(root, "unit"), &metric->unit, err) < 0 ||
        plim_json_choice(plim_json_get(root, "class"), metric_class_names, &class, err) < 0 ||
        plim_json_choice(plim_json_get(root, "direction"), metric_direction_names, &direction, err) < 0)
        return -1;
    if (!result_name_is_plain(metric->name))
        return plim_json_err(plim_json_get(root, "name"), err, "no plain name");
    metric->class = (enum metric_class)class;
    metric->direction = (enum metric_direction)direction;
    if (plim_json_has(samples) == plim_json_has(text))
        return plim_json_err(root, err, "wanted \"samples\" or \"text\", one of the two");
    if (plim_json_has(text)) {
        if (plim_json_string(text, &digest, err) < 0 || plim_json_string(plim_json_get(root, "key"), &key, err) < 0)
            return -1;
        return metric_set_text(metric, digest, key, err);
    }
    if (plim_json_array(samples, err) < 0)
        return -1;
    for (const cJSON *item = samples.node->child; item; item = item->next) {
        if (!cJSON_IsNumber(item))
            return plim_json_err(samples, err, "a sample is no number");
        if (metric_add_sample(metric, item->valuedouble, err) < 0)
            return -1;
    }
    return metric->sample_count ? 0 : plim_json_err(samples, err, "no samples");
}

static int parse_body(struct message *message, struct plim_json root, struct plim_err *err)
{
    static const char *const keys[][8] = {
        [MESSAGE_HELLO] = { "message", "protocol", "version", "revision" },
        [MESSAGE_PROGRESS] = { "message", "done", "total", "text" },
        [MESSAGE_METRIC] = { "message", "name", "unit", "class", "direction", "samples", "text" , "key" },
        [MESSAGE_FACTS] = { "message", "section", "facts" },
        [MESSAGE_ERROR] = { "message", "kind", "text" },
        [MESSAGE_DONE] = { "message", "work_ns" },
    };
    const char *allowed[9] = { NULL };
    int64_t work_ns;
    int choice;

    for (size_t i = 0; i < 8; i++)
        allowed[i] = keys[message->kind][i];
    if (plim_json_only_keys(root, allowed, err) < 0)
        return -1;
    switch (message->kind) {
    case MESSAGE_HELLO:
        if (plim_json_int(plim_json_get(root, "protocol"), 0, INT32_MAX, &message->protocol, err) < 0)
            return -1;
        if (message->protocol != PROTOCOL_VERSION)
            return plim_json_err(root, err, "protocol %lld; this program speaks %d", (long long)message->protocol,
                                 PROTOCOL_VERSION);
        return copy_string(plim_json_get(root, "version"), &message->version, err) < 0
                   ? -1 : copy_string(plim_json_get(root, "revision"), &message->revision, err);
    case MESSAGE_PROGRESS:
        if (plim_json_int(plim_json_get(root, "done"), 0, INT32_MAX, &message->done, err) < 0 ||
            plim_json_int(plim_json_get(root, "total"), 0, INT32_MAX, &message->total, err) < 0)
            return -1;
        return copy_string(plim_json_get(root, "text"), &message->text, err);
    case MESSAGE_METRIC:
        return parse_metric(&message->metric, root, err);
    case MESSAGE_FACTS:
        if (plim_json_choice(plim_json_get(root, "section"), section_names, &choice, err) < 0)
            return -1;
        message->section = (enum facts_section)choice;
        return parse_facts(&message->facts, plim_json_get(root, "facts"), err);
    case MESSAGE_ERROR:
        if (plim_json_choice(plim_json_get(root, "kind"), error_names(), &choice, err) < 0)
            return -1;
        message->error = (enum plim_err_kind)choice;
        return copy_string(plim_json_get(root, "text"), &message->text, err);
    case MESSAGE_DONE:
        if (plim_json_int(plim_json_get(root, "work_ns"), 0, (int64_t)1 << 53, &work_ns, err) < 0)
            return -1;
        message->work_ns = (uint64_t)work_ns;
        return 0;
    }
    return -1;
}

int message_parse(struct message *message, const char *line, size_t length, struct plim_err *err)
{
    cJSON *root = NULL;
    struct plim_json view;
    int kind, rc = -1;

    *message = (struct message){ 0 };
    if (plim_json_parse("worker", line, length, &root, err) < 0)
        return -1;
    view = plim_json_root(root, "worker");
    if (plim_json_object(view, err) == 0 &&
        plim_json_choice(plim_json_get(view, "message"), message_names, &kind, err) == 0) {
        message->kind = (enum message_kind)kind;
        rc = parse_body(message, view, err);
    }
    cJSON_Delete(root);
    if (rc < 0)
        message_release(message);
    return rc;
}
