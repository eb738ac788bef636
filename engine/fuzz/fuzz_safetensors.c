/* A safetensors file in memory. What is accepted covers its data exactly. */

#include <string.h>

#include "fuzz.h"
#include "safetensors_header.h"

static void use(const struct safetensors_header *header, const uint8_t *data, size_t size)
{
    size_t covered = 0;
    volatile uint8_t sink = 0;
    for (size_t i = 0; i < header->count; i++) {
        const struct tensor *tensor = &header->tensors[i];
        size_t elements = 1;
        FUZZ_CLAIM(strlen(tensor->name) <= size);
        for (int d = 0; d < tensor->dimension_count; d++)
            elements *= tensor->shape[d];
        FUZZ_CLAIM(elements == tensor->element_count);
        FUZZ_CLAIM(elements * dtype_bytes(tensor->dtype) == tensor->bytes);
        covered += tensor->bytes;
        if (tensor->bytes == 0)
            continue;
        const uint8_t *begin = tensor->data;
        FUZZ_CLAIM(begin >= data + 8 && begin + tensor->bytes <= data + size);
        sink ^= begin[0] ^ begin[tensor->bytes - 1];
    }
    FUZZ_CLAIM(covered <= size - 8);
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plim_pool *pool = NULL;
    struct plim_err err = PLIM_ERR_INIT;
    struct safetensors_header header;
    FUZZ_CLAIM(plim_pool_open(&pool, NULL, &err) == 0);
    if (safetensors_header_parse(&header, pool, "input", data, size, &err) == 0)
        use(&header, data, size);
    else
        FUZZ_CLAIM(err.kind == PLIM_ERR_INPUT && !strchr(err.message, '\n'));
    safetensors_header_release(&header, pool);
    FUZZ_CLAIM(plim_pool_close(pool) == 0);
    return 0;
}
