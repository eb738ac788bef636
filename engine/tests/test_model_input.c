/* Bad input: each gives one clear line of kind input, and nothing leaks. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/file.h"
#include "test_model_support.h"

#define DENSE FIXTURES "/dense"
#define EXL2  FIXTURES "/exl2-4.0"

#define NAN_F16 0x7e00u
#define INF_F16 0x7c00u

/* Loading `directory` fails with kind input and a message that holds all of `words` (NULL-terminated). */
static void check_refused(const char *directory, const char *const *words)
{
    struct plim_parameters parameters = parameters_from("");
    struct plim_engine *engine = NULL;
    struct plim_model *model = NULL;
    struct plim_err err = PLIM_ERR_INIT;

    cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0, "%s", err.message);
    cr_expect_eq(plim_model_load(&model, engine, directory, &err), -1, "%s was accepted", directory);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT, "%s", err.message);
    cr_expect_null(strchr(err.message, '\n'));
    for (; *words; words++)
        cr_expect(strstr(err.message, *words), "no \"%s\" in: %s", *words, err.message);
    cr_expect_eq(plim_engine_close(engine), 0, "leaked");
}

#define REFUSES(source, the_edit, ...)                                                                                 \
    do {                                                                                                               \
        const struct edit only[] = { the_edit };                                                                       \
        struct model_copy copy;                                                                                        \
        model_copy_make(&copy, source, only, 1, NULL, NULL);                                                           \
        check_refused(copy.directory, (const char *const[]){ __VA_ARGS__, NULL });                                     \
        model_copy_remove(&copy);                                                                                      \
    } while (0)

#define DROP(name) { .kind = EDIT_DROP, .tensor = name }
#define VALUE(name, at, bits) { .kind = EDIT_VALUE_F16, .tensor = name, .index = at, .value = bits }
#define RENAME(name, to) { .kind = EDIT_RENAME, .tensor = name, .text = to }
#define DTYPE(name, as) { .kind = EDIT_DTYPE, .tensor = name, .dtype = as }
#define RESHAPE(name, columns) { .kind = EDIT_RESHAPE, .tensor = name, .value = columns }
#define REPEAT(name, times) { .kind = EDIT_REPEAT, .tensor = name, .value = times }
#define REPEAT_BENT(name, times) { .kind = EDIT_REPEAT_BENT, .tensor = name, .value = times }

Test(model_input, a_copy_without_edits_loads)
{
    struct model_copy copy;
    struct rig rig;

    model_copy_make(&copy, DENSE, NULL, 0, NULL, NULL);
    rig_open(&rig, copy.directory, "", 16);
    rig_close(&rig);
    model_copy_remove(&copy);
}

