#ifndef PLIM_ARCHITECTURE_H
#define PLIM_ARCHITECTURE_H

/*
 * The table of architectures: what the string in config.json's `architectures` implies, and which keys it makes
 * meaningful. Only config*.c read it. A new architecture of the same family is a new row.
 */

#include <stdbool.h>
#include <stddef.h>

#include "config.h"
#include "plimsoll/json.h"

enum bias_rule {
    BIAS_NONE,      /* the model has none, whatever the file says */
    BIAS_QKV,       /* always on q, k, v; never on o */
    BIAS_BY_KEY,    /* on q, k, v and o if attention_bias */
};

enum window_rule {
    WINDOW_NONE,
    WINDOW_ALL,          /* every layer, if sliding_window is not null */
    WINDOW_FROM_LAYER,   /* layers from max_window_layers on, if use_sliding_window */
    WINDOW_PATTERN,      /* all but every n-th layer */
};

struct architecture {
    const char *name;            /* "LlamaForCausalLM" */
    const char *model_type;      /* what transformers calls it */
    const char *text_model_type; /* NULL, or model_type of text_config, where the text model's keys are written */
    const char *key_prefix;      /* before every tensor name */

    float norm_offset;
    bool post_norms;
    bool head_norm;
    bool scaled_embedding;       /* by sqrt(hidden) */
    enum bias_rule bias;
    bool mlp_bias_by_key;
    const char *activation_key;
    enum activation activation;  /* when the key is absent */
    bool tied_embeddings;        /* likewise */

    double query_scalar;         /* query_pre_attn_scalar when absent; 0: the key isn't read, head_dim is used */
    bool softcaps;               /* attn_logit_softcapping and final_logit_softcapping are read */
    double attention_softcap, final_softcap;   /* when absent (null means none) */

    enum window_rule window;
    size_t sliding_window;       /* when absent (null means none) */
    size_t window_pattern;       /* likewise */
    double rope_theta;           /* likewise */
    double rope_local_theta;     /* 0: local layers use the same rotation */

    /* Sizes when absent; 0: the key must be there (head_dim: hidden / heads; kv_head_count: head_count). */
    size_t hidden_size, intermediate_size, layer_count, head_count, kv_head_count, head_dim, vocab_size;
    size_t max_positions;
};

/* The row of that name, or NULL. */
const struct architecture *architecture_find(const char *name);

/* The row that a string of the file names; an unknown one is an error that says which are known. */
int architecture_choose(struct plim_json name, const struct architecture **out, struct plim_err *err);

#endif
