/*
 * Tokenizers against Hugging Face's `tokenizers`: identical ids on every line of a mixed corpus, with and without
 * special tokens, and identical decoded text. tools/reference/make_tokenizer_reference.py makes the data.
 */

#include "text_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unicode.h"

struct line {
    char *text;
    size_t length;
};

static struct line line_of(const char *text, size_t length)
{
    struct line line = { malloc(length + 1), length };
    cr_assert_not_null(line.text);
    memcpy(line.text, text, length);
    line.text[length] = '\0';
    return line;
}

static struct line repeated(const char *text, size_t count)
{
    size_t length = strlen(text);
    struct line line = { malloc(length * count + 1), length * count };
    cr_assert_not_null(line.text);
    for (size_t i = 0; i < count; i++)
        memcpy(line.text + i * length, text, length);
    line.text[line.length] = '\0';
    return line;
}

static struct line from_hex(const char *hex)
{
    struct line line = line_of(hex, strlen(hex) / 2);
    for (size_t i = 0; i < line.length; i++) {
        char digits[3] = { hex[2 * i], hex[2 * i + 1], '\0' };
        line.text[i] = (char)strtol(digits, NULL, 16);
    }
    return line;
}

/* A line is a string, {"bytes": hex}, or {"repeat": [text, count]}. */
static struct line read_line(const cJSON *item)
{
    const cJSON *bytes = cJSON_GetObjectItem(item, "bytes"), *repeat = cJSON_GetObjectItem(item, "repeat");
    if (bytes)
        return from_hex(bytes->valuestring);
    if (repeat)
        return repeated(repeat->child->valuestring, (size_t)repeat->child->next->valueint);
    return line_of(item->valuestring, strlen(item->valuestring));
}

struct reference {
    const char *name;
    struct plim_pool *pool;
    struct plim_tokenizer *tokenizer;
    struct plim_ids before, after;   /* around each line with special tokens */
};

static void expect_text(const char *name, struct line got, struct line wanted)
{
    cr_expect(got.length == wanted.length && memcmp(got.text, wanted.text, wanted.length) == 0,
              "%s: decoded \"%.200s\", expected \"%.200s\"", name, got.text, wanted.text);
    free(got.text);
}

static struct line decode(const struct reference *r, const struct plim_ids *ids, bool skip_special)
{
    struct line out;
    out.text = text_test_decode(r->tokenizer, r->pool, ids->ids, ids->count, skip_special, &out.length);
    return out;
}

/* The member as a line; a copy of `otherwise` when it isn't there. */
static struct line member_line(const cJSON *item, const char *key, struct line otherwise)
{
    const cJSON *member = cJSON_GetObjectItem(item, key);
    return member ? read_line(member) : line_of(otherwise.text, otherwise.length);
}

/* A decoded text that isn't given is the line's own. */
static void check_decoding(const struct reference *r, const char *name, const cJSON *item, const struct plim_ids *ids,
                           struct line line)
{
    struct line decoded = member_line(item, "decoded", line), skipped = member_line(item, "skipped", decoded);
    expect_text(name, decode(r, ids, false), decoded);
    expect_text(name, decode(r, ids, true), skipped);
    free(decoded.text);
    free(skipped.text);
}

static void append(struct plim_ids *out, const struct plim_ids *more)
{
    memcpy(out->ids + out->count, more->ids, more->count * sizeof *more->ids);
    out->count += more->count;
}

static void check_line(const struct reference *r, const char *name, const cJSON *item, struct line line)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_ids plain = { 0 }, special = { 0 }, expected = text_test_ids(cJSON_GetObjectItem(item, "ids"));
    const cJSON *whole = cJSON_GetObjectItem(item, "whole");

    expect_ok(plim_tokenizer_encode(r->tokenizer, line.text, line.length, false, &plain, &err), &err);
    text_test_expect_ids(name, plain.ids, plain.count, &expected);

    size_t around_count = r->before.count + expected.count + r->after.count;
    struct plim_ids around = { .ids = malloc((around_count + 1) * sizeof(int32_t)) };
    cr_assert_not_null(around.ids);
    append(&around, &r->before);
    append(&around, &expected);
    append(&around, &r->after);
    expect_ok(plim_tokenizer_encode(r->tokenizer, line.text, line.length, true, &special, &err), &err);
    text_test_expect_ids(name, special.ids, special.count, &around);

    check_decoding(r, name, item, &expected, line);
    if (whole) {
        struct line text = read_line(whole);
        expect_text(name, decode(r, &around, false), text);
        free(text.text);
    }
    free(expected.ids);
    free(around.ids);
    plim_ids_release(&plain, r->pool);
    plim_ids_release(&special, r->pool);
}

/* ---- the families ---- */

