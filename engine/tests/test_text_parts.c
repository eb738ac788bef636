/* The small parts of engine/text, and what the reference data can't show. */

#include "text_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pattern.h"
#include "unicode.h"

/* ---- UTF-8 ---- */

/* Each invalid text and what Python's bytes.decode("utf-8", "replace") makes of it; R is U+FFFD. */
#define R TEXT_REPLACEMENT

Test(text_unicode, repairs_as_python_does)
{
    static const struct {
        const char *bytes, *expected;
    } cases[] = {
        { "plain", "plain" },
        { "\xc3\xa9\xe2\x82\xac\xf0\x9f\x9a\xa2", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x9a\xa2" },
        { "\x80", R },
        { "\xff\xfe", R R },
        { "\xc0\xaf", R R },
        { "\xe0\x9f\x80", R R R },
        { "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf" "A", R R R R "A" },
        { "\xed\xa0\x80", R R R },
        { "\xf4\x91\x92\x93\xff" "A\x80\xbf" "B", R R R R R "A" R R "B" },
        { "\xf0\x9f\x98", R },
        { "12345678\xf0\x9f\x98" "90123456\xe2\x82", "12345678" R "90123456" R },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_pool *pool = text_test_pool_open();
        struct text_buffer out;
        text_buffer_init(&out, pool);
        expect_ok(text_utf8_repair(&out, cases[i].bytes, strlen(cases[i].bytes), &err), &err);
        expect_ok(text_buffer_append(&out, "", 1, &err), &err);
        cr_expect_str_eq(out.data, cases[i].expected, "case %zu", i);
        text_buffer_release(&out);
        text_test_pool_close(pool);
    }
}

Test(text_unicode, every_character_survives_encoding)
{
    for (uint32_t c = 0; c < 0x110000; c++) {
        char text[4];
        size_t used, length = text_utf8_encode(c, text);
        bool surrogate = c >= 0xd800 && c < 0xe000;
        enum text_utf8 verdict = text_utf8_step(text, length, &used);
        if (surrogate) {
            cr_assert_eq(verdict, TEXT_UTF8_INVALID);
            continue;
        }
        cr_assert(verdict == TEXT_UTF8_VALID && used == length, "U+%04X", c);
        cr_assert(text_utf8_decode(text, &used) == c && used == length, "U+%04X", c);
        for (size_t cut = 1; cut < length; cut++)
            cr_assert(text_utf8_step(text, cut, &used) == TEXT_UTF8_UNFINISHED && used == cut, "U+%04X", c);
    }
}

Test(text_unicode, byte_level_alphabet_is_a_bijection)
{
    bool seen[0x144] = { false };
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t c = text_byte_level_character((uint8_t)byte);
        cr_assert(c > 0x20 && c < 0x144 && !seen[c]);
        seen[c] = true;
        cr_assert_eq(text_byte_level_byte(c), (int)byte);
    }
    for (uint32_t c = 0; c < 0x400; c++)
        cr_assert(c < 0x144 && seen[c] ? text_byte_level_byte(c) >= 0 : text_byte_level_byte(c) == -1, "U+%04X", c);
    cr_assert_eq(text_byte_level_character(' '), 0x120);   /* the "G with a dot" of GPT-2's files */
    cr_assert_eq(text_byte_level_character('\n'), 0x10a);
}

/* ---- regular expressions ---- */

Test(text_pattern, refuses_what_would_mean_something_else)
{
    static const char *const refused[] = {
        "a\\b", "\\Bx", "[a[b]c]", "[a-z&&[^b]]", "[[:alpha:]]", "\\p{N}{1,3}+", "(?m:.)", "(?s).", "(?i-m:a)", "a(?i)b|c",
        "(*NO_JIT)a", "[\\W]", "[^\\Hx]", "\\pL", "\\u12", "a\\", "(", "[a", "a**b(", "\\p{NoSuchProperty}", "\\y", "\\C",
        "(?<=a*)b",
    };
    struct plim_err context_err = PLIM_ERR_INIT;
    struct plim_pool *pool = text_test_pool_open();
    struct text_regex_context context;
    expect_ok(text_regex_context_init(&context, pool, &context_err), &context_err);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct text_pattern pattern;
        struct plim_json view = plim_json_root(NULL, "test.json");
        int rc = text_pattern_regex(&pattern, &context, refused[i], view, &err);
        cr_expect(rc < 0 && err.kind == PLIM_ERR_INPUT && strstr(err.message, "test.json: regular expression"),
                  "\"%s\" was accepted, or refused without saying so: %s", refused[i], err.message);
        text_pattern_release(&pattern);
    }
    text_regex_context_release(&context);
    text_test_pool_close(pool);
}

