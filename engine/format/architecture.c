#include "architecture.h"

#include <string.h>

/* Gemma 3's multimodal files leave out of text_config whatever equals transformers' defaults, so they are all here. */
#define GEMMA3_TEXT                                                                                                    \
    .norm_offset = 1, .post_norms = true, .head_norm = true, .scaled_embedding = true, .bias = BIAS_BY_KEY,           \
    .activation_key = "hidden_activation", .activation = ACTIVATION_GELU_TANH, .tied_embeddings = true,               \
    .query_scalar = 256, .softcaps = true, .window = WINDOW_PATTERN, .sliding_window = 4096, .window_pattern = 6,     \
    .rope_theta = 1e6, .rope_local_theta = 1e4, .hidden_size = 2304, .intermediate_size = 9216, .layer_count = 26,    \
    .head_count = 8, .kv_head_count = 4, .head_dim = 256, .vocab_size = 262208, .max_positions = 131072

/* Defaults are those of transformers' configuration classes. */
static const struct architecture table[] = {
    {
        .name = "LlamaForCausalLM",
        .model_type = "llama",
        .key_prefix = "",
        .bias = BIAS_BY_KEY,
        .mlp_bias_by_key = true,
        .activation_key = "hidden_act",
        .rope_theta = 1e4,
        .max_positions = 2048,
    },
    {
        .name = "MistralForCausalLM",
        .model_type = "mistral",
        .key_prefix = "",
        .bias = BIAS_NONE,
        .activation_key = "hidden_act",
        .window = WINDOW_ALL,   /* ExLlamaV2 ignores the window: no difference until the context is longer */
        .sliding_window = 4096,
        .rope_theta = 1e4,
        .max_positions = 131072,
    },
    {
        .name = "Qwen2ForCausalLM",
        .model_type = "qwen2",
        .key_prefix = "",
        .bias = BIAS_QKV,
        .activation_key = "hidden_act",
        .window = WINDOW_FROM_LAYER,
        .sliding_window = 4096,
        .rope_theta = 1e4,
        .max_positions = 32768,
    },
    {
        .name = "Qwen3ForCausalLM",
        .model_type = "qwen3",
        .key_prefix = "",
        .head_norm = true,
        .bias = BIAS_BY_KEY,
        .activation_key = "hidden_act",
        .window = WINDOW_FROM_LAYER,
        .sliding_window = 4096,
        .rope_theta = 1e4,
        .head_dim = 128,
        .max_positions = 32768,
    },
    {
        .name = "Gemma2ForCausalLM",
        .model_type = "gemma2",
        .key_prefix = "",
        .norm_offset = 1,
        .post_norms = true,
        .scaled_embedding = true,
        .bias = BIAS_BY_KEY,
        .activation_key = "hidden_activation",
        .activation = ACTIVATION_GELU_TANH,
        .tied_embeddings = true,
        .query_scalar = 256,
        .softcaps = true,
        .attention_softcap = 50,
        .final_softcap = 30,
        .window = WINDOW_PATTERN,
        .sliding_window = 4096,
        .window_pattern = 2,
        .rope_theta = 1e4,
        .head_dim = 256,
        .max_positions = 8192,
    },
    {
        .name = "Gemma3ForCausalLM",
        .model_type = "gemma3_text",
        .key_prefix = "",
        GEMMA3_TEXT,
    },
    {
        .name = "Gemma3ForConditionalGeneration",
        .model_type = "gemma3",
        .text_model_type = "gemma3_text",
        .key_prefix = "language_model.",
        GEMMA3_TEXT,
    },
    {
        /* Llama with four scale factors, which any row accepts. */
        .name = "GraniteForCausalLM",
        .model_type = "granite",
        .key_prefix = "",
        .bias = BIAS_BY_KEY,
        .mlp_bias_by_key = true,
        .activation_key = "hidden_act",
        .rope_theta = 1e4,
        .max_positions = 2048,
    },
};

#define ROW_COUNT (sizeof table / sizeof *table)

const struct architecture *architecture_find(const char *name)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

int architecture_choose(struct plim_json name, const struct architecture **out, struct plim_err *err)
{
    const char *names[ROW_COUNT + 1] = { NULL };
    int index = 0;
    for (size_t i = 0; i < ROW_COUNT; i++)
        names[i] = table[i].name;
    if (plim_json_choice(name, names, &index, err) < 0)
        return -1;
    *out = &table[index];
    return 0;
}
