/* Reading config.json. One function for each group of keys, in the order of struct model_config. */

#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "architecture.h"
#include "config_keys.h"
#include "plimsoll/file.h"
#include "plimsoll/json.h"
#include "rope_config.h"

#define CONFIG_LIMIT_BYTES     ((size_t)4 << 20)
#define GENERATION_LIMIT_BYTES ((size_t)1 << 20)

/* ---- architecture and sizes ---- */

static int read_architecture(const struct config_keys *keys, const struct architecture **out, struct plim_err *err)
{
    struct plim_json list = plim_json_get(keys->root, "architectures");
    if (plim_json_array(list, err) < 0)
        return -1;
    size_t count = plim_json_length(list);
    if (count != 1)
        return plim_json_err(list, err, "%zu entries, expected 1", count);
    return architecture_choose(plim_json_at(list, 0), out, err);
}

/* hidden / heads, when the file doesn't say otherwise. */
static int read_head_dim(struct model_config *config, const struct architecture *architecture,
                         const struct config_keys *keys, struct plim_err *err)
{
    const char *const *name = KEY("head_dim");
    size_t fallback = architecture->head_dim;
    struct plim_json value = config_find(keys, name).json;
    if (fallback == 0) {
        if (!value.node && config->hidden_size % config->head_count)
            return plim_json_err(config_find(keys, KEY("hidden_size")).json, err,
                                 "%zu is not a multiple of num_attention_heads %zu, and there is no head_dim",
                                 config->hidden_size, config->head_count);
        fallback = config->hidden_size / config->head_count;
    }
    if (!value.node && fallback == 0)
        return plim_json_err(value, err, "missing; hidden_size %zu is less than num_attention_heads %zu",
                             config->hidden_size, config->head_count);
    if (config_count(keys, name, fallback, CONFIG_MAX_HEAD_DIM, &config->head_dim, err) < 0)
        return -1;
    if (config->head_dim % 2 || config->head_dim > CONFIG_MAX_HEAD_DIM)
        return plim_json_err(value, err, "%zu; expected an even number up to %zu", config->head_dim,
                             CONFIG_MAX_HEAD_DIM);
    return 0;
}

static int read_sizes(struct model_config *config, const struct architecture *architecture,
                      const struct config_keys *keys, struct plim_err *err)
{
    const char *const *kv_heads = KEY("num_key_value_heads");
    if (config_count(keys, KEY("hidden_size", "d_model", "n_embd"), architecture->hidden_size, CONFIG_MAX_HIDDEN,
                     &config->hidden_size, err) < 0 ||
        config_count(keys, KEY("intermediate_size", "n_inner"), architecture->intermediate_size,
                     CONFIG_MAX_INTERMEDIATE, &config->intermediate_size, err) < 0 ||
        config_count(keys, KEY("num_hidden_layers", "n_layers", "n_layer"), architecture->layer_count,
                     CONFIG_MAX_LAYERS, &config->layer_count, err) < 0 ||
        config_count(keys, KEY("num_attention_heads", "n_heads", "n_head"), architecture->head_count,
                     CONFIG_MAX_HEADS, &config->head_count, err) < 0)
        return -1;
    size_t kv_fallback = architecture->kv_head_count ? architecture->kv_head_count : config->head_count;
    if (config_count(keys, kv_heads, kv_fallback, CONFIG_MAX_HEADS, &config->kv_head_count, err) < 0)
        return -1;
    if (config->head_count % config->kv_head_count)
        return plim_json_err(config_find(keys, kv_heads).json, err, "%zu does not divide num_attention_heads %zu",
                             config->kv_head_count, config->head_count);
    if (read_head_dim(config, architecture, keys, err) < 0)
        return -1;
    if (config_count(keys, KEY("vocab_size"), architecture->vocab_size, CONFIG_MAX_VOCAB, &config->vocab_size, err) < 0)
        return -1;
    return config_count(keys,
                        KEY("max_position_embeddings", "max_sequence_length", "model_max_length", "max_seq_len",
                            "n_positions"),
                        architecture->max_positions, CONFIG_MAX_POSITIONS, &config->max_positions, err);
}

/* ---- what a layer is made of ---- */

