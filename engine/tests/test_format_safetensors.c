/* Safetensors headers: honest ones, hostile ones. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format_test.h"
#include "safetensors_header.h"

static int parse(const char *file, size_t bytes, struct plim_err *err)
{
    struct plim_pool *pool = test_pool_open();
    struct safetensors_header header;
    /* A block of its own, so that the sanitizer sees a read past the end. */
    uint8_t *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, file, bytes);
    int rc = safetensors_header_parse(&header, pool, "x.safetensors", copy, bytes, err);
    safetensors_header_release(&header, pool);
    free(copy);
    test_pool_close(pool);
    return rc;
}

static void expect_header_refused(const char *json, size_t data_bytes, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t bytes;
    char *file = test_safetensors(json, NULL, data_bytes, &bytes);
    expect_input_error(parse(file, bytes, &err), &err, text);
    cr_assert_eq(strncmp(err.message, "x.safetensors: ", 15), 0, "%s", err.message);
    free(file);
}

static void expect_header_accepted(const char *json, size_t data_bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t bytes;
    char *file = test_safetensors(json, NULL, data_bytes, &bytes);
    cr_assert_eq(parse(file, bytes, &err), 0, "%s: %s", json, err.message);
    free(file);
}

Test(safetensors, honest_headers)
{
    expect_header_accepted("{}", 0);
    expect_header_accepted("{}    \n", 0);
    expect_header_accepted("{" ENTRY("a", "F32", "[]", 0, 4) "}", 4);
    expect_header_accepted("{" ENTRY("a", "F16", "[0, 7]", 0, 0) "}", 0);
    expect_header_accepted("{" ENTRY("b", "U8", "[3]", 2, 5) "," ENTRY("a", "F16", "[1,1,1]", 0, 2) "}", 5);
    expect_header_accepted("{" ENTRY("empty", "F16", "[0]", 2, 2) "," ENTRY("a", "F16", "[1]", 0, 2) "," ENTRY(
                               "b", "F16", "[1]", 2, 4) "}",
                           4);
    expect_header_accepted("{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "I64", "[2]", 0, 16) "}", 16);
    expect_header_accepted("{" ENTRY("\\u00e9\\n", "BF16", "[2]", 0, 4) "}", 4);
}

Test(safetensors_bad, entries)
{
    expect_header_refused("{" ENTRY("a", "F7", "[1]", 0, 4) "}", 4, "tensor a: dtype F7, expected F32");
    expect_header_refused("{" ENTRY("a", "f32", "[1]", 0, 4) "}", 4, "tensor a: dtype f32");
    expect_header_refused("{" ENTRY("a", "BOOL", "[1]", 0, 1) "}", 1, "tensor a: dtype BOOL");
    expect_header_refused("{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "a: dtype is missing");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor a: shape is missing");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor a: data_offsets is missing");
    expect_header_refused("{\"a\":[]}", 4, "tensor a: not an object");
    expect_header_refused("{\"a\":null}", 4, "tensor a: not an object");
    expect_header_refused("{" ENTRY("a", "F32", "[-1]", 0, 4) "}", 4, "tensor a: shape[0] is not a whole number");
    expect_header_refused("{" ENTRY("a", "F32", "[1, 0.5]", 0, 4) "}", 4, "tensor a: shape[1] is not a whole number");
    expect_header_refused("{" ENTRY("a", "F32", "[\"1\"]", 0, 4) "}", 4, "tensor a: shape[0]");
    expect_header_refused("{" ENTRY("a", "F32", "{\"x\": 1}", 0, 4) "}", 4, "tensor a: shape is missing or no list");
    expect_header_refused("{" ENTRY("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "more than 8 dimensions");
    expect_header_refused("{" ENTRY("a", "F32", "[1e300]", 0, 4) "}", 4, "tensor a: shape[0]");
    expect_header_refused("{" ENTRY("a", "F32", "[9007199254740992, 4096]", 0, 4) "}", 4, "overflows");
    expect_header_refused("{" ENTRY("a", "I64", "[9007199254740992, 1024]", 0, 4) "}", 4, "overflows");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 0, 2) "}", 2, "span 2 bytes, but its shape and dtype need 4");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 4, 0) "}", 4, "data_offsets [4, 0] are outside");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", -4, 0) "}", 4, "data_offsets is missing or not two");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 0.5, 4) "}", 4, "data_offsets is missing or not two");
    expect_header_refused("{" ENTRY("a", "F32", "[1]", 18446744073709551612, 18446744073709551616) "}", 4,
                          "data_offsets is missing or not two");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 8, "data_offsets is");
    expect_header_refused("{" ENTRY("a", "F32", "[1000]", 0, 4000) "}", 8, "outside the file's 8 bytes of data");
    expect_header_refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a is not a string");
    expect_header_refused("{\"__metadata__\":[\"a\"]}", 0, "__metadata__ is not an object");
}

