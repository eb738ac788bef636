/* Every allocation is made to fail once: no crash, no leak, the right kind of error, and nothing half-done. */

#include "text_test.h"

#include <stdlib.h>
#include <string.h>

/* Long enough for every scratch array to grow. */
#define COUNT 400

struct work {
    const char *document;
    char text[COUNT * 8 + 1];
    size_t length;
};

/* Parses, encodes, decodes. Returns 0 when all went well, else -1 with nothing left over. */
static int run(const struct work *work, struct plim_pool *pool, struct plim_err *err)
{
    struct plim_tokenizer *tokenizer = NULL;
    struct plim_ids ids = { 0 };
    char *text = NULL;
    size_t length = 0;
    int rc = -1;

    if (plim_tokenizer_parse(&tokenizer, pool, "small", work->document, strlen(work->document), err) < 0) {
        cr_assert_null(tokenizer);
        goto out;
    }
    if (plim_tokenizer_encode(tokenizer, work->text, work->length, true, &ids, err) < 0) {
        cr_assert_eq(ids.count, 0, "ids after a failure");
        goto out;
    }
    rc = plim_tokenizer_decode(tokenizer, ids.ids, ids.count, false, &text, &length, err);
    if (rc == 0)
        cr_assert_gt(length, COUNT);

out:
    plim_pool_free(pool, text);
    plim_ids_release(&ids, pool);
    plim_tokenizer_free(tokenizer);
    return rc;
}

static void fail_each_allocation(const struct work *work)
{
    for (uint64_t nth = 1;; nth++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_pool_options options = { .fail_allocation = nth };
        struct plim_pool_refusal refusal;
        struct plim_pool *pool = NULL;
        cr_assert_lt(nth, 5000, "no end of allocations");
        expect_ok(plim_pool_open(&pool, &options, &err), &err);
        int rc = run(work, pool, &err);
        plim_pool_last_refusal(pool, &refusal);
        cr_assert_eq(plim_pool_close(pool), 0, "allocation %u fails: blocks leaked", (unsigned)nth);
        if (!refusal.valid) {
            cr_assert_eq(rc, 0, "%s", err.message);
            cr_assert_gt(nth, 40, "too few allocations to have tested anything");
            return;
        }
        /* The JIT may do without its memory; everything else has to fail. */
        cr_assert(rc == 0 || err.kind == PLIM_ERR_MEMORY, "allocation %u fails: %s", (unsigned)nth, err.message);
    }
}

Test(text_memory, every_allocation_fails_once)
{
    struct work work = { 0 };
    char *document = text_test_small_tokenizer();
    work.document = document;
    for (int i = 0; i < COUNT; i++)
        strcat(work.text, i % 50 == 7 ? "<s>1e\xcc\x81" : i % 50 == 9 ? " Word\xff " : " abcab");
    work.length = strlen(work.text);
    fail_each_allocation(&work);
    free(document);
}

Test(text_memory, every_allocation_fails_once_byte_level)
{
    struct work work = { 0 };
    cJSON *root = text_test_json(PLIMSOLL_TEST_DATA "/exl2-llama-tiny/dense/tokenizer.json");
    char *document = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    work.document = document;
    for (int i = 0; i < COUNT; i++)
        strcat(work.text, i % 2 ? " the 12" : "caf\xc3\xa9\n");
    work.length = strlen(work.text);
    fail_each_allocation(&work);
    free(document);
}