static int read_activation(struct model_config *config, const struct architecture *architecture,
                           const struct config_keys *keys, struct plim_err *err)
{
    /* All of the tanh names are one formula; "gelu" would be the one with erf, which no architecture here uses. */
    static const char *const names[] = { "silu", "swish", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", NULL };
    struct plim_json value = config_find(keys, KEY(architecture->activation_key)).json;
    int index = 0;
    config->activation = architecture->activation;
    if (!value.node)
        return 0;
    if (plim_json_choice(value, names, &index, err) < 0)
        return -1;
    config->activation = index < 2 ? ACTIVATION_SILU : ACTIVATION_GELU_TANH;
    return 0;
}

static int read_layer_parts(struct model_config *config, const struct architecture *architecture,
                            const struct config_keys *keys, struct plim_err *err)
{
    bool attention_bias, mlp_bias;
    if (config_number(keys, KEY("rms_norm_eps"), 1e-6, FACTOR_LOW, 1, &config->norm_eps, err) < 0 ||
        config_bool(keys, KEY("attention_bias"), false, &attention_bias, err) < 0 ||
        config_bool(keys, KEY("mlp_bias"), false, &mlp_bias, err) < 0 ||
        config_bool(keys, KEY("tie_word_embeddings"), architecture->tied_embeddings, &config->tied_embeddings, err) < 0)
        return -1;
    config->norm_offset = architecture->norm_offset;
    config->post_norms = architecture->post_norms;
    config->head_norm = architecture->head_norm;
    config->qkv_bias = architecture->bias == BIAS_QKV || (architecture->bias == BIAS_BY_KEY && attention_bias);
    config->o_bias = architecture->bias == BIAS_BY_KEY && attention_bias;
    config->mlp_bias = architecture->mlp_bias_by_key && mlp_bias;
    return read_activation(config, architecture, keys, err);
}

/* ---- factors ---- */

static int read_factor(const struct config_keys *keys, const char *const *names, double fallback, double *out,
                       struct plim_err *err)
{
    return config_number(keys, names, fallback, FACTOR_LOW, FACTOR_HIGH, out, err);
}

/* Factors that are in range one by one may not be so together. */
static int set_scale(const struct config_keys *keys, const char *which, double value, float *out, struct plim_err *err)
{
    if (!(value >= FACTOR_LOW && value <= FACTOR_HIGH))
        return plim_json_err(keys->root, err, "the %s scale comes to %g; expected %g to %g", which, value, FACTOR_LOW,
                             FACTOR_HIGH);
    *out = (float)value;
    return 0;
}

/* Granite's and MiniCPM's factors, accepted for every architecture; both families put them on the same places. */
static int read_scales(struct model_config *config, const struct architecture *architecture,
                       const struct config_keys *keys, struct plim_err *err)
{
    double embedding, residual, depth, logit, logits_divisor, base_hidden, query_scalar, attention;
    double hidden = (double)config->hidden_size, layers = (double)config->layer_count;
    if (read_factor(keys, KEY("embedding_multiplier", "scale_emb"), 1, &embedding, err) < 0 ||
        read_factor(keys, KEY("scale_depth"), sqrt(layers), &depth, err) < 0 ||
        read_factor(keys, KEY("residual_multiplier"), depth / sqrt(layers), &residual, err) < 0 ||
        read_factor(keys, KEY("logit_scale"), 1, &logit, err) < 0 ||
        read_factor(keys, KEY("logits_scaling"), 1, &logits_divisor, err) < 0 ||
        read_factor(keys, KEY("dim_model_base"), hidden, &base_hidden, err) < 0)
        return -1;
    query_scalar = (double)config->head_dim;
    if (architecture->query_scalar > 0 &&
        read_factor(keys, KEY("query_pre_attn_scalar"), architecture->query_scalar, &query_scalar, err) < 0)
        return -1;
    if (read_factor(keys, KEY("attention_multiplier"), 1 / sqrt(query_scalar), &attention, err) < 0)
        return -1;
    if (architecture->scaled_embedding)
        embedding *= sqrt(hidden);
    if (set_scale(keys, "embedding", embedding, &config->embedding_scale, err) < 0 ||
        set_scale(keys, "residual", residual, &config->residual_scale, err) < 0 ||
        set_scale(keys, "logit", logit / logits_divisor * (base_hidden / hidden), &config->logit_scale, err) < 0)
        return -1;
    return set_scale(keys, "attention", attention, &config->attention_scale, err);
}

/* Null means no cap; 0 would be one that lets nothing through. */
static int read_softcap(const struct config_keys *keys, const char *const *name, double fallback, float *out,
                        struct plim_err *err)
{
    double cap;
    if (config_find(keys, name).is_null)
        fallback = 0;
    if (read_factor(keys, name, fallback, &cap, err) < 0)
        return -1;
    *out = (float)cap;
    return 0;
}

static int read_softcaps(struct model_config *config, const struct architecture *architecture,
                         const struct config_keys *keys, struct plim_err *err)
{
    if (!architecture->softcaps)
        return 0;
    if (read_softcap(keys, KEY("attn_logit_softcapping"), architecture->attention_softcap, &config->attention_softcap,
                     err) < 0)
        return -1;
    return read_softcap(keys, KEY("final_logit_softcapping"), architecture->final_softcap, &config->final_softcap, err);
}

/* ---- sliding window ---- */

static int read_layer_types(struct model_config *config, struct plim_json list, struct plim_err *err)
{
    static const char *const names[] = { "full_attention", "sliding_attention", NULL };
    if (plim_json_array(list, err) < 0)
        return -1;
    size_t count = plim_json_length(list), layer = 0;
    if (count != config->layer_count)
        return plim_json_err(list, err, "%zu entries, expected one for each of the %zu layers", count,
                             config->layer_count);
    for (const cJSON *node = list.node->child; node; node = node->next, layer++) {
        int index = 0;
        if (plim_json_choice(plim_json_at(list, layer), names, &index, err) < 0)
            return -1;
        config->layer_is_local[layer] = index == 1;
    }
    return 0;
}

static int layers_by_rule(struct model_config *config, const struct architecture *architecture,
                          const struct config_keys *keys, struct plim_err *err)
{
    size_t first_local = 0, pattern = 0;
    if (architecture->window == WINDOW_PATTERN &&
        config_count(keys, KEY("sliding_window_pattern"), architecture->window_pattern, CONFIG_MAX_LAYERS, &pattern,
                     err) < 0)
        return -1;
    if (architecture->window == WINDOW_FROM_LAYER) {
        /* 0 is a valid first layer here. */
        struct plim_json value = config_find(keys, KEY("max_window_layers")).json;
        int64_t first = 28;
        if (value.node && plim_json_int(value, 0, INT32_MAX, &first, err) < 0)
            return -1;
        first_local = (size_t)first;
    }
    for (size_t layer = 0; layer < config->layer_count; layer++)
        config->layer_is_local[layer] = pattern ? (layer + 1) % pattern != 0 : layer >= first_local;
    return 0;
}

static bool any_layer_is_local(const struct model_config *config)
{
    for (size_t layer = 0; layer < config->layer_count; layer++) {
        if (config->layer_is_local[layer])
            return true;
    }
    return false;
}

static int read_window(struct model_config *config, const struct architecture *architecture,
                       const struct config_keys *keys, struct plim_err *err)
{
    const char *const *name = KEY("sliding_window", "sliding_window_size");
    struct config_value layer_types = config_find(keys, KEY("layer_types"));
    bool used = architecture->window != WINDOW_NONE;
    if (architecture->window == WINDOW_FROM_LAYER &&
        config_bool(keys, KEY("use_sliding_window"), false, &used, err) < 0)
        return -1;
    if (!used || config_find(keys, name).is_null)
        return 0;
    if (config_count(keys, name, architecture->sliding_window, CONFIG_MAX_POSITIONS, &config->sliding_window, err) < 0)
        return -1;
    /* transformers' Mistral ignores layer_types. */
    int rc = layer_types.json.node && architecture->window != WINDOW_ALL
                 ? read_layer_types(config, layer_types.json, err)
                 : layers_by_rule(config, architecture, keys, err);
    if (rc == 0 && !any_layer_is_local(config))
        config->sliding_window = 0;
    return rc;
}

/* An encoder's mask, which some embedding models made of Gemma ask for. */
static int check_causal(const struct config_keys *keys, struct plim_err *err)
{
    bool bidirectional;
    const char *const *name = KEY("use_bidirectional_attention");
    if (config_bool(keys, name, false, &bidirectional, err) < 0)
        return -1;
    return bidirectional ? plim_json_err(config_find(keys, name).json, err, "only causal attention is supported") : 0;
}

/* ---- tokens ---- */

static int read_token(struct plim_json value, size_t vocab_size, int32_t *out, struct plim_err *err)
{
    int64_t token;
    if (plim_json_int(value, 0, (int64_t)vocab_size - 1, &token, err) < 0)
        return -1;
    *out = (int32_t)token;
    return 0;
}

/* One id or a list. */
static int read_end_tokens(struct model_config *config, struct plim_json value, struct plim_err *err)
{
    config->eos_token_count = 0;
    if (!cJSON_IsArray(value.node)) {
        config->eos_token_count = 1;
        return read_token(value, config->vocab_size, &config->eos_token_ids[0], err);
    }
    size_t count = plim_json_length(value);
    if (count > CONFIG_MAX_EOS_TOKENS)
        return plim_json_err(value, err, "%zu entries, expected at most %d", count, CONFIG_MAX_EOS_TOKENS);
    for (size_t i = 0; i < count; i++) {
        if (read_token(plim_json_at(value, i), config->vocab_size, &config->eos_token_ids[i], err) < 0)
            return -1;
    }
    config->eos_token_count = count;
    return 0;
}

static int read_tokens(struct model_config *config, const struct config_keys *keys, struct plim_err *err)
{
    struct plim_json begin = config_find(keys, KEY("bos_token_id")).json;
    struct plim_json end = config_find(keys, KEY("eos_token_id")).json;
    config->bos_token_id = -1;
    if (begin.node && read_token(begin, config->vocab_size, &config->bos_token_id, err) < 0)
        return -1;
    return end.node ? read_end_tokens(config, end, err) : 0;
}

/* ---- quantisation ---- */

static int read_quantization(struct model_config *config, const struct config_keys *keys, struct plim_err *err)
{
    static const char *const methods[] = { "exl2", NULL };
    struct plim_json dictionary = plim_json_get(keys->root, "quantization_config");
    struct plim_json head_bits = plim_json_get(dictionary, "head_bits");
    int method;
    int64_t bits = 0;
    if (!dictionary.node)
        return 0;
    if (plim_json_object(dictionary, err) < 0 ||
        plim_json_choice(plim_json_get(dictionary, "quant_method"), methods, &method, err) < 0)
        return -1;
    config->is_exl2 = true;
    if (config_number_in(plim_json_get(dictionary, "bits"), 0, 0, 32, &config->exl2_bits, err) < 0)
        return -1;
    if (head_bits.node && plim_json_int(head_bits, 0, 32, &bits, err) < 0)
        return -1;
    config->exl2_head_bits = (int)bits;
    return 0;
}

/* ---- the whole ---- */

static int read_config(struct model_config *config, struct plim_json root, struct plim_err *err)
{
    const struct architecture *architecture = NULL;
    struct config_keys keys = { .root = root, .text = plim_json_get(root, "text_config") };
    *config = (struct model_config){ 0 };
    if (plim_json_object(root, err) < 0)
        return -1;
    if (keys.text.node && plim_json_object(keys.text, err) < 0)
        return -1;
    if (read_architecture(&keys, &architecture, err) < 0)
        return -1;
    strcpy(config->architecture, architecture->name);
    config->key_prefix = architecture->key_prefix;
    if (read_sizes(config, architecture, &keys, err) < 0 || read_layer_parts(config, architecture, &keys, err) < 0 ||
        read_scales(config, architecture, &keys, err) < 0 || read_softcaps(config, architecture, &keys, err) < 0 ||
        read_window(config, architecture, &keys, err) < 0 || check_causal(&keys, err) < 0 ||
        rope_config_read(config, architecture, &keys, err) < 0 || read_tokens(config, &keys, err) < 0)
        return -1;
    return read_quantization(config, &keys, err);
}

int model_config_parse(struct model_config *config, const char *document, const char *text, size_t length,
                       struct plim_err *err)
{
    cJSON *root = NULL;
    if (plim_json_parse(document, text, length, &root, err) < 0)
        return -1;
    int rc = read_config(config, plim_json_root(root, document), err);
    cJSON_Delete(root);
    return rc;
}

static int read_file(struct model_config *config, const char *path, struct plim_err *err)
{
    cJSON *root = NULL;
    if (plim_json_read(path, CONFIG_LIMIT_BYTES, &root, err) < 0)
        return -1;
    int rc = read_config(config, plim_json_root(root, path), err);
    cJSON_Delete(root);
    return rc;
}

/* Chat models often end a turn with a token that only this file names. */
static int read_generation_file(struct model_config *config, const char *path, struct plim_err *err)
{
    cJSON *root = NULL;
    if (!plim_path_exists(path))
        return 0;
    if (plim_json_read(path, GENERATION_LIMIT_BYTES, &root, err) < 0)
        return -1;
    struct plim_json end = plim_json_get(plim_json_root(root, path), "eos_token_id");
    int rc = end.node ? read_end_tokens(config, end, err) : 0;
    cJSON_Delete(root);
    return rc;
}

int model_config_read(struct model_config *config, const char *directory, struct plim_err *err)
{
    int rc = -1;
    char *path = plim_path_join(directory, "config.json", err);
    char *generation_path = plim_path_join(directory, "generation_config.json", err);
    if (!path || !generation_path)
        goto out;
    if (read_file(config, path, err) < 0 || read_generation_file(config, generation_path, err) < 0)
        goto out;
    rc = 0;

out:
    free(path);
    free(generation_path);
    return rc;
}
