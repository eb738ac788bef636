#ifndef PLIM_CONFIG_H
#define PLIM_CONFIG_H

/*
 * config.json of a Hugging Face model directory, read through one table of architectures (architecture.h). After this,
 * no code asks for an architecture by name: each difference is a field.
 *
 * Keys, defaults and their meaning are those of Hugging Face transformers (5.x and older files), since its logits are
 * what ours are compared with; where ExLlamaV2 differs, the code says so.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH };
enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

#define CONFIG_MAX_LAYERS     512
#define CONFIG_MAX_EOS_TOKENS 8

struct rope_config {
    enum rope_kind kind;
    double theta;
    double factor;
    double low_freq_factor, high_freq_factor;       /* llama3 */
    double beta_fast, beta_slow;                    /* yarn */
    bool truncate;                                  /* yarn: the ramp begins and ends at whole dimensions */
    double attention_factor;                        /* yarn; on sin and cos; 1 when none */
    size_t original_max_positions;                  /* llama3, yarn */
};

struct model_config {
    char architecture[64];              /* "LlamaForCausalLM" */
    const char *key_prefix;             /* "" or "language_model." ... before every tensor name; static */
    size_t hidden_size, intermediate_size, layer_count;
    size_t head_count, kv_head_count, head_dim;
    size_t vocab_size;
    size_t max_positions;
    double norm_eps;

    float norm_offset;                  /* 1 for Gemma: y = x * (w + 1) */
    bool post_norms;                    /* Gemma 2/3: norms after attention and after the MLP too */
    bool qkv_bias, o_bias, mlp_bias;
    bool head_norm;                     /* RMS norm of each q and k head (Qwen3, Gemma 3) */
    enum activation activation;
    bool tied_embeddings;

    float embedding_scale;              /* 1, or sqrt(hidden) for Gemma */
    float residual_scale;               /* 1 */
    float logit_scale;                  /* 1 */
    float attention_scale;              /* on q k^T: 1/sqrt(head_dim) or query_pre_attn_scalar^-1/2 */
    float attention_softcap;            /* 0: none */
    float final_softcap;                /* 0: none */

    size_t sliding_window;              /* tokens a local layer sees, itself included; 0: no layer is local */
    bool layer_is_local[CONFIG_MAX_LAYERS];
    struct rope_config rope;            /* of global layers */
    struct rope_config rope_local;      /* of local layers; a copy of rope unless the architecture differs */

    int32_t bos_token_id;               /* -1: none */
    int32_t eos_token_ids[CONFIG_MAX_EOS_TOKENS];
    size_t eos_token_count;

    bool is_exl2;                       /* quantization_config.quant_method is exl2 (the tensors decide, not this) */
    double exl2_bits;                   /* as written there; 0: not given */
    int exl2_head_bits;
};

/*
 * Reads DIRECTORY/config.json, and DIRECTORY/generation_config.json, if there, whose end tokens replace those of the
 * former. Missing or absurd values are errors with the key's path. On failure the contents of `config` mean nothing.
 */
int model_config_read(struct model_config *config, const char *directory, struct plim_err *err);

/* The same from text in memory. `document` names it in errors. */
int model_config_parse(struct model_config *config, const char *document, const char *text, size_t length,
                       struct plim_err *err);

/*
 * The text of a config.json that model_config_read reads back as it was, and that transformers and ExLlamaV2 read too;
 * used by synthetic models. The caller frees it with free(): it is the JSON library's memory, not the pool's.
 */
char *model_config_format(const struct model_config *config, struct plim_err *err);

/* inv_freq [head_dim / 2] and the factor on sin and cos. */
void rope_frequencies(const struct rope_config *rope, size_t head_dim, double *inv_freq, double *sin_cos_factor);

#endif