/* Backtracking without end must give up, with an error that says so. */
Test(text_pattern, gives_up_on_endless_backtracking)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = text_test_pool_open();
    struct text_regex_context context;
    struct text_pattern pattern;
    struct text_search search;
    size_t start, end;
    char text[64];
    memset(text, 'a', sizeof text);
    expect_ok(text_regex_context_init(&context, pool, &err), &err);
    expect_ok(text_pattern_regex(&pattern, &context, "(a+a+)+(?=b)", plim_json_root(NULL, "test.json"), &err), &err);
    pcre2_match_data *data = text_match_data(&context, &err);
    text_search_init(&search, &pattern, data, text, sizeof text);
    cr_assert_eq(text_search_next(&search, &start, &end, &err), -1);
    cr_assert(err.kind == PLIM_ERR_INPUT && strstr(err.message, "match limit"), "%s", err.message);
    pcre2_match_data_free(data);
    text_pattern_release(&pattern);
    text_regex_context_release(&context);
    text_test_pool_close(pool);
}

/* A long repetition of a group needs more stack than the JIT has; the interpreter takes over. */
Test(text_pattern, deep_matches_are_found)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = text_test_pool_open();
    struct text_regex_context context;
    struct text_pattern pattern;
    struct text_search search;
    size_t start, end, length = 200000;
    char *text = malloc(length);
    cr_assert_not_null(text);
    for (size_t i = 0; i < length; i++)
        text[i] = i % 2 ? 'b' : 'a';
    expect_ok(text_regex_context_init(&context, pool, &err), &err);
    expect_ok(text_pattern_regex(&pattern, &context, "(?:a|ab|b(?=a|$))+", plim_json_root(NULL, "x"), &err), &err);
    pcre2_match_data *data = text_match_data(&context, &err);
    text_search_init(&search, &pattern, data, text, length);
    cr_assert_eq(text_search_next(&search, &start, &end, &err), 1, "%s", err.message);
    cr_assert(start == 0 && end == length);
    cr_assert_eq(text_search_next(&search, &start, &end, &err), 0, "%s", err.message);
    free(text);
    pcre2_match_data_free(data);
    text_pattern_release(&pattern);
    text_regex_context_release(&context);
    text_test_pool_close(pool);
}

/* ---- the public functions ---- */

struct loaded {
    struct plim_pool *pool;
    struct plim_tokenizer *tokenizer;
};

static struct loaded load(const char *family)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct loaded l = { .pool = text_test_pool_open() };
    char path[400];
    snprintf(path, sizeof path, "%s/%s", TOKENIZERS, family);
    expect_ok(plim_tokenizer_load(&l.tokenizer, l.pool, path, &err), &err);
    return l;
}

static void unload(struct loaded *l)
{
    plim_tokenizer_free(l->tokenizer);
    text_test_pool_close(l->pool);
}

Test(text_tokenizer, knows_ids_by_text)
{
    struct loaded l = load("qwen2");
    cr_assert_eq(plim_tokenizer_id(l.tokenizer, "!"), 0);
    cr_assert_eq(plim_tokenizer_id(l.tokenizer, "no such token"), -1);
    cr_assert_eq(plim_tokenizer_id(l.tokenizer, ""), -1);
    int32_t last = plim_tokenizer_id(l.tokenizer, "</think>");
    cr_assert_gt(last, 0);
    cr_assert_eq(plim_tokenizer_vocab_size(l.tokenizer), (size_t)last + 1);
    unload(&l);
}

