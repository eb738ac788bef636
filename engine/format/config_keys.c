#include "config_keys.h"

static bool has_key(struct plim_json object, const char *name, bool *is_null)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object.node, name);
    *is_null = cJSON_IsNull(node);
    return node != NULL;
}

struct config_value config_find(const struct config_keys *keys, const char *const *names)
{
    const struct plim_json places[2] = { keys->text, keys->root };
    bool is_null = false;
    for (int i = 0; i < 2; i++) {
        for (size_t n = 0; names[n]; n++) {
            if (has_key(places[i], names[n], &is_null))
                return (struct config_value){ plim_json_get(places[i], names[n]), is_null };
        }
    }
    /* Where an error should point. */
    return (struct config_value){ plim_json_get(keys->text.node ? keys->text : keys->root, names[0]), false };
}

int config_count(const struct config_keys *keys, const char *const *names, size_t fallback, size_t high, size_t *out,
                 struct plim_err *err)
{
    int64_t value = 0;
    struct config_value found = config_find(keys, names);
    *out = fallback;
    if (!found.json.node && fallback > 0)
        return 0;
    if (plim_json_int(found.json, 1, (int64_t)high, &value, err) < 0)
        return -1;
    *out = (size_t)value;
    return 0;
}

int config_number_in(struct plim_json value, double fallback, double low, double high, double *out,
                     struct plim_err *err)
{
    double number = 0;
    *out = fallback;
    if (!value.node)
        return 0;
    if (plim_json_double(value, &number, err) < 0)
        return -1;
    if (!(number >= low && number <= high))
        return plim_json_err(value, err, "%g is out of range; expected %g to %g", number, low, high);
    *out = number;
    return 0;
}

int config_number(const struct config_keys *keys, const char *const *names, double fallback, double low, double high,
                  double *out, struct plim_err *err)
{
    return config_number_in(config_find(keys, names).json, fallback, low, high, out, err);
}

int config_bool(const struct config_keys *keys, const char *const *names, bool fallback, bool *out,
                struct plim_err *err)
{
    struct config_value found = config_find(keys, names);
    *out = fallback;
    return found.json.node ? plim_json_bool(found.json, out, err) : 0;
}