static void check_family(const char *family)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct reference r = { .name = family, .pool = text_test_pool_open() };
    char path[400];
    snprintf(path, sizeof path, "%s/%s/expected.json", TOKENIZERS, family);
    cJSON *expected = text_test_json(path), *corpus = text_test_json(TOKENIZERS "/corpus.json");
    snprintf(path, sizeof path, "%s/%s", TOKENIZERS, family);
    expect_ok(plim_tokenizer_load(&r.tokenizer, r.pool, path, &err), &err);
    r.before = text_test_ids(cJSON_GetObjectItem(expected, "before"));
    r.after = text_test_ids(cJSON_GetObjectItem(expected, "after"));

    const cJSON *text = cJSON_GetObjectItem(corpus, "lines")->child;
    size_t count = 0;
    for (const cJSON *item = cJSON_GetObjectItem(expected, "lines")->child; item; item = item->next) {
        struct line line = read_line(text);
        char name[80];
        snprintf(name, sizeof name, "%s, line %zu", family, ++count);
        check_line(&r, name, item, line);
        free(line.text);
        text = text->next;
    }
    cr_assert_null(text);
    cr_assert_geq(count, 200);

    count = 0;
    struct line none = line_of("", 0);
    for (const cJSON *item = cJSON_GetObjectItem(expected, "sequences")->child; item; item = item->next) {
        struct plim_ids ids = text_test_ids(cJSON_GetObjectItem(item, "ids"));
        char name[80];
        snprintf(name, sizeof name, "%s, sequence %zu", family, ++count);
        check_decoding(&r, name, item, &ids, none);
        free(ids.ids);
    }
    free(none.text);
    cr_assert_geq(count, 40);

    free(r.before.ids);
    free(r.after.ids);
    cJSON_Delete(expected);
    cJSON_Delete(corpus);
    plim_tokenizer_free(r.tokenizer);
    text_test_pool_close(r.pool);
}

Test(text_reference, gpt2)
{
    check_family("gpt2");
}

Test(text_reference, llama3)
{
    check_family("llama3");
}

Test(text_reference, qwen2)
{
    check_family("qwen2");
}

Test(text_reference, llama2)
{
    check_family("llama2");
}

Test(text_reference, mistral)
{
    check_family("mistral");
}

Test(text_reference, gemma)
{
    check_family("gemma");
}

/* ---- variants: one family's file with other components ---- */

static void replace_member(cJSON *document, const char *path, const cJSON *value)
{
    char step[64];
    const char *dot;
    while ((dot = strchr(path, '.'))) {
        snprintf(step, sizeof step, "%.*s", (int)(dot - path), path);
        document = cJSON_GetObjectItem(document, step);
        cr_assert_not_null(document);
        path = dot + 1;
    }
    cJSON_DeleteItemFromObject(document, path);
    cJSON_AddItemToObject(document, path, cJSON_Duplicate(value, true));
}

static void check_variant(const cJSON *variant)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct reference r = { .name = cJSON_GetObjectItem(variant, "name")->valuestring, .pool = text_test_pool_open() };
    char path[400];
    const char *family = cJSON_GetObjectItem(variant, "family")->valuestring;
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", TOKENIZERS, family);
    cJSON *document = text_test_json(path);
    for (const cJSON *change = cJSON_GetObjectItem(variant, "changes")->child; change; change = change->next)
        replace_member(document, change->string, change);
    char *text = cJSON_PrintUnformatted(document);
    cJSON_Delete(document);
    expect_ok(plim_tokenizer_parse(&r.tokenizer, r.pool, r.name, text, strlen(text), &err), &err);
    free(text);

    r.before = text_test_ids(cJSON_GetObjectItem(variant, "before"));
    r.after = text_test_ids(cJSON_GetObjectItem(variant, "after"));
    for (const cJSON *item = cJSON_GetObjectItem(variant, "lines")->child; item; item = item->next) {
        const char *line = cJSON_GetObjectItem(item, "text")->valuestring;
        char name[200];
        snprintf(name, sizeof name, "%s, \"%.100s\"", r.name, line);
        check_line(&r, name, item, (struct line){ (char *)(uintptr_t)line, strlen(line) });
    }
    free(r.before.ids);
    free(r.after.ids);
    plim_tokenizer_free(r.tokenizer);
    text_test_pool_close(r.pool);
}

Test(text_reference, variants)
{
    cJSON *variants = text_test_json(TOKENIZERS "/variants.json");
    size_t count = 0;
    for (const cJSON *variant = cJSON_GetObjectItem(variants, "variants")->child; variant; variant = variant->next) {
        check_variant(variant);
        count++;
    }
    cr_assert_geq(count, 80);
    cJSON_Delete(variants);
}

/* ---- the tokenizer of the model that ExLlamaV2 quantised ---- */

Test(text_reference, exl2_fixture)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = text_test_pool_open();
    struct plim_tokenizer *tokenizer = NULL;
    cJSON *reference = text_test_json(PLIMSOLL_TEST_DATA "/exl2-llama-tiny/reference.json");
    expect_ok(plim_tokenizer_load(&tokenizer, pool, PLIMSOLL_TEST_DATA "/exl2-llama-tiny/dense", &err), &err);

    static const char *const keys[2] = { "ids", "ids_with_special_tokens" };
    const cJSON *samples = cJSON_GetObjectItem(reference, "tokenizer_samples");
    cr_assert_geq(cJSON_GetArraySize(samples), 1);
    for (const cJSON *sample = samples->child; sample; sample = sample->next) {
        const char *text = cJSON_GetObjectItem(sample, "text")->valuestring;
        for (int special = 0; special < 2; special++) {
            struct plim_ids ids = { 0 }, expected = text_test_ids(cJSON_GetObjectItem(sample, keys[special]));
            expect_ok(plim_tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &err), &err);
            text_test_expect_ids(text, ids.ids, ids.count, &expected);
            plim_ids_release(&ids, pool);
            free(expected.ids);
        }
    }
    cJSON_Delete(reference);
    plim_tokenizer_free(tokenizer);
    text_test_pool_close(pool);
}
