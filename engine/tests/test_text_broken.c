/* Broken and unsupported tokenizers: each is one clear line, and nothing is left behind. */

#include "text_test.h"

#include <stdlib.h>
#include <string.h>

/* The small tokenizer with the first `from` replaced by `to`, and a part of the error. */
static const struct {
    const char *from, *to, *expected;
} changes[] = {
    /* merges and vocabulary */
    { "\"a b\"", "\"a  b\"", "model.merges[0]: broken merge \"a  b\": expected two tokens with one space between" },
    { "\"a b\"", "\"ab\"", "model.merges[0]: broken merge \"ab\"" },
    { "\"a b\"", "\"a z\"", "model.merges[0]: broken merge: token \"z\" is not in the vocabulary" },
    { "\"a b\"", "\"b a\"", "model.merges[0]: broken merge: token \"ba\" is not in the vocabulary" },
    { "\"a b\"", "7", "model.merges[0]: expected" },
    { "\"ab c\"", "[\"ab\"]", "model.merges[2]: expected" },
    { "\"ab c\"", "[\"ab\",\"c\",\"c\"]", "model.merges[2]: expected" },
    { "\"ab c\"", "[\"ab\",1]", "model.merges[2]: expected" },
    { "\"merges\":[", "\"merges\":{},\"x\":[", "model.merges: found an object, expected a list" },
    { "\"merges\"", "\"mergers\"", "model.merges: missing" },
    { "\"abc\":7", "\"abc\":-7", "id of token \"abc\": expected a whole number from 0" },
    { "\"abc\":7", "\"abc\":7.5", "id of token \"abc\"" },
    { "\"abc\":7", "\"abc\":\"7\"", "id of token \"abc\"" },
    { "\"abc\":7", "\"abc\":2147483647", "id of token \"abc\"" },
    { "\"abc\":7", "\"abc\":1e300", "id of token \"abc\"" },
    { "\"abc\":7", "\"abc\":6", "id 6 is given twice, again to token \"abc\"" },
    { "\"abc\":7", "\"ab\":7", "duplicate key \"ab\"" },
    { "\"vocab\":{", "\"vocab\":[],\"x\":{", "model.vocab: found a list, expected an object" },
    { "\"vocab\":{", "\"vocab\":{},\"x\":{", "model.vocab: empty" },
    { "\"unk_token\":\"<unk>\"", "\"unk_token\":\"<none>\"", "model.unk_token: \"<none>\" is not in the vocabulary" },
    { "\"unk_token\":\"<unk>\"", "\"unk_token\":1", "model.unk_token" },

    /* the model */
    { "\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model: type Unigram is not supported" },
    { "\"dropout\":null", "\"dropout\":0.1", "model.dropout: is set, which is not supported" },
    { "\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"",
      "model.continuing_subword_prefix: is set" },
    { "\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", "model.end_of_word_suffix: is set" },
    { "\"fuse_unk\":true", "\"fuse_unk\":1", "model.fuse_unk: found a number, expected true or false" },
    { "\"model\":", "\"models\":", "model: missing" },

    /* added tokens */
    { "\"id\":12", "\"id\":4", "added_tokens[1]: id 4 is taken by another token" },
    { "\"id\":12", "\"id\":13", "added_tokens[2]: id 13 is taken by another token" },
    { "\"id\":12", "\"id\":-1", "added_tokens[1].id: -1 is out of range" },
    { "\"id\":12", "\"id\":4000000000", "added_tokens[1].id: 4000000000 is out of range" },
    { "\"id\":0", "\"id\":1", "added_tokens[0]: id 1, but \"<unk>\" has id 0 already" },
    { "\"content\":\"<s>\"", "\"content\":\"Word\"", "added_tokens[2]: id 13, but \"Word\" has id 12 already" },
    { "\"content\":\"<s>\"", "\"text\":\"<s>\"", "added_tokens[1].content: missing" },
    { "\"special\":true", "\"special\":\"yes\"", "added_tokens[0].special: found a string, expected true or false" },
    { "\"single_word\":true,", "", "added_tokens[2].single_word: missing" },
    { "\"added_tokens\":[", "\"added_tokens\":{},\"x\":[", "added_tokens: found an object, expected a list" },
    { "{\"id\":0", "3,{\"id\":0", "added_tokens[0]: found a number, expected an object" },

    /* normalizer */
    { "{\"type\":\"NFC\"}", "{\"type\":\"BertNormalizer\"}",
      "normalizer.normalizers[0]: type BertNormalizer is not supported" },
    { "{\"type\":\"NFC\"}", "{\"type\":\"Precompiled\"}",
      "normalizer.normalizers[0]: type Precompiled is not supported" },
    { "{\"type\":\"NFC\"}", "{}", "normalizer.normalizers[0].type: missing" },
    { "{\"type\":\"NFC\"}", "\"NFC\"", "normalizer.normalizers[0]: found a string, expected an object" },
    { "\"normalizers\":", "\"list\":", "normalizer.normalizers: missing" },
    { "\"strip_left\":true,", "", "strip_left: missing" },
    { "{\"Regex\":\"x+\"}", "{\"Regex\":\"x(\"}", "pattern.Regex: regular expression \"x(\"" },
    { "{\"Regex\":\"x+\"}", "{\"String\":\"\"}", "pattern.String: an empty pattern" },
    { "{\"Regex\":\"x+\"}", "{}", "pattern: expected {\"Regex\": ...} or {\"String\": ...}" },
    { "{\"Regex\":\"x+\"}", "\"x\"", "pattern: found a string, expected an object" },
    { "\"prepend\":\" \"", "\"prepend\":null", "prepend: missing" },

    /* pre-tokenizer */
    { "\"type\":\"Digits\"", "\"type\":\"UnicodeScripts\"", "pretokenizers[1]: type UnicodeScripts is not supported" },
    { "\"behavior\":\"Isolated\"", "\"behavior\":\"isolate\"", "did you mean \"Isolated\"?" },
    { "\"invert\":false", "\"invert\":0", "invert: found a number" },
    { "\"individual_digits\":true", "\"individual\":true", "individual_digits: missing" },
    { "\"replacement\":\"\xe2\x96\x81\"", "\"replacement\":\"__\"", "replacement: \"__\": expected one character" },
    { "\"replacement\":\"\xe2\x96\x81\"", "\"replacement\":\"\"", "replacement: \"\": expected one character" },
    { "\"prepend_scheme\":\"first\"", "\"prepend_scheme\":\"last\"", "prepend_scheme: unknown \"last\"" },
    { "\"prepend_scheme\":\"first\"", "\"prepend_scheme\":\"first\",\"add_prefix_space\":false",
      "add_prefix_space is false but prepend_scheme is first" },

    /* post-processor */
    { "\"type\":\"BertProcessing\"", "\"type\":\"Other\"", "processors[1]: type Other is not supported" },
    { "\"ids\":[12]", "\"ids\":[99]", "ids[0]: id 99 has no token" },
    { "\"ids\":[12]", "\"ids\":[\"x\"]", "ids[0]: found a string" },
    { "\"special_tokens\":{\"<s>\"", "\"special_tokens\":{\"<x>\"", "\"<s>\" is not among special_tokens" },
    { "{\"Sequence\":{\"id\":\"A\"", "{\"Sequence\":{\"id\":\"B\"", "must hold sequence A once" },
    { ",{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]", "]", "must hold sequence A once" },
    { "{\"Sequence\":{\"id\":\"A\"", "{\"Other\":{\"id\":\"A\"", "expected SpecialToken or Sequence" },
    { "\"sep\":[\"<unk>\",0]", "\"sep\":[\"<unk>\"]", "sep: expected a token and its id" },

    /* decoder */
    { "{\"type\":\"ByteFallback\"}", "{\"type\":\"WordPiece\"}",
      "decoders[1]: type WordPiece is not supported; supported are" },
    { "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}", "{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}",
      "decoders[2]: type ByteFallback is not supported after the decoders before it" },
    { "\"stop\":0", "\"stop\":1", "type Strip with stop above 0 is not supported after Fuse" },
    { "\"content\":\" \",\"start\":1", "\"content\":\"  \",\"start\":1", "content: \"  \": expected one character" },
    { "\"start\":1", "\"start\":-1", "start: -1 is out of range" },

    /* JSON */
    { "\"version\"", "version", "not valid JSON" },
    { "\"abc\":7", "\"ab\\u0000c\":7", "NUL" },
    { "\"abc\":7", "\"ab\xff\":7", "invalid UTF-8" },
    { "\"ab c\"]}}", "\"ab c\"]}", "ends too early" },
};

