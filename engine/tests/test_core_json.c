#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/json.h"

static cJSON *parse(const char *text, struct plim_err *err)
{
    cJSON *root = NULL;
    plim_json_parse("doc.json", text, strlen(text), &root, err);
    return root;
}

static void refused(const char *text, size_t length, const char *why)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = (cJSON *)1;
    cr_assert_eq(plim_json_parse("doc.json", text, length, &root, &err), -1, "accepted: %.60s", text);
    cr_assert_null(root);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_eq(strncmp(err.message, "doc.json: ", 10), 0, "%s", err.message);
    cr_assert(strstr(err.message, why), "\"%s\" does not say \"%s\"", err.message, why);
}

#define REFUSED(text, why) refused("" text, sizeof text - 1, why)

Test(json, hostile_text_is_refused)
{
    REFUSED("", "ends too early");
    REFUSED("   ", "ends too early");
    REFUSED("{\"a\": 1", "ends too early");
    REFUSED("{\"a\" 1}", "line 1, column 6");
    REFUSED("{}\n\n  x", "line 3, column 3: text after the end");
    REFUSED("{}{}", "text after the end");
    REFUSED("{\"a\": 1, \"b\": 2, \"a\": 3}", "duplicate key \"a\"");
    REFUSED("[{\"x\": {\"k\": 1, \"k\": 1}}]", "duplicate key \"k\"");
    REFUSED("{\"a\": 1e999}", "out of range");
    REFUSED("{\"a\": NaN}", "not valid JSON");
    REFUSED("{\"a\0\": 1}", "NUL byte");
    REFUSED("{\"a\": \"x\\u0000y\"}", "NUL character");
    REFUSED("\"\x80\"", "invalid UTF-8");
    REFUSED("\"\xc0\xaf\"", "invalid UTF-8");             /* overlong */
    REFUSED("\"\xe0\x80\xaf\"", "invalid UTF-8");
    REFUSED("\"\xed\xa0\x80\"", "invalid UTF-8");         /* surrogate */
    REFUSED("\"\xf4\x90\x80\x80\"", "invalid UTF-8");     /* over U+10FFFF */
    REFUSED("\"\xf0\x9f\x98", "invalid UTF-8");           /* cut short */
    REFUSED("\"\\ud800\"", "not valid JSON");             /* half a surrogate pair */
    REFUSED("\"abc", "");
    REFUSED("\"abc\\", "");
}

Test(json, depth_64_is_read_and_65_refused)
{
    char text[200];
    struct plim_err err = PLIM_ERR_INIT;
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    text[128] = '\0';
    cJSON *root = parse(text, &err);
    cr_assert_not_null(root, "%s", err.message);
    cJSON_Delete(root);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    refused(text, 130, "64 levels");
    char *deep = malloc(1000000);
    memset(deep, '[', 1000000);
    refused(deep, 1000000, "64 levels");
    free(deep);
}

Test(json, brackets_and_escapes_in_strings_are_text)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = parse("[\"[[[[\\\"{\\\\\", \"\\\\u0000\", \"\xf0\x9f\x98\x80\"]", &err);
    cr_assert_not_null(root, "%s", err.message);
    const char *text;
    cr_assert_eq(plim_json_string(plim_json_at(plim_json_root(root, "d"), 1), &text, &err), 0);
    cr_assert_str_eq(text, "\\u0000");
    cJSON_Delete(root);
}

Test(json, text_needs_no_terminator)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *text = malloc(2);   /* the sanitizer sees a read behind it */
    memcpy(text, "12", 2);
    cJSON *root = NULL;
    cr_assert_eq(plim_json_parse("d", text, 2, &root, &err), 0);
    cr_assert_eq(root->valuedouble, 12.0);
    cJSON_Delete(root);
    free(text);
}

Test(json, a_hundred_thousand_keys_are_checked_quickly)
{
    size_t capacity = 3000000, length = 0;
    char *text = malloc(capacity);
    struct plim_err err = PLIM_ERR_INIT;
    text[length++] = '{';
    for (int i = 0; i < 100000; i++)
        length += (size_t)snprintf(text + length, capacity - length, "%s\"token_%d\": %d", i ? ", " : "", i, i);
    text[length++] = '}';
    cJSON *root = NULL;
    cr_assert_eq(plim_json_parse("vocab", text, length, &root, &err), 0, "%s", err.message);
    cJSON_Delete(root);
    length--;
    length += (size_t)snprintf(text + length, capacity - length, ", \"token_77777\": 0}");
    refused(text, length, "");
    free(text);
}

static const char *const document =
    "{\"name\": \"smoke\", \"on\": true, \"n\": 3, \"big\": 9007199254740993, \"x\": 0.5, \"nothing\": null,"
    " \"cases\": {\"sweep\": {\"max_dq_sise\": [1, 2, \"a\"]}}, \"mode\": \"gatd\"}";

static const char *message_of(struct plim_err *err)
{
    static char copy[1000];
    memcpy(copy, err->message, sizeof copy);
    plim_err_clear(err);
    return copy;
}

