/* Writing config.json: the keys that transformers and ExLlamaV2 read, so that reading gives the same struct again. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "architecture.h"
#include "config.h"
#include "config_keys.h"
#include "rope_config.h"

/* A JSON object being filled; the first failure (memory) sticks. */
struct output {
    cJSON *object;
    bool failed;
};

static void add(struct output *out, const char *key, cJSON *value)
{
    if (!value || !out->object || !cJSON_AddItemToObject(out->object, key, value)) {
        cJSON_Delete(value);
        out->failed = true;
    }
}

/*
 * The shortest text that reads back exactly (cJSON's own is content with a difference in the last place), with a point
 * or an exponent: transformers takes 30 for the wrong type where it wants 30.0.
 */
static cJSON *create_number(double value)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    if (!strpbrk(text, ".e"))
        strcat(text, ".0");
    return cJSON_CreateRaw(text);
}

static void add_number(struct output *out, const char *key, double value)
{
    add(out, key, create_number(value));
}

static void add_count(struct output *out, const char *key, size_t value)
{
    add(out, key, cJSON_CreateNumber((double)value));
}

static void add_bool(struct output *out, const char *key, bool value)
{
    add(out, key, cJSON_CreateBool(value));
}

static void add_string(struct output *out, const char *key, const char *value)
{
    add(out, key, cJSON_CreateString(value));
}

/* null when 0, which is how a feature is switched off. */
static void add_number_or_null(struct output *out, const char *key, double value)
{
    add(out, key, value > 0 ? create_number(value) : cJSON_CreateNull());
}

/* A new object under `key`, owned by its parent. */
static struct output add_object(struct output *out, const char *key)
{
    struct output child = { .object = cJSON_CreateObject() };
    add(out, key, child.object);
    if (out->failed)
        child = (struct output){ .failed = true };
    return child;
}

static void add_sizes(struct output *out, const struct model_config *c)
{
    add_count(out, "hidden_size", c->hidden_size);
    add_count(out, "intermediate_size", c->intermediate_size);
    add_count(out, "num_hidden_layers", c->layer_count);
    add_count(out, "num_attention_heads", c->head_count);
    add_count(out, "num_key_value_heads", c->kv_head_count);
    add_count(out, "head_dim", c->head_dim);
    add_count(out, "vocab_size", c->vocab_size);
    add_count(out, "max_position_embeddings", c->max_positions);
}

static void add_layer_parts(struct output *out, const struct model_config *c, const struct architecture *a)
{
    add_number(out, "rms_norm_eps", c->norm_eps);
    add_string(out, a->activation_key, c->activation == ACTIVATION_SILU ? "silu" : "gelu_pytorch_tanh");
    if (a->bias == BIAS_BY_KEY)
        add_bool(out, "attention_bias", c->qkv_bias);
    if (a->mlp_bias_by_key)
        add_bool(out, "mlp_bias", c->mlp_bias);
    add_bool(out, "tie_word_embeddings", c->tied_embeddings);
}

/* The scale is -1/2 powers of something that is a whole number in every file, or it is written as itself. */
static void add_attention_scale(struct output *out, const struct model_config *c, const struct architecture *a)
{
    double scalar = rint(1 / ((double)c->attention_scale * (double)c->attention_scale));
    bool whole = scalar <= FACTOR_HIGH && (float)(1 / sqrt(scalar)) == c->attention_scale;
    if (a->query_scalar > 0 && whole)
        add_count(out, "query_pre_attn_scalar", (size_t)scalar);
    else if (!whole || scalar != (double)c->head_dim)
        add_number(out, "attention_multiplier", (double)c->attention_scale);
}

static void add_scales(struct output *out, const struct model_config *c, const struct architecture *a)
{
    double embedding = a->scaled_embedding ? sqrt((double)c->hidden_size) : 1;
    if (c->embedding_scale != (float)embedding)
        add_number(out, "embedding_multiplier", (double)c->embedding_scale / embedding);
    if (c->residual_scale != 1)
        add_number(out, "residual_multiplier", (double)c->residual_scale);
    if (c->logit_scale != 1)
        add_number(out, "logits_scaling", 1 / (double)c->logit_scale);
    add_attention_scale(out, c, a);
    if (a->softcaps) {
        add_number_or_null(out, "attn_logit_softcapping", (double)c->attention_softcap);
        add_number_or_null(out, "final_logit_softcapping", (double)c->final_softcap);
    }
}