Test(text_tokenizer, appends_to_ids_that_are_there)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct loaded l = load("gpt2");
    struct plim_ids ids = { 0 }, twice = { 0 };
    expect_ok(plim_tokenizer_encode(l.tokenizer, "a ship", 6, false, &ids, &err), &err);
    expect_ok(plim_tokenizer_encode(l.tokenizer, "a ship", 6, false, &twice, &err), &err);
    expect_ok(plim_tokenizer_encode(l.tokenizer, "a ship", 6, false, &twice, &err), &err);
    cr_assert_eq(twice.count, 2 * ids.count);
    text_test_expect_ids("second", twice.ids + ids.count, ids.count, &ids);
    plim_ids_release(&ids, l.pool);
    plim_ids_release(&twice, l.pool);
    unload(&l);
}

static int stop_at_once(void *context, const char *text, size_t length, struct plim_err *err)
{
    (void)context;
    return plim_err_set(err, PLIM_ERR_INTERRUPTED, "stopped at %.*s", (int)length, text);
}

Test(text_tokenizer, negative_ids_and_callbacks_stop_decoding)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct loaded l = load("gpt2");
    const int32_t ids[] = { 5, -1 };
    char *text;
    size_t length;
    cr_assert_eq(plim_tokenizer_decode(l.tokenizer, ids, 2, false, &text, &length, &err), -1);
    cr_assert(err.kind == PLIM_ERR_INPUT && strstr(err.message, "-1"), "%s", err.message);

    struct plim_text_stream stream;
    plim_err_clear(&err);
    plim_text_stream_init(&stream, l.tokenizer, false);
    cr_assert_eq(plim_text_stream_push(&stream, 5, stop_at_once, NULL, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INTERRUPTED);
    unload(&l);
}

/* ---- streams ---- */

struct pieces {
    char text[200];   /* pieces, each followed by '|' */
};

static int note_piece(void *context, const char *text, size_t length, struct plim_err *err)
{
    struct pieces *p = context;
    size_t used = strlen(p->text);
    (void)err;
    cr_assert_lt(used + length + 2, sizeof p->text);
    memcpy(p->text + used, text, length);
    memcpy(p->text + used + length, "|", 2);
    return 0;
}

static void push(struct plim_text_stream *stream, const char *token, struct pieces *pieces, const char *expected)
{
    struct plim_err err = PLIM_ERR_INIT;
    pieces->text[0] = '\0';
    int32_t id = plim_tokenizer_id(stream->tokenizer, token);
    cr_assert_geq(id, 0, "%s", token);
    expect_ok(plim_text_stream_push(stream, id, note_piece, pieces, &err), &err);
    cr_expect_str_eq(pieces->text, expected, "after %s: \"%s\", expected \"%s\"", token, pieces->text, expected);
}

static void end(struct plim_text_stream *stream, struct pieces *pieces, const char *expected)
{
    struct plim_err err = PLIM_ERR_INIT;
    pieces->text[0] = '\0';
    expect_ok(plim_text_stream_end(stream, note_piece, pieces, &err), &err);
    cr_expect_str_eq(pieces->text, expected);
}

/* Byte-level: "ð" is byte f0, "Ł" 9f, "ļ" 9a, "¢" a2, which are a ship; "Ã" c3. */
Test(text_stream, byte_level_characters_come_when_complete)
{
    struct loaded l = load("gpt2");
    struct plim_text_stream stream;
    struct pieces pieces;
    plim_text_stream_init(&stream, l.tokenizer, true);
    push(&stream, "A", &pieces, "A|");
    push(&stream, "\xc3\xb0", &pieces, "");
    push(&stream, "\xc5\x81", &pieces, "");
    push(&stream, "\xc4\xbc", &pieces, "");
    push(&stream, "\xc2\xa2", &pieces, "\xf0\x9f\x9a\xa2|");
    push(&stream, "\xc3\x83", &pieces, "");
    push(&stream, "<|endoftext|>", &pieces, "");   /* special: left out, and no end to the character */
    push(&stream, "\xc2\xa9", &pieces, "\xc3\xa9|");
    push(&stream, "\xc3\x83", &pieces, "");
    push(&stream, "B", &pieces, R "|B|");
    push(&stream, "\xc3\x83", &pieces, "");
    push(&stream, "\xc3\x83", &pieces, R "|");
    end(&stream, &pieces, R "|");
    unload(&l);
}