Test(model_input, a_missing_tensor)
{
    REFUSES(DENSE, DROP("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight", "missing");
    REFUSES(DENSE, DROP("model.norm.weight"), "model.norm.weight", "missing");
    REFUSES(DENSE, DROP("model.embed_tokens.weight"), "model.embed_tokens.weight", "missing");
    REFUSES(DENSE, DROP("lm_head.weight"), "lm_head.weight", "missing");
    REFUSES(EXL2, DROP("model.layers.0.self_attn.q_proj.q_groups"),
            "model.layers.0.self_attn.q_proj.q_groups", "missing");
}

Test(model_input, a_wrong_shape)
{
    REFUSES(DENSE, RESHAPE("model.layers.0.mlp.down_proj.weight", 256),
            "model.layers.0.mlp.down_proj.weight", "[320, 256]", "expected [256, 320]");
    REFUSES(DENSE, RESHAPE("model.layers.0.input_layernorm.weight", 64),
            "model.layers.0.input_layernorm.weight", "[4, 64]", "expected [256]");
    REFUSES(EXL2, RESHAPE("lm_head.q_scale", 20), "lm_head.q_scale", "expected [any, 40]");
}

Test(model_input, a_wrong_dtype)
{
    REFUSES(DENSE, DTYPE("model.layers.0.mlp.down_proj.weight", DTYPE_I16),
            "model.layers.0.mlp.down_proj.weight", "I16", "F16");
    REFUSES(DENSE, DTYPE("model.norm.weight", DTYPE_I16), "model.norm.weight", "I16", "F16");
    REFUSES(EXL2, DTYPE("lm_head.q_scale_max", DTYPE_BF16), "lm_head.q_scale_max", "BF16",
            "expected F16");
}

Test(model_input, weights_that_are_no_numbers)
{
    REFUSES(DENSE, VALUE("model.layers.1.post_attention_layernorm.weight", 7, NAN_F16),
            "model.layers.1.post_attention_layernorm.weight", "element 7", "nan");
    REFUSES(DENSE, VALUE("model.norm.weight", 255, INF_F16), "model.norm.weight", "element 255", "inf");
    REFUSES(DENSE, VALUE("model.layers.1.self_attn.k_proj.weight", 4097, NAN_F16),
            "model.layers.1.self_attn.k_proj.weight", "NaN");
    REFUSES(DENSE, VALUE("lm_head.weight", 0, NAN_F16), "lm_head.weight", "NaN");
    REFUSES(EXL2, VALUE("model.layers.0.mlp.up_proj.q_scale_max", 1, NAN_F16),
            "model.layers.0.mlp.up_proj", "q_scale_max[1]", "nan");
}

Test(model_input, exl2_groups_that_do_not_add_up)
{
    /* q_groups are pairs (bits, first row), I16: the bits of group 0. */
    REFUSES(EXL2, VALUE("model.layers.0.mlp.up_proj.q_groups", 0, 7), "model.layers.0.mlp.up_proj",
            "q_groups", "width 7");
    REFUSES(EXL2, VALUE("model.layers.0.mlp.up_proj.q_groups", 3, 1), "model.layers.0.mlp.up_proj",
            "q_groups");
}

Test(model_input, a_permutation_that_repeats)
{
    /* The low half of entry 3 becomes that of entry 4: I32, so one of the F16-sized halves is enough. */
    REFUSES(EXL2, VALUE("model.layers.0.mlp.up_proj.q_invperm", 6, 0xffff), "model.layers.0.mlp.up_proj",
            "q_invperm[3]");
}

Test(model_input, a_bias_that_the_architecture_does_not_have)
{
    REFUSES(DENSE, RENAME("model.layers.1.input_layernorm.weight", "model.layers.0.mlp.up_proj.bias"),
            "model.layers.0.mlp.up_proj.bias");
}

Test(model_input, head_norms_may_be_repeated_for_each_head)
{
    const char *source = PLIMSOLL_TEST_DATA "/architectures/qwen3";
    const struct edit edits[] = {
        REPEAT("model.layers.0.self_attn.q_norm.weight", 4),
        REPEAT("model.layers.1.self_attn.k_norm.weight", 2),
    };
    struct model_copy copy;
    struct rig plain, repeated;

    model_copy_make(&copy, source, edits, 2, NULL, NULL);
    rig_open(&plain, source, "", 16);
    rig_open(&repeated, copy.directory, "", 16);
    int32_t *ids = some_ids(16, plain.info.vocab_size);
    float *a = forward_last(&plain, ids, 16), *b = forward_last(&repeated, ids, 16);
    cr_expect_arr_eq(a, b, plain.info.vocab_size * sizeof *a);
    free(b);
    free(a);
    free(ids);
    rig_close(&repeated);
    rig_close(&plain);
    model_copy_remove(&copy);
}

Test(model_input, head_norms_that_differ_between_heads)
{
    REFUSES(PLIMSOLL_TEST_DATA "/architectures/qwen3",
            REPEAT_BENT("model.layers.0.self_attn.q_norm.weight", 4),
            "model.layers.0.self_attn.q_norm.weight", "head 3");
    REFUSES(PLIMSOLL_TEST_DATA "/architectures/qwen3",
            REPEAT("model.layers.0.self_attn.q_norm.weight", 3), "model.layers.0.self_attn.q_norm.weight",
            "[3, 32]", "expected [4, 32]");
}

Test(model_input, a_directory_that_is_no_model)
{
    check_refused("/nowhere/at/all", (const char *const[]){ "/nowhere/at/all", NULL });
}

Test(model_input, inspection_needs_no_engine_and_agrees_with_loading)
{
    static const char *const models[] = { DENSE, EXL2, FIXTURES "/exl2-2.6" };
    struct plim_err err = PLIM_ERR_INIT;

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct plim_model_info info;
        struct rig rig;

        cr_assert_eq(plim_model_inspect(models[i], &info, &err), 0, "%s", err.message);
        rig_open(&rig, models[i], "", 16);
        cr_expect_eq(memcmp(&info, &rig.info, sizeof info), 0);
        rig_close(&rig);
    }
}

Test(model_input, bits_per_weight_are_those_of_the_converter)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_model_info info;

    cr_assert_eq(plim_model_inspect(EXL2, &info, &err), 0, "%s", err.message);
    cr_expect(info.is_exl2);
    cr_expect_float_eq(info.layer_bits_per_weight, 3.9982, 5e-5, "%f", info.layer_bits_per_weight);
    cr_assert_eq(plim_model_inspect(FIXTURES "/exl2-2.6", &info, &err), 0);
    cr_expect_float_eq(info.layer_bits_per_weight, 2.58203, 5e-6, "%f", info.layer_bits_per_weight);
    cr_assert_eq(plim_model_inspect(DENSE, &info, &err), 0);
    cr_expect(!info.is_exl2);
    cr_expect_float_eq(info.layer_bits_per_weight, 16, 0);
}

/* ---- a stale index, as EXL2 directories have it ---- */