Test(json, values_are_checked_and_errors_name_the_path)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = parse(document, &err);
    cr_assert_not_null(root, "%s", err.message);
    struct plim_json top = plim_json_root(root, "doc.json");
    const char *text;
    bool on;
    double x;
    int64_t n;
    int choice;
    static const char *const modes[] = { "chunked", "gated", NULL };
    static const char *const far[] = { "alpha", "beta", NULL };
    static const char *const sweep_keys[] = { "dq_mode", "max_dq_size", NULL };

    cr_assert_eq(plim_json_string(plim_json_get(top, "name"), &text, &err), 0);
    cr_assert_str_eq(text, "smoke");
    cr_assert_eq(plim_json_bool(plim_json_get(top, "on"), &on, &err), 0);
    cr_assert(on);
    cr_assert_eq(plim_json_double(plim_json_get(top, "x"), &x, &err), 0);
    cr_assert_eq(x, 0.5);
    cr_assert_eq(plim_json_int(plim_json_get(top, "n"), 1, 3, &n, &err), 0);
    cr_assert_eq(n, 3);
    cr_assert_not(plim_json_has(plim_json_get(top, "nothing")));
    cr_assert_not(plim_json_has(plim_json_get(plim_json_get(top, "no"), "deeper")));

    plim_json_string(plim_json_get(plim_json_get(top, "no"), "deeper"), &text, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: no.deeper: missing; expected a string");
    plim_json_bool(plim_json_get(top, "n"), &on, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: n: found a number, expected true or false");
    plim_json_int(plim_json_get(top, "n"), 4, 9, &n, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: n: 3 is out of range; expected 4 to 9");
    plim_json_int(plim_json_get(top, "x"), 0, 9, &n, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: x: 0.5 is not a whole number");
    plim_json_int(plim_json_get(top, "big"), 0, INT64_MAX, &n, &err);
    cr_assert(strstr(message_of(&err), "is not a whole number") == NULL);
    plim_json_object(top, &err);
    plim_json_array(top, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: found an object, expected a list");
    plim_json_choice(plim_json_get(top, "mode"), modes, &choice, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: mode: unknown \"gatd\"; did you mean \"gated\"?");
    plim_json_choice(plim_json_get(top, "mode"), far, &choice, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: mode: unknown \"gatd\"; expected alpha or beta");

    struct plim_json sweep = plim_json_get(plim_json_get(top, "cases"), "sweep");
    plim_json_only_keys(sweep, sweep_keys, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: cases.sweep.max_dq_sise: unknown key; did you mean max_dq_size?");
    struct plim_json list = plim_json_get(sweep, "max_dq_sise");
    cr_assert_eq(plim_json_length(list), 3u);
    plim_json_int(plim_json_at(list, 2), 0, 9, &n, &err);
    cr_assert_str_eq(message_of(&err), "doc.json: cases.sweep.max_dq_sise[2]: found a string, expected a whole number");
    cJSON_Delete(root);
}

Test(json, a_long_path_keeps_its_end)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = parse("{}", &err);
    struct plim_json value = plim_json_root(root, "d");
    for (int i = 0; i < 40; i++)
        value = plim_json_get(value, "k\xc3\xa4se");
    value = plim_json_get(value, "last");
    size_t length = strlen(value.path);
    cr_assert_lt(length, sizeof value.path);
    cr_assert_eq(strncmp(value.path, "..", 2), 0);
    cr_assert_str_eq(value.path + length - 5, ".last");
    cr_assert_neq((unsigned char)value.path[2] & 0xc0, 0x80);
    char very_long[500];
    memset(very_long, 'x', sizeof very_long);
    very_long[499] = '\0';
    value = plim_json_get(value, very_long);
    cr_assert_lt(strlen(value.path), sizeof value.path);
    cJSON_Delete(root);
}

Test(json, nearest_name)
{
    static const char *const names[] = { "max_dq_size", "max_input_len", "low_mem", "k", NULL };
    cr_assert_str_eq(plim_nearest_name("max-dq-sise", names), "max_dq_size");
    cr_assert_str_eq(plim_nearest_name("MAX_INPUT_LEM", names), "max_input_len");
    cr_assert_str_eq(plim_nearest_name("lwo_mem", names), "low_mem");
    cr_assert_null(plim_nearest_name("temperature", names));
    cr_assert_null(plim_nearest_name("z", names));
    cr_assert_null(plim_nearest_name("", names));
    char text[300];
    memset(text, 'a', sizeof text);
    text[299] = '\0';
    cr_assert_null(plim_nearest_name(text, names));
}

Test(json, files_are_limited_and_named)
{
    char path[] = "/tmp/plimsoll-json-XXXXXX";
    int fd = mkstemp(path);
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = NULL;
    cr_assert_eq(write(fd, "{\"a\": 1}", 8), 8);
    close(fd);
    cr_assert_eq(plim_json_read(path, 8, &root, &err), 0, "%s", err.message);
    cJSON_Delete(root);
    cr_assert_eq(plim_json_read(path, 7, &root, &err), -1);
    cr_assert(strstr(err.message, path) && strstr(err.message, "limit of 7 bytes"), "%s", err.message);
    unlink(path);
    plim_err_clear(&err);
    cr_assert_eq(plim_json_read(path, 7, &root, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_null(root);
}
