/* One tokenizer used by several threads at once, for the thread sanitizer: all must get the same ids and text. */

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "plimsoll/tokenizer.h"

#define THREADS 4
#define ROUNDS 50

static const char text[] = "The ship took on coal,  1234 tons of it; caf\xc3\xa9 \xe6\xbc\xa2\xe5\xad\x97\n"
                           "\xf0\x9f\x9a\xa2<|im_start|>user\nHow deep?<|im_end|> e\xcc\x81 \xff don't!";

struct worker {
    pthread_t thread;
    struct plim_pool *pool;
    const struct plim_tokenizer *tokenizer;
    const struct plim_ids *expected;
    int failures;
};

static int round_trip(struct worker *w, struct plim_err *err)
{
    struct plim_ids ids = { 0 };
    char *decoded = NULL;
    size_t length;
    int rc = plim_tokenizer_encode(w->tokenizer, text, sizeof text - 1, true, &ids, err);
    if (rc == 0)
        rc = plim_tokenizer_decode(w->tokenizer, ids.ids, ids.count, true, &decoded, &length, err);
    if (rc == 0 && (ids.count != w->expected->count ||
                    memcmp(ids.ids, w->expected->ids, ids.count * sizeof *ids.ids) != 0))
        rc = plim_err_set(err, PLIM_ERR_INTERNAL, "other ids than alone");
    plim_pool_free(w->pool, decoded);
    plim_ids_release(&ids, w->pool);
    return rc;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    for (int i = 0; i < ROUNDS; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        if (round_trip(w, &err) < 0) {
            fprintf(stderr, "stress_text: %s\n", err.message);
            w->failures++;
        }
    }
    return NULL;
}

int main(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    struct plim_tokenizer *tokenizer = NULL;
    struct plim_ids expected = { 0 };
    struct worker workers[THREADS];
    int failures = 0;

    if (plim_pool_open(&pool, NULL, &err) < 0 ||
        plim_tokenizer_load(&tokenizer, pool, PLIMSOLL_TEST_DATA "/tokenizers/qwen2", &err) < 0 ||
        plim_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &expected, &err) < 0) {
        fprintf(stderr, "stress_text: %s\n", err.message);
        return 1;
    }
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ .pool = pool, .tokenizer = tokenizer, .expected = &expected };
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            return 1;
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        failures += workers[i].failures;
    }
    plim_ids_release(&expected, pool);
    plim_tokenizer_free(tokenizer);
    if (plim_pool_close(pool) != 0)
        failures++;
    return failures > 0;
}
