#include "rope_table.h"

#include <math.h>

#include "plimsoll/units.h"

/* Staged on the stack and uploaded piece by piece: 16 KiB, a few dozen rows at a time. */
#define PIECE_ELEMENTS 4096

int rope_init(struct rope *rope, struct plim_pool *pool, const struct rope_config *config, size_t head_dim,
              struct plim_err *err)
{
    if (head_dim % 2 != 0 || head_dim > PIECE_ELEMENTS)
        return plim_err_input(err, "head_dim %zu: rotary embedding needs an even number up to %d", head_dim,
                              PIECE_ELEMENTS);
    rope->inv_freq = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, head_dim / 2, sizeof *rope->inv_freq, err);
    if (!rope->inv_freq)
        return -1;
    rope_frequencies(config, head_dim, rope->inv_freq, &rope->sin_cos_factor);
    return 0;
}

void rope_release(struct rope *rope, struct plim_pool *pool)
{
    plim_pool_free(pool, rope->inv_freq);
    *rope = (struct rope){ 0 };
}

static void fill_row(const struct rope *rope, size_t position, size_t half, float *row)
{
    for (size_t j = 0; j < half; j++) {
        double angle = (double)position * rope->inv_freq[j];
        row[j] = (float)(cos(angle) * rope->sin_cos_factor);
        row[half + j] = (float)(sin(angle) * rope->sin_cos_factor);
    }
}

int rope_table(const struct rope *rope, struct backend *backend, size_t first, size_t rows, size_t head_dim,
               float *table, struct plim_err *err)
{
    float piece[PIECE_ELEMENTS];
    size_t piece_rows = PIECE_ELEMENTS / head_dim;

    /* A prompt of 2048 tokens would keep a host busy for 3 ms. One token's row is on its way sooner from here. */
    if (rows > 1 && head_dim <= BACKEND_ROPE_DIM && backend->ops->rope_table)
        return backend->ops->rope_table(backend, rope->inv_freq, rope->sin_cos_factor, first, rows, head_dim, table, err);
    for (size_t done = 0; done < rows; done += piece_rows) {
        size_t n = plim_min(piece_rows, rows - done);
        for (size_t r = 0; r < n; r++)
            fill_row(rope, first + done + r, head_dim / 2, piece + r * head_dim);
        if (backend->ops->upload(backend, table + done * head_dim, piece, n * head_dim * sizeof *piece, err) < 0)
            return -1;
    }
    return 0;
}
