#include "component.h"

#include <stdio.h>
#include <string.h>

struct plim_json text_item(struct plim_json list, const cJSON *node, size_t index)
{
    struct plim_json item = list;
    size_t length = strlen(item.path);
    item.node = node;
    snprintf(item.path + length, sizeof item.path - length, "[%zu]", index);
    return item;
}

int text_component_type(struct plim_json component, const char **type, struct plim_err *err)
{
    if (plim_json_object(component, err) < 0)
        return -1;
    return plim_json_string(plim_json_get(component, "type"), type, err);
}

int text_unsupported(struct plim_json component, const char *type, const char *supported, struct plim_err *err)
{
    return plim_json_err(component, err, "type %.60s is not supported; supported are %s", type, supported);
}

int text_optional_bool(struct plim_json object, const char *key, bool *out, struct plim_err *err)
{
    struct plim_json member = plim_json_get(object, key);
    return plim_json_has(member) ? plim_json_bool(member, out, err) : 0;
}

int text_optional_string(struct plim_json object, const char *key, const char **out, struct plim_err *err)
{
    struct plim_json member = plim_json_get(object, key);
    return plim_json_has(member) ? plim_json_string(member, out, err) : 0;
}

int text_must_be_off(struct plim_json object, const char *key, struct plim_err *err)
{
    struct plim_json member = plim_json_get(object, key);
    if (!plim_json_has(member) || cJSON_IsFalse(member.node) ||
        (cJSON_IsNumber(member.node) && member.node->valuedouble == 0) ||
        (cJSON_IsString(member.node) && *member.node->valuestring == '\0'))
        return 0;
    return plim_json_err(member, err, "is set, which is not supported");
}

int text_each_component(struct plim_json component, const char *list_key, text_component_reader *read, void *context,
                        struct plim_err *err)
{
    const char *type;
    if (!plim_json_has(component))
        return 0;
    if (text_component_type(component, &type, err) < 0)
        return -1;
    if (strcmp(type, "Sequence") != 0)
        return read(context, component, type, err);

    /* The JSON reader bounds the depth, and so this recursion. */
    struct plim_json list = plim_json_get(component, list_key);
    size_t index = 0;
    if (plim_json_array(list, err) < 0)
        return -1;
    for (const cJSON *node = list.node->child; node; node = node->next) {
        if (text_each_component(text_item(list, node, index++), list_key, read, context, err) < 0)
            return -1;
    }
    return 0;
}
