/* "models" of a suite: synthetic ones to make, real ones to fetch. */

#include <stdio.h>
#include <string.h>

#include "heap.h"
#include "suite_parse.h"

static int parse_preset(struct plim_json value, const char **out, struct plim_err *err)
{
    const struct plim_synthetic_preset *presets = plim_synthetic_presets();
    const char *names[64] = { NULL };
    size_t count = 0;
    int index;

    while (presets[count].name && count < COUNT_OF(names) - 1) {
        names[count] = presets[count].name;
        count++;
    }
    if (plim_json_choice(value, names, &index, err) < 0)
        return -1;
    *out = presets[index].name;   /* outlives the document */
    return 0;
}

static int parse_optional(struct plim_json object, const char *key, int64_t low, int64_t high, int64_t *out,
                          struct plim_err *err)
{
    struct plim_json value = plim_json_get(object, key);

    return plim_json_has(value) ? plim_json_int(value, low, high, out, err) : 0;
}

/* The directory's name tells all that the weights depend on, so that one made earlier can be used again. */
static char *made_directory(const struct plim_synthetic *make, struct plim_err *err)
{
    char layers[32] = "", bits[48] = "";

    if (make->layers)
        snprintf(layers, sizeof layers, "-%lldl", (long long)make->layers);
    if (make->exl2)
        snprintf(bits, sizeof bits, "-%gbpw-h%d", make->bits_per_weight, make->head_bits);
    return heap_printf(err, "%s%s-%s%s-s%llu-v%d", make->preset, layers, make->exl2 ? "exl2" : "dense", bits,
                       (unsigned long long)make->seed, PLIM_SYNTHETIC_VERSION);
}

static int parse_make(struct plim_json object, struct plim_synthetic *make, struct plim_err *err)
{
    static const char *const keys[] = { "preset", "layers", "format", "bpw", "head_bits", "seed", NULL };
    static const char *const formats[] = { "dense", "exl2", NULL };
    struct plim_json format = plim_json_get(object, "format"), bpw = plim_json_get(object, "bpw");
    int64_t layers = 0, head_bits = 6, seed = 1;
    int index = 1;

    *make = (struct plim_synthetic){ .bits_per_weight = 4.0 };
    if (plim_json_object(object, err) < 0 || plim_json_only_keys(object, keys, err) < 0 ||
        parse_preset(plim_json_get(object, "preset"), &make->preset, err) < 0 ||
        parse_optional(object, "layers", 1, 1000, &layers, err) < 0 ||
        parse_optional(object, "head_bits", 2, 8, &head_bits, err) < 0 ||
        parse_optional(object, "seed", 0, (int64_t)1 << 53, &seed, err) < 0)
        return -1;
    if (plim_json_has(format) && plim_json_choice(format, formats, &index, err) < 0)
        return -1;
    if (plim_json_has(bpw)) {
        if (plim_json_double(bpw, &make->bits_per_weight, err) < 0)
            return -1;
        if (!(make->bits_per_weight >= 2.3 && make->bits_per_weight <= 8.1))
            return plim_json_err(bpw, err, "%g; wanted 2.3 to 8.1 bits per weight", make->bits_per_weight);
    }
    if (head_bits == 7)
        return plim_json_err(plim_json_get(object, "head_bits"), err, "7; wanted 2, 3, 4, 5, 6 or 8");
    make->layers = layers;
    make->exl2 = index == 1;
    make->head_bits = (int)head_bits;
    make->seed = (uint64_t)seed;
    return 0;
}

static int parse_model(struct suite_model *model, struct plim_json object, struct plim_err *err)
{
    static const char *const keys[] = { "make", "path", "fetch", NULL };
    struct plim_json make = plim_json_get(object, "make"), path = plim_json_get(object, "path");
    struct plim_json fetch = plim_json_get(object, "fetch");
    const char *text;

    if (plim_json_object(object, err) < 0 || plim_json_only_keys(object, keys, err) < 0)
        return -1;
    if (plim_json_has(make) == plim_json_has(path))
        return plim_json_err(object, err, "wanted \"make\" (a synthetic model) or \"path\" (a directory), one of the two");
    if (plim_json_has(make)) {
        if (plim_json_has(fetch))
            return plim_json_err(fetch, err, "a model that is made is not fetched");
        model->made = true;
        if (parse_make(make, &model->make, err) < 0)
            return -1;
        model->directory = made_directory(&model->make, err);
        return model->directory ? 0 : -1;
    }
    if (plim_json_string(path, &text, err) < 0)
        return -1;
    if (!*text)
        return plim_json_err(path, err, "the path is empty");
    if (!(model->directory = heap_strdup(text, err)))
        return -1;
    if (plim_json_has(fetch) && (json_plain_name(fetch, &text, err) < 0 || !(model->fetch = heap_strdup(text, err))))
        return -1;
    return 0;
}

int suite_parse_models(struct suite *suite, struct plim_json models, struct plim_err *err)
{
    const cJSON *child;

    if (!plim_json_has(models))
        return 0;
    if (plim_json_object(models, err) < 0)
        return -1;
    cJSON_ArrayForEach(child, models.node) {
        struct suite_model *items;

        if (!result_name_is_plain(child->string))
            return plim_json_err(models, err, "\"%s\" is no plain name (letters, digits, '.', '_', '-', '+')",
                                 child->string);
        items = heap_room(suite->models, suite->model_count, sizeof *items, err);
        if (!items)
            return -1;
        suite->models = items;
        items += suite->model_count++;
        items->name = heap_strdup(child->string, err);
        if (!items->name || parse_model(items, plim_json_get(models, child->string), err) < 0)
            return -1;
    }
    return 0;
}
