/* config.json: what transformers' own modules hold for the same files, absurd files, and writing. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "format_test.h"
#include "plimsoll/json.h"

#define CASES PLIMSOLL_TEST_DATA "/config/cases.json"   /* tools/reference/make_config_reference.py */

/* ---- against transformers ---- */

static double number(struct plim_json expect, const char *key)
{
    double value = 0;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(plim_json_double(plim_json_get(expect, key), &value, &err), &err);
    return value;
}

static bool truth(struct plim_json expect, const char *key)
{
    bool value = false;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(plim_json_bool(plim_json_get(expect, key), &value, &err), &err);
    return value;
}

#define expect_count(name, found, key) \
    cr_assert_eq((double)(found), number(expect, key), "%s: %s is %zu", name, key, (size_t)(found))
#define expect_flag(name, found, key) cr_assert_eq(found, truth(expect, key), "%s: %s", name, key)
/* Our floats come from doubles: half a unit in the last place. */
#define expect_number(name, found, key)                                                                               \
    cr_assert_float_eq(found, number(expect, key), 6e-8 * fabs(number(expect, key)), "%s: %s is %.9g", name, key,     \
                       (double)(found))

/*
 * transformers computes theta^(2j/d) in fp32, whose exponent has a relative error of 2^-24: with ln(1e7) = 16 the power
 * is off by up to 1e-6, and llama3's and yarn's mixing adds a few roundings.
 */
#define FREQUENCY_TOLERANCE 2e-6

static void expect_rotation(const char *name, const struct rope_config *rope, const struct model_config *config,
                            struct plim_json expect)
{
    double inv_freq[512], factor = 0;
    if (!expect.node)   /* the model has no layer of this type */
        return;
    struct plim_json list = plim_json_get(expect, "inv_freq");
    cr_assert_eq(plim_json_length(list), config->head_dim / 2, "%s", name);
    rope_frequencies(rope, config->head_dim, inv_freq, &factor);
    cr_assert_float_eq(factor, number(expect, "factor"), 1e-12, "%s: factor %.9g", name, factor);
    size_t j = 0;
    for (const cJSON *node = list.node->child; node; node = node->next, j++)
        cr_assert_float_eq(inv_freq[j], node->valuedouble, FREQUENCY_TOLERANCE * node->valuedouble,
                           "%s: inv_freq[%zu] is %.9g, expected %.9g", name, j, inv_freq[j], node->valuedouble);
}

static void expect_windows(const char *name, const struct model_config *config, struct plim_json windows)
{
    size_t layer = 0;
    cr_assert_eq(plim_json_length(windows), config->layer_count, "%s", name);
    for (const cJSON *node = windows.node->child; node; node = node->next, layer++) {
        size_t window = config->layer_is_local[layer] ? config->sliding_window : 0;
        cr_assert_eq((double)window, node->valuedouble, "%s: layer %zu has window %zu", name, layer, window);
    }
}

static void expect_as_transformers(const char *name, const struct model_config *c, struct plim_json expect)
{
    expect_count(name, c->hidden_size, "hidden_size");
    expect_count(name, c->vocab_size, "vocab_size");
    expect_count(name, c->intermediate_size, "intermediate_size");
    expect_count(name, c->layer_count, "layer_count");
    expect_count(name, c->head_count * c->head_dim, "q_rows");
    expect_count(name, c->kv_head_count * c->head_dim, "kv_rows");
    expect_count(name, c->head_dim, "head_dim");
    expect_count(name, c->max_positions, "max_positions");
    expect_number(name, c->norm_eps, "norm_eps");
    expect_number(name, (double)c->norm_offset, "norm_offset");
    expect_flag(name, c->post_norms, "post_norms");
    expect_flag(name, c->qkv_bias, "qkv_bias");
    expect_flag(name, c->o_bias, "o_bias");
    expect_flag(name, c->mlp_bias, "mlp_bias");
    expect_flag(name, c->head_norm, "head_norm");
    expect_flag(name, c->activation == ACTIVATION_GELU_TANH, "gelu");
    expect_flag(name, c->tied_embeddings, "tied_embeddings");
    expect_number(name, (double)c->embedding_scale, "embedding_scale");
    expect_number(name, (double)c->residual_scale, "residual_scale");
    expect_number(name, (double)c->logit_scale, "logit_scale");
    expect_number(name, (double)c->attention_scale, "attention_scale");
    expect_number(name, (double)c->attention_softcap, "attention_softcap");
    expect_number(name, (double)c->final_softcap, "final_softcap");
    expect_windows(name, c, plim_json_get(expect, "windows"));
    expect_rotation(name, &c->rope, c, plim_json_get(expect, "rope"));
    expect_rotation(name, &c->rope_local, c, plim_json_get(expect, "rope_local"));
}

