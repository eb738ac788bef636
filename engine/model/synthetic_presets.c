/* The shapes of public models, as their config.json files have them. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "plimsoll/json.h"
#include "synthetic_plan.h"

enum { TINY, SMOLLM2_135M, TINYLLAMA_1_1B, LLAMA_3_8B, LLAMA_2_13B, LLAMA_3_70B, QWEN2_5_7B, PRESET_COUNT };

static const struct plim_synthetic_preset names[PRESET_COUNT + 1] = {
    [TINY] = { "tiny", "2 small layers and a vocabulary of 512, with a tokenizer; for tests" },
    [SMOLLM2_135M] = { "smollm2-135m", "HuggingFaceTB/SmolLM2-135M" },
    [TINYLLAMA_1_1B] = { "tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B" },
    [LLAMA_3_8B] = { "llama-3-8b", "meta-llama/Meta-Llama-3-8B" },
    [LLAMA_2_13B] = { "llama-2-13b", "meta-llama/Llama-2-13b" },
    [LLAMA_3_70B] = { "llama-3-70b", "meta-llama/Meta-Llama-3-70B" },
    [QWEN2_5_7B] = { "qwen2.5-7b", "Qwen/Qwen2.5-7B" },
};

struct shape {
    const char *architecture;
    size_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, max_positions;
    double norm_eps, rope_theta;
    bool tied, qkv_bias;
    int32_t bos, eos;
};

#define LLAMA "LlamaForCausalLM"
#define QWEN2 "Qwen2ForCausalLM"

/* clang-format off */
static const struct shape shapes[PRESET_COUNT] = {
    [TINY] = { LLAMA, 256, 512, 2, 8, 2, 32, SYNTHETIC_TINY_VOCAB, 2048, 1e-5, 1e4, false, false,
               SYNTHETIC_TINY_BOS, SYNTHETIC_TINY_EOS },
    [SMOLLM2_135M] = { LLAMA, 576, 1536, 30, 9, 3, 64, 49152, 8192, 1e-5, 1e5, true, false, 0, 0 },
    [TINYLLAMA_1_1B] = { LLAMA, 2048, 5632, 22, 32, 4, 64, 32000, 2048, 1e-5, 1e4, false, false, 1, 2 },
    [LLAMA_3_8B] = { LLAMA, 4096, 14336, 32, 32, 8, 128, 128256, 8192, 1e-5, 5e5, false, false, 128000, 128001 },
    [LLAMA_2_13B] = { LLAMA, 5120, 13824, 40, 40, 40, 128, 32000, 4096, 1e-5, 1e4, false, false, 1, 2 },
    [LLAMA_3_70B] = { LLAMA, 8192, 28672, 80, 64, 8, 128, 128256, 8192, 1e-5, 5e5, false, false, 128000, 128001 },
    [QWEN2_5_7B] = { QWEN2, 3584, 18944, 28, 28, 4, 128, 152064, 131072, 1e-6, 1e6, false, true, 151643, 151643 },
};
/* clang-format on */

const struct plim_synthetic_preset *plim_synthetic_presets(void)
{
    return names;
}

static int find(const char *name, int *out, struct plim_err *err)
{
    const char *choices[PRESET_COUNT + 1] = { NULL };
    for (int i = 0; i < PRESET_COUNT; i++) {
        choices[i] = names[i].name;
        if (strcmp(name, choices[i]) == 0) {
            *out = i;
            return 0;
        }
    }
    const char *nearest = plim_nearest_name(name, choices);
    if (nearest)
        return plim_err_input(err, "no preset \"%.60s\"; did you mean %s?", name, nearest);
    return plim_err_input(err, "no preset \"%.60s\"; the smallest is tiny, a common one llama-3-8b", name);
}

int synthetic_preset_config(const char *preset, struct model_config *config, struct plim_err *err)
{
    int index = 0;
    if (find(preset, &index, err) < 0)
        return -1;
    const struct shape *p = &shapes[index];
    *config = (struct model_config){
        .key_prefix = "",
        .hidden_size = p->hidden,
        .intermediate_size = p->intermediate,
        .layer_count = p->layers,
        .head_count = p->heads,
        .kv_head_count = p->kv_heads,
        .head_dim = p->head_dim,
        .vocab_size = p->vocab,
        .max_positions = p->max_positions,
        .norm_eps = p->norm_eps,
        .qkv_bias = p->qkv_bias,
        .activation = ACTIVATION_SILU,
        .tied_embeddings = p->tied,
        .embedding_scale = 1,
        .residual_scale = 1,
        .logit_scale = 1,
        .attention_scale = (float)(1 / sqrt((double)p->head_dim)),
        .rope = { .kind = ROPE_DEFAULT, .theta = p->rope_theta, .factor = 1, .attention_factor = 1 },
        .bos_token_id = p->bos,
        .eos_token_ids = { p->eos },
        .eos_token_count = 1,
    };
    snprintf(config->architecture, sizeof config->architecture, "%s", p->architecture);
    config->rope_local = config->rope;
    return 0;
}

bool synthetic_preset_has_tokenizer(const char *preset)
{
    return strcmp(preset, names[TINY].name) == 0;
}
