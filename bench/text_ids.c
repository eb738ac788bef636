#include "text_ids.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "plimsoll/random.h"
#include "plimsoll/tokenizer.h"

#define TEXT_LIMIT ((size_t)64 << 20)

int text_ids_encode(int32_t **ids, size_t *count, const char *model_directory, const char *text, size_t length,
                    struct plim_err *err)
{
    struct plim_pool *pool = NULL;
    struct plim_tokenizer *tokenizer = NULL;
    struct plim_ids encoded = { 0 };
    int32_t *copy;
    int rc = -1;

    if (plim_pool_open(&pool, NULL, err) < 0)
        return -1;
    if (plim_tokenizer_load(&tokenizer, pool, model_directory, err) < 0 ||
        plim_tokenizer_encode(tokenizer, text, length, true, &encoded, err) < 0)
        goto out;
    copy = heap_calloc(encoded.count, sizeof *copy, err);
    if (!copy)
        goto out;
    if (encoded.count)
        memcpy(copy, encoded.ids, encoded.count * sizeof *copy);
    *ids = copy;
    *count = encoded.count;
    rc = 0;

out:
    plim_ids_release(&encoded, pool);
    plim_tokenizer_free(tokenizer);
    plim_pool_close(pool);
    return rc;
}

int text_ids_read(int32_t **ids, size_t *count, const char *model_directory, const char *file, struct plim_err *err)
{
    char *text = NULL;
    size_t length;
    int rc = -1;

    if (plim_read_file(file, TEXT_LIMIT, &text, &length, err) == 0)
        rc = text_ids_encode(ids, count, model_directory, text, length, err);
    free(text);
    return rc;
}

int text_ids_random(int32_t **ids, size_t count, size_t vocab_size, uint64_t seed, struct plim_err *err)
{
    struct plim_random random;
    int32_t *made = heap_calloc(count, sizeof *made, err);

    if (!made)
        return -1;
    plim_random_seed(&random, seed, 0);
    for (size_t i = 0; i < count; i++)
        made[i] = (int32_t)plim_random_below(&random, vocab_size);
    *ids = made;
    return 0;
}