/* Calls `check` with the configuration of each case, as read. */
static void for_each_case(void (*check)(const char *name, const struct model_config *config, struct plim_json expect))
{
    cJSON *root = NULL;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(plim_json_read(CASES, 1 << 20, &root, &err), &err);
    struct plim_json cases = plim_json_get(plim_json_root(root, "cases.json"), "cases");
    size_t count = plim_json_length(cases);
    cr_assert_gt(count, 40);
    for (size_t i = 0; i < count; i++) {
        static struct model_config config;
        const char *name = NULL;
        struct plim_json entry = plim_json_at(cases, i);
        expect_ok(plim_json_string(plim_json_get(entry, "name"), &name, &err), &err);
        char *text = cJSON_PrintUnformatted(plim_json_get(entry, "config").node);
        expect_ok(model_config_parse(&config, name, text, strlen(text), &err), &err);
        free(text);
        check(name, &config, plim_json_get(entry, "expect"));
    }
    cJSON_Delete(root);
}

Test(config, agrees_with_transformers)
{
    for_each_case(expect_as_transformers);
}

/* ---- writing ---- */

static void expect_round_trip(const char *name, const struct model_config *config, struct plim_json expect)
{
    static struct model_config again;
    struct plim_err err = PLIM_ERR_INIT;
    (void)expect;
    char *text = model_config_format(config, &err);
    cr_assert_not_null(text, "%s: %s", name, err.message);
    expect_ok(model_config_parse(&again, name, text, strlen(text), &err), &err);
    /* Reading begins with all bytes zero and only assigns, so equal fields are equal bytes. */
    cr_assert_eq(memcmp(config, &again, sizeof again), 0, "%s:\n%s", name, text);
    free(text);
}

Test(config, what_is_written_reads_back)
{
    for_each_case(expect_round_trip);
}