/* What tokenizer.h says about runs of byte tokens that are no UTF-8 as a whole. */
Test(text_stream, a_bad_run_of_byte_tokens)
{
    struct loaded l = load("llama2");
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_text_stream stream;
    struct pieces pieces;
    plim_text_stream_init(&stream, l.tokenizer, true);
    push(&stream, "\xe2\x96\x81the", &pieces, "the|");   /* the first space is stripped */
    push(&stream, "\xe2\x96\x81the", &pieces, " the|");
    push(&stream, "<0xC3>", &pieces, "");
    push(&stream, "<0xA9>", &pieces, "\xc3\xa9|");
    push(&stream, "<0xC3>", &pieces, "");
    push(&stream, "<0x41>", &pieces, R "|" R "|");
    push(&stream, "<0x41>", &pieces, R "|");             /* the run stays bad */
    push(&stream, "\xe2\x96\x81the", &pieces, " the|");
    push(&stream, "<0x41>", &pieces, "A|");
    push(&stream, "<0xE2>", &pieces, "");
    push(&stream, "<0x82>", &pieces, "");
    end(&stream, &pieces, R "|" R "|");

    int32_t ids[3];
    static const char *const tokens[3] = { "<0xC3>", "<0xA9>", "<0xFF>" };
    char *text;
    size_t length;
    for (int i = 0; i < 3; i++)
        ids[i] = plim_tokenizer_id(l.tokenizer, tokens[i]);
    expect_ok(plim_tokenizer_decode(l.tokenizer, ids, 3, true, &text, &length, &err), &err);
    cr_expect_str_eq(text, R R R);
    plim_pool_free(l.pool, text);
    unload(&l);
}

/* ---- merging ---- */

/*
 * Word by word and as one piece give the same ids: the same tokenizer with one more merge, which crosses into the next
 * word but whose result no text here has, must not change anything.
 */
Test(text_bpe, words_apart_change_nothing)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct loaded apart = load("llama2");
    struct plim_tokenizer *together = NULL;
    cJSON *document = text_test_json(TOKENIZERS "/llama2/tokenizer.json");
    cJSON *corpus = text_test_json(TOKENIZERS "/corpus.json");
    cJSON *model = cJSON_GetObjectItem(document, "model");
    cJSON_AddNumberToObject(cJSON_GetObjectItem(model, "vocab"), "<s>\xe2\x96\x81", 5000);
    cJSON_AddItemToArray(cJSON_GetObjectItem(model, "merges"), cJSON_CreateString("<s> \xe2\x96\x81"));
    char *text = cJSON_PrintUnformatted(document);
    expect_ok(plim_tokenizer_parse(&together, apart.pool, "together", text, strlen(text), &err), &err);
    free(text);

    size_t count = 0;
    for (const cJSON *item = cJSON_GetObjectItem(corpus, "lines")->child; item; item = item->next) {
        struct plim_ids a = { 0 }, b = { 0 };
        if (!cJSON_IsString(item))
            continue;
        size_t length = strlen(item->valuestring);
        expect_ok(plim_tokenizer_encode(apart.tokenizer, item->valuestring, length, true, &a, &err), &err);
        expect_ok(plim_tokenizer_encode(together, item->valuestring, length, true, &b, &err), &err);
        text_test_expect_ids(item->valuestring, a.ids, a.count, &b);
        plim_ids_release(&a, apart.pool);
        plim_ids_release(&b, apart.pool);
        count++;
    }
    cr_assert_geq(count, 150);
    cJSON_Delete(document);
    cJSON_Delete(corpus);
    plim_tokenizer_free(together);
    unload(&apart);
}