static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    cr_assert_not_null(at, "the small tokenizer has no %s", from);
    size_t before = (size_t)(at - text), size = strlen(text) + strlen(to) + 1;
    char *out = malloc(size);
    cr_assert_not_null(out);
    memcpy(out, text, before);
    strcpy(out + before, to);
    strcat(out, at + strlen(from));
    return out;
}

Test(text_broken, each_is_one_clear_line)
{
    char *good = text_test_small_tokenizer();
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_pool *pool = text_test_pool_open();
        struct plim_tokenizer *tokenizer = NULL;
        char *text = replaced(good, changes[i].from, changes[i].to);
        int rc = plim_tokenizer_parse(&tokenizer, pool, "broken.json", text, strlen(text), &err);
        cr_expect(rc == -1 && !tokenizer, "%s for %s was accepted", changes[i].to, changes[i].from);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT);
        cr_expect(strncmp(err.message, "broken.json: ", 13) == 0 && strstr(err.message, changes[i].expected),
                  "%s for %s: \"%s\", expected \"%s\"", changes[i].to, changes[i].from, err.message,
                  changes[i].expected);
        plim_tokenizer_free(tokenizer);
        free(text);
        text_test_pool_close(pool);
    }
    free(good);
}

Test(text_broken, missing_file)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = text_test_pool_open();
    struct plim_tokenizer *tokenizer = NULL;
    cr_assert_eq(plim_tokenizer_load(&tokenizer, pool, TOKENIZERS "/none", &err), -1);
    cr_assert(strstr(err.message, "none/tokenizer.json"), "%s", err.message);
    text_test_pool_close(pool);
}