static const char minimal[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, "
                              "\"intermediate_size\": 96, \"num_hidden_layers\": 2, "
                              "\"num_attention_heads\": 4, \"vocab_size\": 100";

/* The minimal file with more keys. */
static int parse_with(struct model_config *config, const char *more, struct plim_err *err)
{
    char text[4096];
    snprintf(text, sizeof text, "%s%s%s}", minimal, *more ? ", " : "", more);
    return model_config_parse(config, "config.json", text, strlen(text), err);
}

Test(config, quantization_and_tokens_read_back)
{
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(parse_with(&config,
                         "\"quantization_config\": {\"quant_method\": \"exl2\", \"bits\": 3.5, \"head_bits\": 6}, "
                         "\"eos_token_id\": [3, 4, 5], \"bos_token_id\": null",
                         &err), &err);
    cr_assert(config.is_exl2);
    cr_assert_eq(config.exl2_bits, 3.5);
    cr_assert_eq(config.exl2_head_bits, 6);
    cr_assert_eq(config.bos_token_id, -1);
    cr_assert_eq(config.eos_token_count, 3);
    cr_assert_eq(config.eos_token_ids[2], 5);
    expect_round_trip("quantization", &config, (struct plim_json){ 0 });
}

/* transformers refuses a whole number where its class says float, and the other way round. */
Test(config, written_numbers_have_the_type_that_transformers_wants)
{
    static const char source[] = "{\"architectures\": [\"Gemma2ForCausalLM\"], \"hidden_size\": 64, "
                                 "\"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                                 "\"vocab_size\": 100, \"rms_norm_eps\": 1e-5}";
    static const char *const pieces[] = { "\"final_logit_softcapping\":\t30.0", "\"query_pre_attn_scalar\":\t256",
                                          "\"rope_theta\":\t10000.0", "\"rms_norm_eps\":\t1e-05",
                                          "\"sliding_window\":\t4096,", "\"hidden_size\":\t64," };
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(model_config_parse(&config, "config.json", source, strlen(source), &err), &err);
    char *text = model_config_format(&config, &err);
    cr_assert_not_null(text, "%s", err.message);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        cr_assert(strstr(text, pieces[i]), "no %s in\n%s", pieces[i], text);
    free(text);
}

/* ---- keys that transformers' Llama doesn't know ---- */

Test(config, minicpm_scale_factors)
{
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(parse_with(&config, "\"scale_emb\": 12, \"scale_depth\": 1.4, \"dim_model_base\": 16", &err), &err);
    cr_assert_float_eq(config.embedding_scale, 12.0f, 1e-6f);
    cr_assert_float_eq(config.residual_scale, 1.4f / sqrtf(2.0f), 1e-6f);
    cr_assert_float_eq(config.logit_scale, 0.25f, 1e-7f);
    expect_round_trip("minicpm", &config, (struct plim_json){ 0 });
}

Test(config, other_names_of_sizes)
{
    static const char text[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"n_embd\": 64, \"n_inner\": 96, "
                               "\"n_layer\": 3, \"n_head\": 4, \"vocab_size\": 100.0, \"n_positions\": 77}";
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(model_config_parse(&config, "config.json", text, strlen(text), &err), &err);
    cr_assert_eq(config.hidden_size, 64);
    cr_assert_eq(config.intermediate_size, 96);
    cr_assert_eq(config.layer_count, 3);
    cr_assert_eq(config.head_count, 4);
    cr_assert_eq(config.vocab_size, 100);
    cr_assert_eq(config.max_positions, 77);
}

Test(config, fixture_directories)
{
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(model_config_read(&config, FIXTURE "/exl2-4.0", &err), &err);
    cr_assert_eq(config.hidden_size, 256);
    cr_assert_eq(config.kv_head_count, 2);
    cr_assert(config.is_exl2);
    cr_assert_eq(config.exl2_bits, 4.0);
    expect_ok(model_config_read(&config, FIXTURE "/dense", &err), &err);
    cr_assert_not(config.is_exl2);
    cr_assert_eq(config.eos_token_count, 1);
    cr_assert_eq(config.eos_token_ids[0], 2);
}

Test(config, generation_config_names_the_end_tokens)
{
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    char text[600], *directory = test_directory_make();
    snprintf(text, sizeof text, "%s, \"eos_token_id\": 2}", minimal);
    test_file_write(directory, "config.json", text, strlen(text));
    expect_ok(model_config_read(&config, directory, &err), &err);
    cr_assert_eq(config.eos_token_count, 1);

    static const char generation[] = "{\"eos_token_id\": [7, 8], \"temperature\": 0.6}";
    test_file_write(directory, "generation_config.json", generation, strlen(generation));
    expect_ok(model_config_read(&config, directory, &err), &err);
    cr_assert_eq(config.eos_token_count, 2);
    cr_assert_eq(config.eos_token_ids[1], 8);

    static const char bad[] = "{\"eos_token_id\": [7, 100]}";
    test_file_write(directory, "generation_config.json", bad, strlen(bad));
    expect_input_error(model_config_read(&config, directory, &err), &err,
                       "generation_config.json: eos_token_id[1]: 100 is out of range; expected 0 to 99");
    test_directory_remove(directory);
}

Test(config, missing_directory)
{
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_input_error(model_config_read(&config, FIXTURE "/nowhere", &err), &err, "nowhere/config.json");
}

/* ---- absurd values ---- */

Test(config_bad, one_key)
{
    static const struct {
        const char *more, *text;
    } cases[] = {
        { "\"num_key_value_heads\": 3", "num_key_value_heads: 3 does not divide num_attention_heads 4" },
        { "\"num_key_value_heads\": 0", "num_key_value_heads: 0 is out of range" },
        { "\"head_dim\": 0", "head_dim: 0 is out of range" },
        { "\"head_dim\": 15", "head_dim: 15; expected an even number" },
        { "\"head_dim\": -8", "head_dim: -8 is out of range" },
        { "\"head_dim\": 4096", "head_dim: 4096 is out of range" },
        { "\"head_dim\": \"16\"", "head_dim: found a string" },
        { "\"head_dim\": 16.5", "head_dim: 16.5 is not a whole number" },
        { "\"max_position_embeddings\": 0", "max_position_embeddings: 0 is out of range" },
        { "\"max_position_embeddings\": 1e18", "max_position_embeddings: " },
        { "\"rms_norm_eps\": 0", "rms_norm_eps: 0 is out of range" },
        { "\"rms_norm_eps\": -1e-5", "rms_norm_eps: -1e-05 is out of range" },
        { "\"rms_norm_eps\": 2", "rms_norm_eps: 2 is out of range" },
        { "\"rms_norm_eps\": 1e999", "out of range" },
        { "\"hidden_act\": \"relu\"", "hidden_act: unknown \"relu\"" },
        { "\"hidden_act\": 3", "hidden_act: found a number" },
        { "\"attention_bias\": 1", "attention_bias: found a number" },
        { "\"tie_word_embeddings\": \"yes\"", "tie_word_embeddings: found a string" },
        { "\"rope_theta\": 0", "rope_theta: 0 is out of range" },
        { "\"rope_theta\": 1", "rope_theta: 1 is out of range" },
        { "\"rope_theta\": -10000", "rope_theta: -10000 is out of range" },
        { "\"partial_rotary_factor\": 0.5", "partial_rotary_factor: 0.5: rotating a part of the head" },
        { "\"rope_scaling\": 4", "rope_scaling: found a number, expected an object" },
        { "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", "rope_scaling.type: unknown \"dynamic\"" },
        { "\"rope_scaling\": {\"rope_type\": \"longrope\"}", "rope_scaling.rope_type: unknown \"longrope\"" },
        { "\"rope_scaling\": {\"type\": \"linear\"}", "rope_scaling.factor: missing" },
        { "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}", "rope_scaling.factor: 0 is out of range" },
        { "\"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}", "rope_scaling.factor: -1 is out of range" },
        { "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1}",
          "rope_scaling.high_freq_factor: missing" },
        { "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
          "rope_scaling: high_freq_factor 4 must be greater than low_freq_factor 4" },
        { "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, \"original_max_position_embeddings\": 0}",
          "rope_scaling.original_max_position_embeddings: 0 is out of range" },
        { "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, \"beta_fast\": 1, \"beta_slow\": 2}",
          "rope_scaling: beta_fast 1 must not be less than beta_slow 2" },
        { "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, \"attention_factor\": -1}",
          "rope_scaling.attention_factor: -1 is out of range" },
        { "\"rope_parameters\": [1]", "rope_parameters: found a list" },
        { "\"embedding_multiplier\": 0", "embedding_multiplier: 0 is out of range" },
        { "\"logits_scaling\": 0", "logits_scaling: 0 is out of range" },
        { "\"residual_multiplier\": -1", "residual_multiplier: -1 is out of range" },
        { "\"attention_multiplier\": 1e300", "attention_multiplier: 1e+300 is out of range" },
        { "\"bos_token_id\": 100", "bos_token_id: 100 is out of range; expected 0 to 99" },
        { "\"eos_token_id\": -2", "eos_token_id: -2 is out of range" },
        { "\"eos_token_id\": \"</s>\"", "eos_token_id: found a string" },
        { "\"eos_token_id\": [1, 2, 3, 4, 5, 6, 7, 8, 9]", "eos_token_id: 9 entries, expected at most 8" },
        { "\"eos_token_id\": [1, \"x\"]", "eos_token_id[1]: found a string" },
        { "\"logit_scale\": 1e-9, \"logits_scaling\": 1e9", "the logit scale comes to 1e-18" },
        { "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 1e9, \"mscale\": 1e12, \"mscale_all_dim\": 1e-9}",
          "make an attention factor of " },
        { "\"use_bidirectional_attention\": true", "use_bidirectional_attention: only causal attention" },
        { "\"quantization_config\": {\"quant_method\": \"gptq\"}",
          "quantization_config.quant_method: unknown \"gptq\"; expected exl2" },
        { "\"quantization_config\": {}", "quantization_config.quant_method: " },
        { "\"quantization_config\": {\"quant_method\": \"exl2\", \"bits\": -4}", "quantization_config.bits: -4 is" },
        { "\"text_config\": []", "text_config: found a list" },
        { "\"text_config\": {\"num_key_value_heads\": 3}", "text_config.num_key_value_heads: 3 does not divide" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static struct model_config config;
        struct plim_err err = PLIM_ERR_INIT;
        expect_input_error(parse_with(&config, cases[i].more, &err), &err, cases[i].text);
        cr_assert(strncmp(err.message, "config.json: ", 13) == 0, "%s", err.message);
    }
}

/* Each required key in turn: absent, then absurd. */
Test(config_bad, sizes)
{
    static const char *const keys[] = { "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                        "vocab_size" };
    static const char *const values[] = { NULL, "0", "-1", "1e9", "null", "\"64\"", "[64]" };
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            static struct model_config config;
            struct plim_err err = PLIM_ERR_INIT;
            char text[600];
            int length = snprintf(text, sizeof text, "{\"architectures\": [\"LlamaForCausalLM\"]");
            for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
                const char *value = i == k ? values[v] : i == 3 ? "4" : "32";
                if (value)
                    length += snprintf(text + length, sizeof text - (size_t)length, ", \"%s\": %s", keys[i], value);
            }
            snprintf(text + length, sizeof text - (size_t)length, "}");
            expect_input_error(model_config_parse(&config, "config.json", text, strlen(text), &err), &err, keys[k]);
        }
    }
}

Test(config_bad, hidden_size_without_head_dim)
{
    static const char text[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 66, "
                               "\"intermediate_size\": 96, \"num_hidden_layers\": 2, "
                              "\"num_attention_heads\": 4, \"vocab_size\": 100}";
    static struct model_config config;
    struct plim_err err = PLIM_ERR_INIT;
    expect_input_error(model_config_parse(&config, "config.json", text, strlen(text), &err), &err,
                       "hidden_size: 66 is not a multiple of num_attention_heads 4");
}

Test(config_bad, layer_types)
{
    static const struct {
        const char *more, *text;
    } cases[] = {
        { "[\"full_attention\"]", "layer_types: 1 entries, expected one for each of the 2 layers" },
        { "[\"full_attention\", \"linear_attention\"]", "layer_types[1]: unknown \"linear_attention\"" },
        { "[\"full_attention\", 1]", "layer_types[1]: found a number" },
        { "{}", "layer_types: found an object" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static struct model_config config;
        struct plim_err err = PLIM_ERR_INIT;
        char text[700];
        snprintf(text, sizeof text,
                 "{\"architectures\": [\"Gemma2ForCausalLM\"], \"hidden_size\": 64, \"intermediate_size\": 96, "
                 "\"num_hidden_layers\": 2, "
                              "\"num_attention_heads\": 4, \"vocab_size\": 100, \"layer_types\": %s}",
                 cases[i].more);
        expect_input_error(model_config_parse(&config, "config.json", text, strlen(text), &err), &err, cases[i].text);
    }
}

Test(config_bad, architectures)
{
    static const struct {
        const char *list, *text;
    } cases[] = {
        { "[\"GPT2LMHeadModel\"]", "expected LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, "
                                   "Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3ForConditionalGeneration" },
        { "[\"Qwen4ForCausalLM\"]", "architectures[0]: unknown \"Qwen4ForCausalLM\"; did you mean \"Qwen" },
        { "[]", "architectures: 0 entries, expected 1" },
        { "[\"LlamaForCausalLM\", \"LlamaForCausalLM\"]", "architectures: 2 entries, expected 1" },
        { "\"LlamaForCausalLM\"", "architectures: found a string" },
        { "[7]", "architectures[0]: found a number" },
        { "null", "architectures: missing" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static struct model_config config;
        struct plim_err err = PLIM_ERR_INIT;
        char text[200];
        snprintf(text, sizeof text, "{\"architectures\": %s}", cases[i].list);
        expect_input_error(model_config_parse(&config, "config.json", text, strlen(text), &err), &err, cases[i].text);
    }
}

Test(config_bad, documents)
{
    static const char *const texts[] = { "", "[]", "3", "{", "{\"a\": 1, \"a\": 2}", "null" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        static struct model_config config;
        struct plim_err err = PLIM_ERR_INIT;
        expect_input_error(model_config_parse(&config, "config.json", texts[i], strlen(texts[i]), &err), &err,
                           "config.json");
    }
}
