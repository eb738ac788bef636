#ifndef TEST_TEXT_H
#define TEST_TEXT_H

/* What the tests of engine/text share. */

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"
#include "plimsoll/tokenizer.h"

#define TOKENIZERS PLIMSOLL_TEST_DATA "/tokenizers"

#define expect_ok(rc, err) cr_assert_eq((rc), 0, "%s", (err)->message)

/* A pool that must be empty again at the end. */
struct plim_pool *text_test_pool_open(void);
void text_test_pool_close(struct plim_pool *pool);

/* A JSON file of the test data; free with cJSON_Delete. */
cJSON *text_test_json(const char *path);

/* A small tokenizer.json that has a component of every kind; free(). */
char *text_test_small_tokenizer(void);

/* A list of numbers. */
struct plim_ids text_test_ids(const cJSON *list);

/* Says what differs, if anything does. */
void text_test_expect_ids(const char *name, const int32_t *ids, size_t count, const struct plim_ids *expected);

/* Decodes, and checks that a stream gives the same in pieces of whole characters. The text is free()d by the caller. */
char *text_test_decode(const struct plim_tokenizer *tokenizer, struct plim_pool *pool, const int32_t *ids, size_t count,
                       bool skip_special, size_t *length);

#endif