/* A normaliser that doubles its text fifty times must end in an error, not in the machine's memory. */
Test(text_broken, text_bomb)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    struct plim_pool_options options = { .fast_budget_bytes = (size_t)1 << 20 };
    struct plim_tokenizer *tokenizer = NULL;
    struct plim_ids ids = { 0 };
    static const char doubling[] = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"},";
    char *good = text_test_small_tokenizer(), *many = calloc(50, sizeof doubling), *text;
    cr_assert_not_null(many);
    for (int i = 0; i < 50; i++)
        strcat(many, doubling);
    strcat(many, "{\"type\":\"NFC\"}");
    text = replaced(good, "{\"type\":\"NFC\"}", many);
    expect_ok(plim_pool_open(&pool, &options, &err), &err);
    expect_ok(plim_tokenizer_parse(&tokenizer, pool, "bomb", text, strlen(text), &err), &err);
    cr_assert_eq(plim_tokenizer_encode(tokenizer, "a", 1, true, &ids, &err), -1);
    cr_assert(err.kind == PLIM_ERR_MEMORY || err.kind == PLIM_ERR_INPUT);
    cr_assert_eq(ids.count, 0);
    plim_ids_release(&ids, pool);
    plim_tokenizer_free(tokenizer);
    text_test_pool_close(pool);
    free(good);
    free(many);
    free(text);
}