static void add_window(struct output *out, const struct model_config *c, const struct architecture *a)
{
    if (a->window == WINDOW_NONE)
        return;
    if (a->window == WINDOW_FROM_LAYER)
        add_bool(out, "use_sliding_window", c->sliding_window > 0);
    add(out, "sliding_window", c->sliding_window ? cJSON_CreateNumber((double)c->sliding_window) : cJSON_CreateNull());
    if (a->window == WINDOW_ALL || c->sliding_window == 0)
        return;
    cJSON *list = cJSON_CreateArray();
    for (size_t layer = 0; layer < c->layer_count; layer++) {
        cJSON *type = cJSON_CreateString(c->layer_is_local[layer] ? "sliding_attention" : "full_attention");
        if (!list || !type || !cJSON_AddItemToArray(list, type)) {
            cJSON_Delete(type);
            out->failed = true;
            break;
        }
    }
    add(out, "layer_types", list);
}

static void add_scaling(struct output *out, const struct rope_config *rope)
{
    add_string(out, "rope_type", rope_kind_name(rope->kind));
    if (rope->kind != ROPE_DEFAULT)
        add_number(out, "factor", rope->factor);
    if (rope->kind == ROPE_LLAMA3) {
        add_number(out, "low_freq_factor", rope->low_freq_factor);
        add_number(out, "high_freq_factor", rope->high_freq_factor);
    }
    if (rope->kind == ROPE_YARN) {
        add_number(out, "beta_fast", rope->beta_fast);
        add_number(out, "beta_slow", rope->beta_slow);
        add_number(out, "attention_factor", rope->attention_factor);
        add_bool(out, "truncate", rope->truncate);
    }
    if (rope->kind == ROPE_LLAMA3 || rope->kind == ROPE_YARN)
        add_count(out, "original_max_position_embeddings", rope->original_max_positions);
}

static void add_rope(struct output *out, const struct model_config *c, const struct architecture *a)
{
    add_number(out, "rope_theta", c->rope.theta);
    if (c->rope.kind != ROPE_DEFAULT) {
        struct output scaling = add_object(out, "rope_scaling");
        add_scaling(&scaling, &c->rope);
        out->failed |= scaling.failed;
    }
    if (a->rope_local_theta == 0)
        return;
    add_number(out, "rope_local_base_freq", c->rope_local.theta);
    if (c->rope_local.kind != ROPE_DEFAULT) {   /* only the newest form of the file can say this */
        struct output parameters = add_object(out, "rope_parameters");
        struct output local = add_object(&parameters, "sliding_attention");
        add_scaling(&local, &c->rope_local);
        out->failed |= parameters.failed | local.failed;
    }
}

static void add_tokens(struct output *out, const struct model_config *c)
{
    add(out, "bos_token_id", c->bos_token_id >= 0 ? cJSON_CreateNumber(c->bos_token_id) : cJSON_CreateNull());
    if (c->eos_token_count == 0)
        add(out, "eos_token_id", cJSON_CreateNull());
    else if (c->eos_token_count == 1)
        add_count(out, "eos_token_id", (size_t)c->eos_token_ids[0]);
    else
        add(out, "eos_token_id", cJSON_CreateIntArray(c->eos_token_ids, (int)c->eos_token_count));
}

static void add_quantization(struct output *out, const struct model_config *c)
{
    if (!c->is_exl2)
        return;
    struct output dictionary = add_object(out, "quantization_config");
    add_string(&dictionary, "quant_method", "exl2");
    if (c->exl2_bits > 0)
        add_number(&dictionary, "bits", c->exl2_bits);
    if (c->exl2_head_bits > 0)
        add_count(&dictionary, "head_bits", (size_t)c->exl2_head_bits);
    out->failed |= dictionary.failed;
}

static void add_architecture(struct output *out, const struct architecture *a)
{
    const char *name = a->name;
    add(out, "architectures", cJSON_CreateStringArray(&name, 1));
    add_string(out, "model_type", a->model_type);
}

static void add_text_model(struct output *out, const struct model_config *c, const struct architecture *a)
{
    add_sizes(out, c);
    add_layer_parts(out, c, a);
    add_scales(out, c, a);
    add_window(out, c, a);
    add_rope(out, c, a);
    add_tokens(out, c);
}

char *model_config_format(const struct model_config *config, struct plim_err *err)
{
    char *text = NULL;
    struct output root = { .object = cJSON_CreateObject() };
    const struct architecture *architecture = architecture_find(config->architecture);
    if (!architecture) {
        plim_err_set(err, PLIM_ERR_INTERNAL, "no architecture \"%s\" to write config.json for", config->architecture);
        goto out;
    }
    add_architecture(&root, architecture);
    if (architecture->text_model_type) {
        struct output inner = add_object(&root, "text_config");
        add_string(&inner, "model_type", architecture->text_model_type);
        add_text_model(&inner, config, architecture);
        root.failed |= inner.failed;
    } else {
        add_text_model(&root, config, architecture);
    }
    add_quantization(&root, config);
    if (!root.failed)
        text = cJSON_Print(root.object);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory writing a config.json");

out:
    cJSON_Delete(root.object);
    return text;
}