static void write_index(const char *directory, const char *shard)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[256], text[256];

    snprintf(path, sizeof path, "%s/model.safetensors.index.json", directory);
    snprintf(text, sizeof text, "{\"weight_map\": {\"model.norm.weight\": \"%s\"}}", shard);
    cr_assert_eq(plim_write_file(path, text, strlen(text), &err), 0, "%s", err.message);
}

Test(model_input, an_exl2_directory_with_the_source_models_index)
{
    struct model_copy copy;
    struct rig rig;

    model_copy_make(&copy, EXL2, NULL, 0, NULL, NULL);
    write_index(copy.directory, "model-00001-of-00002.safetensors");
    rig_open(&rig, copy.directory, "", 16);
    cr_expect(rig.info.is_exl2);
    rig_close(&rig);
    model_copy_remove(&copy);

    /* Without quantization_config too: the converter writes that only when it compiles a full model. */
    model_copy_make(&copy, EXL2, NULL, 0, "\"quantization_config\"", "\"something_else\"");
    write_index(copy.directory, "model-00001-of-00002.safetensors");
    rig_open(&rig, copy.directory, "", 16);
    cr_expect(rig.info.is_exl2);
    rig_close(&rig);
    model_copy_remove(&copy);
}

Test(model_input, a_dense_directory_with_a_shard_missing)
{
    struct model_copy copy;

    model_copy_make(&copy, DENSE, NULL, 0, NULL, NULL);
    write_index(copy.directory, "model-00001-of-00002.safetensors");
    check_refused(copy.directory, (const char *const[]){ "model-00001-of-00002.safetensors", NULL });
    model_copy_remove(&copy);
}

/* ---- calls ---- */

static int drop_logits(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *err)
{
    (void)context, (void)first_position, (void)rows, (void)vocab_size, (void)logits, (void)err;
    return 0;
}

static void check_call_refused(struct rig *rig, const int32_t *ids, size_t count, const char *word, const char *other)
{
    struct plim_forward last = { .rows = PLIM_LOGITS_LAST, .callback = drop_logits };
    struct plim_err err = PLIM_ERR_INIT;
    size_t position = plim_session_position(rig->session);

    cr_expect_eq(plim_session_forward(rig->session, ids, count, &last, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    cr_expect(strstr(err.message, word) && strstr(err.message, other), "%s", err.message);
    cr_expect_eq(plim_session_position(rig->session), position);
}

Test(model_input, tokens_that_do_not_fit)
{
    struct rig rig;
    int32_t *ids = some_ids(40, 300), bad = 300, negative = -1;

    rig_open(&rig, EXL2, "", 32);
    check_call_refused(&rig, ids, 40, "40 tokens", "32");
    free(forward_last(&rig, ids, 30));
    check_call_refused(&rig, ids, 3, "3 tokens", "2 of its 32");
    check_call_refused(&rig, &bad, 1, "id 300", "299");
    check_call_refused(&rig, &negative, 1, "id -1", "299");
    check_call_refused(&rig, ids, 0, "no tokens", "");
    free(ids);
    rig_close(&rig);
}

Test(model_input, an_embedding_row_that_is_no_number_when_it_is_used)
{
    const struct edit edits[] = { VALUE("model.embed_tokens.weight", 7 * 256 + 3, NAN_F16) };
    int32_t good[] = { 6, 8, 299 }, bad[] = { 6, 7, 8 };
    struct model_copy copy;
    struct rig rig;

    model_copy_make(&copy, EXL2, edits, 1, NULL, NULL);
    rig_open(&rig, copy.directory, "", 16);
    free(forward_last(&rig, good, 3));
    check_call_refused(&rig, bad, 3, "model.embed_tokens.weight", "element 1795 is nan");
    free(forward_last(&rig, good, 3));
    rig_close(&rig);
    model_copy_remove(&copy);
}

Test(model_input, a_tied_embedding_is_read_whole_as_the_head)
{
    REFUSES(PLIMSOLL_TEST_DATA "/architectures/granite", VALUE("model.embed_tokens.weight", 8191, INF_F16),
            "model.embed_tokens.weight");
}

Test(model_input, a_context_beyond_the_models_positions)
{
    struct plim_session_options options = { .context_tokens = 2049 };
    struct plim_session *session = NULL;
    struct plim_err err = PLIM_ERR_INIT;
    struct rig rig;

    rig_open(&rig, EXL2, "", 0);
    cr_expect_eq(plim_session_context_tokens(rig.session), 2048);
    cr_expect_eq(plim_session_open(&session, rig.model, &options, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    cr_expect(strstr(err.message, "2049") && strstr(err.message, "2048"), "%s", err.message);
    rig_close(&rig);
}

Test(model_input, an_unknown_backend)
{
    struct plim_parameters parameters = parameters_from("");
    struct plim_engine *engine = NULL;
    struct plim_err err = PLIM_ERR_INIT;

    cr_expect_eq(plim_engine_open(&engine, "abacus", &parameters, NULL, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
    cr_expect(strstr(err.message, "abacus"), "%s", err.message);
    cr_expect_null(engine);
}
