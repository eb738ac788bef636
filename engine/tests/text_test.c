#include "text_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/json.h"
#include "unicode.h"

struct plim_pool *text_test_pool_open(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    expect_ok(plim_pool_open(&pool, NULL, &err), &err);
    return pool;
}

void text_test_pool_close(struct plim_pool *pool)
{
    cr_assert_eq(plim_pool_close(pool), 0, "blocks leaked");
}

cJSON *text_test_json(const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = NULL;
    expect_ok(plim_json_read(path, (size_t)64 << 20, &root, &err), &err);
    return root;
}

char *text_test_small_tokenizer(void)
{
    static const char text[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
        "\"added_tokens\":["
        "{\"id\":0,\"content\":\"<unk>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true},"
        "{\"id\":12,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":true,\"rstrip\":true,"
        "\"normalized\":false,\"special\":true},"
        "{\"id\":13,\"content\":\"Word\",\"single_word\":true,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":true,\"special\":false}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"},"
        "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},"
        "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+\"},\"content\":\"a\"},"
        "{\"type\":\"Prepend\",\"prepend\":\" \"}]},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
        "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\",\"split\":true}]},"
        "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"TemplateProcessing\","
        "\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
        "\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[12],\"tokens\":[\"<s>\"]}}},"
        "{\"type\":\"BertProcessing\",\"sep\":[\"<unk>\",0],\"cls\":[\"<unk>\",0]}]},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},"
        "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\",\"continuing_subword_prefix\":null,"
        "\"end_of_word_suffix\":null,\"fuse_unk\":true,\"byte_fallback\":true,\"ignore_merges\":false,"
        "\"vocab\":{\"<unk>\":0,\"\xe2\x96\x81\":1,\"a\":2,\"b\":3,\"c\":4,\"ab\":5,\"\xe2\x96\x81""ab\":6,\"abc\":7,"
        "\"<0xC3>\":8,\"<0xA9>\":9,\"1\":10,\"<0x0A>\":11},"
        "\"merges\":[\"a b\",[\"\xe2\x96\x81\",\"ab\"],\"ab c\"]}}";
    char *copy = strdup(text);
    cr_assert_not_null(copy);
    return copy;
}

struct plim_ids text_test_ids(const cJSON *list)
{
    struct plim_ids out = { .capacity = (size_t)cJSON_GetArraySize(list) };
    out.ids = malloc(out.capacity * sizeof *out.ids + 1);
    cr_assert_not_null(out.ids);
    for (const cJSON *item = list->child; item; item = item->next)
        out.ids[out.count++] = (int32_t)item->valuedouble;
    return out;
}

/* Up to 24 ids from `from`, for a message. */
static const char *show(const int32_t *ids, size_t count, size_t from, char *buffer, size_t size)
{
    size_t length = 0;
    buffer[0] = '\0';
    for (size_t i = from; i < count && i < from + 24 && length + 12 < size; i++)
        length += (size_t)snprintf(buffer + length, size - length, " %d", (int)ids[i]);
    return buffer;
}

void text_test_expect_ids(const char *name, const int32_t *ids, size_t count, const struct plim_ids *expected)
{
    char got[320], wanted[320];
    size_t i = 0;
    while (i < count && i < expected->count && ids[i] == expected->ids[i])
        i++;
    cr_expect(i == count && i == expected->count, "%s: from id %zu:%s; expected%s", name, i,
              show(ids, count, i, got, sizeof got), show(expected->ids, expected->count, i, wanted, sizeof wanted));
}

/* ---- decoding ---- */

struct collected {
    char *text;
    size_t length;
};

static int collect(void *context, const char *text, size_t length, struct plim_err *err)
{
    struct collected *c = context;
    (void)err;
    cr_assert_eq(text_utf8_valid_prefix(text, length), length, "a piece of a stream isn't whole characters");
    c->text = realloc(c->text, c->length + length + 1);
    cr_assert_not_null(c->text);
    memcpy(c->text + c->length, text, length);
    c->length += length;
    return 0;
}

static bool has_replacement(const char *text, size_t length)
{
    return memmem(text, length, TEXT_REPLACEMENT, 3) != NULL;
}

char *text_test_decode(const struct plim_tokenizer *tokenizer, struct plim_pool *pool, const int32_t *ids, size_t count,
                       bool skip_special, size_t *length)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct collected whole = { 0 }, streamed = { 0 };
    struct plim_text_stream stream;
    char *text = NULL;

    expect_ok(plim_tokenizer_decode(tokenizer, ids, count, skip_special, &text, length, &err), &err);
    cr_assert_eq(text[*length], '\0');
    collect(&whole, text, *length, &err);
    whole.text[*length] = '\0';
    plim_pool_free(pool, text);

    struct plim_pool_stats before, after;
    plim_text_stream_init(&stream, tokenizer, skip_special);
    plim_pool_stats(pool, &before);
    for (size_t i = 0; i < count; i++)
        expect_ok(plim_text_stream_push(&stream, ids[i], collect, &streamed, &err), &err);
    expect_ok(plim_text_stream_end(&stream, collect, &streamed, &err), &err);
    plim_pool_stats(pool, &after);
    cr_expect_eq(before.allocation_count, after.allocation_count, "a stream allocates");
    /* In a run of byte tokens that is no UTF-8 the two may differ: tokenizer.h says how, and a test of its own. */
    const char *pieces = streamed.text ? streamed.text : "";
    bool same = whole.length == streamed.length && memcmp(whole.text, pieces, whole.length) == 0;
    cr_expect(same || has_replacement(whole.text, whole.length), "the stream's text is another: \"%.*s\" for \"%s\"",
              (int)streamed.length, pieces, whole.text);
    free(streamed.text);
    return whole.text;
}
