/* A config.json. What is accepted is within its limits, has usable frequencies, and reads back as it was written. */

#include <math.h>
#include <string.h>

#include "config.h"
#include "fuzz.h"

static void check_limits(const struct model_config *c)
{
    FUZZ_CLAIM(c->hidden_size > 0 && c->intermediate_size > 0 && c->vocab_size > 0 && c->max_positions > 0);
    FUZZ_CLAIM(c->layer_count > 0 && c->layer_count <= CONFIG_MAX_LAYERS);
    FUZZ_CLAIM(c->head_count > 0 && c->kv_head_count > 0 && c->head_count % c->kv_head_count == 0);
    FUZZ_CLAIM(c->head_dim > 0 && c->head_dim % 2 == 0);
    FUZZ_CLAIM(c->norm_eps > 0 && c->norm_eps <= 1);
    FUZZ_CLAIM(c->eos_token_count <= CONFIG_MAX_EOS_TOKENS);
    FUZZ_CLAIM(isnormal(c->embedding_scale) && isnormal(c->residual_scale) && isnormal(c->logit_scale));
    FUZZ_CLAIM(isnormal(c->attention_scale) && c->attention_softcap >= 0 && c->final_softcap >= 0);
    for (size_t layer = 0; layer < CONFIG_MAX_LAYERS; layer++)
        FUZZ_CLAIM(!c->layer_is_local[layer] || (c->sliding_window > 0 && layer < c->layer_count));
}

static void check_rotation(const struct rope_config *rope, const struct model_config *c)
{
    double inv_freq[1024], factor;
    FUZZ_CLAIM(c->head_dim / 2 <= sizeof inv_freq / sizeof *inv_freq);
    rope_frequencies(rope, c->head_dim, inv_freq, &factor);
    FUZZ_CLAIM(isfinite(factor) && factor > 0);
    for (size_t j = 0; j < c->head_dim / 2; j++)
        FUZZ_CLAIM(isfinite(inv_freq[j]) && inv_freq[j] > 0);
}

static void check_round_trip(const struct model_config *config)
{
    static struct model_config again;
    struct plim_err err = PLIM_ERR_INIT;
    char *text = model_config_format(config, &err);
    FUZZ_CLAIM(text);
    bool read_back = model_config_parse(&again, "again", text, strlen(text), &err) == 0;
    if (!read_back)
        fprintf(stderr, "%s\n%s\n", text, err.message);
    FUZZ_CLAIM(read_back);
    FUZZ_CLAIM(memcmp(config, &again, sizeof again) == 0);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    if (model_config_parse(&config, "input", (const char *)data, size, &err) < 0) {
        FUZZ_CLAIM(err.kind == PLIM_ERR_INPUT && !strchr(err.message, '\n'));
        return 0;
    }
    check_limits(&config);
    check_rotation(&config.rope, &config);
    check_rotation(&config.rope_local, &config);
    check_round_trip(&config);
    return 0;
}