Test(safetensors_bad, layouts)
{
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 2, 6) "}", 6,
                          "tensor b: its data overlap those of a");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 0, 4) "}", 4, "overlap");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[0]", 2, 2) "}", 4, "overlap");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[2]", 6, 8) "}", 8,
                          "tensor b: 2 bytes before its data belong to no tensor");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 1, 5) "}", 5, "tensor a: 1 bytes before its data");
    expect_header_refused("{" ENTRY("a", "U8", "[4]", 0, 4) "}", 6, "2 bytes at the end belong to no tensor");
    expect_header_refused("{}", 1, "1 bytes at the end belong to no tensor");
}

Test(safetensors_bad, text)
{
    expect_header_refused("{" ENTRY("a", "U8", "[1]", 0, 1) "," ENTRY("a", "U8", "[1]", 1, 2) "}", 2, "duplicate");
    expect_header_refused("[]", 0, "does not begin with '{'");
    expect_header_refused(" {}", 0, "does not begin with '{'");
    expect_header_refused("", 0, "does not begin with '{'");
    expect_header_refused("{} x", 0, "header: line 1");
    expect_header_refused("{\"a\"", 0, "header: line 1");
    expect_header_refused("{\"a\xff\":1}", 0, "UTF-8");

    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 10);
    memset(deep, '[', DEPTH + 9);
    memcpy(deep, "{\"a\":", 5);
    deep[DEPTH + 9] = '\0';
    expect_header_refused(deep, 0, "deep");
    free(deep);
}

Test(safetensors_bad, lengths)
{
    static const struct {
        uint8_t bytes[10];
        size_t count;
        const char *text;
    } cases[] = {
        { { 0 }, 0, "truncated: 0 bytes" },
        { { 2 }, 7, "truncated: 7 bytes" },
        { { 3, 0, 0, 0, 0, 0, 0, 0, '{', '}' }, 10, "header length 3, but only 2 bytes follow" },
        { { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}' }, 10, "header length 18446744073709551615" },
        { { 1, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}' }, 10, "header length 100000001 is over the limit" },
        { { 0, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}' }, 10, "no safetensors file: header length 100000000" },
        { { 0 }, 8, "does not begin with '{'" },
        { { 'P', 'K', 3, 4, 0, 0, 0, 0, 0, 0 }, 10, "no safetensors file" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        expect_input_error(parse((const char *)cases[i].bytes, cases[i].count, &err), &err, cases[i].text);
    }
}

/* A file cut anywhere is refused: a hole, a missing tail, or broken text. */
Test(safetensors_bad, every_prefix)
{
    size_t bytes;
    char *file = test_safetensors("{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "F32", "[2, 3]", 0, 24) "," ENTRY(
                                      "b", "I16", "[4]", 24, 32) "}",
                                  NULL, 32, &bytes);
    struct plim_err err = PLIM_ERR_INIT;
    expect_ok(parse(file, bytes, &err), &err);
    for (size_t length = 0; length < bytes; length++) {
        struct plim_err cut = PLIM_ERR_INIT;
        cr_assert_eq(parse(file, length, &cut), -1, "a prefix of %zu bytes was accepted", length);
        cr_assert_eq(cut.kind, PLIM_ERR_INPUT);
    }
    free(file);
}

/* 20 000 tensors in reverse order: sorting must not be quadratic, nor looking up by name in the header. */
Test(safetensors, many_tensors, .timeout = 20)
{
    enum { COUNT = 20000 };
    char *json = malloc(COUNT * 80 + 10);
    size_t length = (size_t)sprintf(json, "{");
    for (int i = COUNT - 1; i >= 0; i--)
        length += (size_t)sprintf(json + length, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                                  i == COUNT - 1 ? "" : ",", i, i, i + 1);
    sprintf(json + length, "}");
    expect_header_accepted(json, COUNT);
    free(json);
}
