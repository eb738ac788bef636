/*
 * Three generations of files: `rope_theta` alone; `rope_theta` and a dictionary `rope_scaling` with `type` or
 * `rope_type`; one dictionary `rope_parameters` that holds rope_theta too, and for Gemma 3 one such dictionary for each
 * type of layer.
 */

#include "rope_config.h"

#include <math.h>

#define THETA_LOW 1.0001   /* at 1 every frequency is the same, and yarn divides by its logarithm */

static const char *const kind_names[] = { [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear",
                                          [ROPE_LLAMA3] = "llama3",   [ROPE_YARN] = "yarn",
                                          NULL };

const char *rope_kind_name(enum rope_kind kind)
{
    return kind_names[kind];
}

static int read_kind(enum rope_kind *kind, struct plim_json dictionary, struct plim_err *err)
{
    struct plim_json name = plim_json_get(dictionary, "rope_type");
    int index = ROPE_DEFAULT;
    if (!name.node)
        name = plim_json_get(dictionary, "type");
    if (name.node && plim_json_choice(name, kind_names, &index, err) < 0)
        return -1;
    *kind = (enum rope_kind)index;
    return 0;
}

static int read_factor(struct plim_json dictionary, const char *key, double *out, struct plim_err *err)
{
    struct plim_json value = plim_json_get(dictionary, key);
    if (!value.node)
        return plim_json_double(value, out, err);   /* says that it's missing */
    return config_number_in(value, 0, FACTOR_LOW, FACTOR_HIGH, out, err);
}

static int read_optional(struct plim_json dictionary, const char *key, double fallback, double low, double *out,
                         struct plim_err *err)
{
    return config_number_in(plim_json_get(dictionary, key), fallback, low, FACTOR_HIGH, out, err);
}

/* The length the model was trained for before its context was stretched. */
static int read_original_positions(struct rope_config *rope, struct plim_json dictionary,
                                   const struct config_keys *keys, size_t max_positions, struct plim_err *err)
{
    const struct config_keys inside = { .root = dictionary };
    const char *const *name = KEY("original_max_position_embeddings");
    if (config_count(&inside, name, max_positions, CONFIG_MAX_POSITIONS, &rope->original_max_positions, err) < 0)
        return -1;
    /* Beside the dictionary it wins. */
    return config_count(keys, name, rope->original_max_positions, CONFIG_MAX_POSITIONS, &rope->original_max_positions,
                        err);
}

static int read_llama3(struct rope_config *rope, struct plim_json dictionary, struct plim_err *err)
{
    if (read_factor(dictionary, "factor", &rope->factor, err) < 0 ||
        read_factor(dictionary, "low_freq_factor", &rope->low_freq_factor, err) < 0 ||
        read_factor(dictionary, "high_freq_factor", &rope->high_freq_factor, err) < 0)
        return -1;
    if (!(rope->high_freq_factor > rope->low_freq_factor))
        return plim_json_err(dictionary, err, "high_freq_factor %g must be greater than low_freq_factor %g",
                             rope->high_freq_factor, rope->low_freq_factor);
    return 0;
}

/* 0.1 m ln(s) + 1, the temperature of the YaRN paper with a coefficient. */
static double yarn_mscale(double factor, double coefficient)
{
    return factor <= 1 ? 1.0 : 0.1 * coefficient * log(factor) + 1.0;
}

static int read_yarn(struct rope_config *rope, struct plim_json dictionary, size_t max_positions, struct plim_err *err)
{
    double mscale, mscale_all_dim, inferred;
    double stretch = (double)max_positions / (double)rope->original_max_positions;
    struct plim_json truncate = plim_json_get(dictionary, "truncate");
    if (read_optional(dictionary, "factor", stretch, FACTOR_LOW, &rope->factor, err) < 0 ||
        read_optional(dictionary, "beta_fast", 0, 0, &rope->beta_fast, err) < 0 ||
        read_optional(dictionary, "beta_slow", 0, 0, &rope->beta_slow, err) < 0 ||
        read_optional(dictionary, "mscale", 0, 0, &mscale, err) < 0 ||
        read_optional(dictionary, "mscale_all_dim", 0, 0, &mscale_all_dim, err) < 0)
        return -1;
    /* 0 counts as not given, as in transformers. */
    if (rope->beta_fast == 0)
        rope->beta_fast = 32;
    if (rope->beta_slow == 0)
        rope->beta_slow = 1;
    if (rope->beta_fast < rope->beta_slow)
        return plim_json_err(dictionary, err, "beta_fast %g must not be less than beta_slow %g", rope->beta_fast,
                             rope->beta_slow);
    if (mscale > 0 && mscale_all_dim > 0)
        inferred = yarn_mscale(rope->factor, mscale) / yarn_mscale(rope->factor, mscale_all_dim);
    else
        inferred = yarn_mscale(rope->factor, 1.0);
    if (!(inferred >= FACTOR_LOW && inferred <= FACTOR_HIGH))
        return plim_json_err(dictionary, err, "mscale %g and mscale_all_dim %g make an attention factor of %g", mscale,
                             mscale_all_dim, inferred);
    if (read_optional(dictionary, "attention_factor", inferred, FACTOR_LOW, &rope->attention_factor, err) < 0)
        return -1;
    rope->truncate = true;
    return truncate.node ? plim_json_bool(truncate, &rope->truncate, err) : 0;
}

/* We rotate whole heads. */
static int check_whole_head(struct plim_json value, struct plim_err *err)
{
    double part = 1.0;
    if (config_number_in(value, 1.0, 0, 1, &part, err) < 0)
        return -1;
    return part == 1.0 ? 0 : plim_json_err(value, err, "%g: rotating a part of the head is not supported", part);
}

/* One rotation from its dictionary (node NULL: none). `theta` is what holds when the dictionary has no rope_theta. */
static int read_rotation(struct rope_config *rope, struct plim_json dictionary, double theta,
                         const struct config_keys *keys, size_t max_positions, struct plim_err *err)
{
    *rope = (struct rope_config){ .kind = ROPE_DEFAULT, .theta = theta, .factor = 1, .attention_factor = 1 };
    if (!dictionary.node)
        return 0;
    if (plim_json_object(dictionary, err) < 0 || read_kind(&rope->kind, dictionary, err) < 0 ||
        check_whole_head(plim_json_get(dictionary, "partial_rotary_factor"), err) < 0 ||
        read_optional(dictionary, "rope_theta", theta, THETA_LOW, &rope->theta, err) < 0)
        return -1;
    if (rope->kind == ROPE_LLAMA3 || rope->kind == ROPE_YARN) {
        if (read_original_positions(rope, dictionary, keys, max_positions, err) < 0)
            return -1;
    }
    switch (rope->kind) {
    case ROPE_DEFAULT:
        return 0;
    case ROPE_LINEAR:
        return read_factor(dictionary, "factor", &rope->factor, err);
    case ROPE_LLAMA3:
        return read_llama3(rope, dictionary, err);
    case ROPE_YARN:
        return read_yarn(rope, dictionary, max_positions, err);
    }
    return 0;
}

int rope_config_read(struct model_config *config, const struct architecture *architecture,
                     const struct config_keys *keys, struct plim_err *err)
{
    double theta, local_theta;
    struct plim_json scaling = config_find(keys, KEY("rope_scaling")).json;
    struct plim_json parameters = config_find(keys, KEY("rope_parameters")).json;
    if (check_whole_head(config_find(keys, KEY("partial_rotary_factor")).json, err) < 0 ||
        config_number(keys, KEY("rope_theta"), architecture->rope_theta, THETA_LOW, FACTOR_HIGH, &theta, err) < 0)
        return -1;
    if (parameters.node && plim_json_object(parameters, err) < 0)
        return -1;

    bool by_layer_type = architecture->rope_local_theta > 0;
    struct plim_json global = by_layer_type ? plim_json_get(parameters, "full_attention") : parameters;
    if (read_rotation(&config->rope, scaling.node ? scaling : global, theta, keys, config->max_positions, err) < 0)
        return -1;
    config->rope_local = config->rope;
    if (!by_layer_type)
        return 0;
    if (config_number(keys, KEY("rope_local_base_freq"), architecture->rope_local_theta, THETA_LOW, FACTOR_HIGH,
                      &local_theta, err) < 0)
        return -1;
    return read_rotation(&config->rope_local, plim_json_get(parameters, "sliding_attention"), local_theta, keys,
                         config->max_positions, err);
}
