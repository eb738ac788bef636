/*
 * Few rows: y = x W straight from packed EXL2 codes.
 *
 * Activations are quantised once a call, per block of rows (linear_kernels.h has the formula); then every thread walks
 * its own columns, groups outermost, so that the packed words stream through as some twenty sequential runs at a time
 * (the word rows of one block) and y stays in the first-level cache until the last group has been added.
 */

#include <string.h>

#include "linear_internal.h"
#include "plimsoll/units.h"

/* Elements of y that are worked on from the first group to the last: 32 KiB, on the stack. */
#define STRIP_ELEMENTS 8192
_Static_assert(STRIP_ELEMENTS / FUSED_TILE_ROWS >= 32, "a strip has at least 32 columns");

/* Activations that are quantised before another thread is worth its while. */
#define QUANTISE_MIN_ELEMENTS 4096

/* One tile of rows on its way through the matrix. */
struct fused_run {
    const struct linear_call *call;
    size_t first_row, row_count;   /* of the tile, in x and y */
    int16_t *x;                    /* block by block, see block_x */
    float *x_scale;                /* [block_capacity, row_count] */
    int32_t *x_offset;
};

/*
 * The place of group g's first block in x_scale and x_offset. Groups of any sizes find room: a group of r rows moves
 * g + first_row / FUSED_BLOCK_ROWS on by at least ceil(r / FUSED_BLOCK_ROWS).
 */
static size_t block_index(const struct exl2_matrix *matrix, size_t g)
{
    return g + matrix->groups[g].first_row / FUSED_BLOCK_ROWS;
}

static size_t block_capacity(size_t in_features, size_t group_count)
{
    return group_count + in_features / FUSED_BLOCK_ROWS;
}

/*
 * Each block's activations lie together, [row_count, rows of the block]: whole rows of x would be a multiple of 4 KiB
 * apart, and fight for the same few sets of the first-level cache.
 */
static int16_t *block_x(const struct fused_run *run, size_t packed_row)
{
    return run->x + packed_row * run->row_count;
}

size_t fused_workspace_bytes(size_t in_features, size_t group_count, size_t rows)
{
    size_t tile_rows = plim_min(rows, FUSED_TILE_ROWS);
    return tile_rows * (in_features * sizeof(int16_t) +
                        block_capacity(in_features, group_count) * (sizeof(float) + sizeof(int32_t)));
}

/* [begin, end): row * group_count + group */
static void quantise_groups(void *context, size_t begin, size_t end, int thread)
{
    const struct fused_run *run = context;
    const struct cpu_matrix *matrix = run->call->matrix;
    const struct exl2_matrix *exl2 = &matrix->exl2;
    (void)thread;

    for (size_t i = begin; i < end; i++) {
        size_t r = i / exl2->group_count, g = i % exl2->group_count;
        const struct exl2_group *group = &exl2->groups[g];
        const float *x = run->call->x + (run->first_row + r) * exl2->in_features;
        size_t index = block_index(exl2, g);

        for (size_t row = 0; row < group->row_count; row += FUSED_BLOCK_ROWS, index++) {
            size_t first = group->first_row + row, rows = plim_min(group->row_count - row, FUSED_BLOCK_ROWS);
            matrix->kernels->quantise(x, exl2->perm + first, rows, group->bits, block_x(run, first) + r * rows,
                                      &run->x_scale[index * run->row_count + r],
                                      &run->x_offset[index * run->row_count + r]);
        }
    }
}

/*
 * The words of a block's first columns and its scales, before the block ahead of it is worked on: with several rows of x
 * the kernel fetches the columns after them, but nothing else would fetch these in time. One row streams by itself.
 */
static void prefetch_block(const struct fused_run *run, size_t g, size_t row, size_t begin)
{
    const struct exl2_matrix *matrix = &run->call->matrix->exl2;
    const struct exl2_group *group = &matrix->groups[g];
    size_t rows = plim_min(group->row_count - row, FUSED_BLOCK_ROWS);
    const uint32_t *words = matrix->q_weight + (group->first_word + row * group->bits / 32) * matrix->out_features + begin;

    if (run->row_count == 1)
        return;
    for (size_t i = 0; i < rows * group->bits / 32; i++, words += matrix->out_features) {
        __builtin_prefetch(words);
        __builtin_prefetch(words + 16);
    }
    __builtin_prefetch(matrix->q_scale + (g * matrix->out_features + begin) / 8);
    __builtin_prefetch(matrix->q_scale + (g * matrix->out_features + begin) / 8 + 16);
}

/* Adds x W to y for `columns` columns from `begin` on; y [row_count, columns]. */
static void add_groups(const struct fused_run *run, size_t begin, size_t columns, float *y)
{
    const struct cpu_matrix *matrix = run->call->matrix;
    const struct exl2_matrix *exl2 = &matrix->exl2;

    for (size_t g = 0; g < exl2->group_count; g++) {
        const struct exl2_group *group = &exl2->groups[g];
        size_t index = block_index(exl2, g);

        for (size_t row = 0; row < group->row_count; row += FUSED_BLOCK_ROWS, index++) {
            size_t rows = plim_min(group->row_count - row, FUSED_BLOCK_ROWS);
            struct fused_block block = {
                .bits = group->bits,
                .rows = rows,
                .columns = columns,
                .words = exl2->q_weight + (group->first_word + row * group->bits / 32) * exl2->out_features + begin,
                .word_stride = exl2->out_features,
                .scale_codes = exl2->q_scale + (g * exl2->out_features + begin) / 8,
                .scale_unit = group->scale_unit,
                .row_count = run->row_count,
                .x = block_x(run, group->first_row + row),
                .x_stride = rows,
                .x_scale = run->x_scale + index * run->row_count,
                .x_offset = run->x_offset + index * run->row_count,
                .y = y,
                .y_stride = columns,
            };
            if (row + rows < group->row_count)
                prefetch_block(run, g, row + rows, begin);
            else if (g + 1 < exl2->group_count)
                prefetch_block(run, g + 1, 0, begin);
            matrix->kernels->fused(&block);
        }
    }
}

/*
 * One strip of columns, from the first group to the last, in a tile of its own: adjacent in cache, which rows of y are
 * not, and wide enough for the stored columns when fewer count.
 */
static void multiply_strip(const struct fused_run *run, size_t begin, size_t columns)
{
    const struct linear_call *call = run->call;
    float tile[STRIP_ELEMENTS];
    float *y = call->y + run->first_row * call->out_features + begin;
    size_t valid = plim_min(columns, call->out_features - begin);

    for (size_t r = 0; r < run->row_count; r++) {
        if (call->accumulate)
            memcpy(tile + r * columns, y + r * call->out_features, valid * sizeof *tile);
        memset(tile + r * columns + (call->accumulate ? valid : 0), 0,
               (call->accumulate ? columns - valid : columns) * sizeof *tile);
    }
    add_groups(run, begin, columns, tile);
    for (size_t r = 0; r < run->row_count; r++)
        memcpy(y + r * call->out_features, tile + r * columns, valid * sizeof *tile);
    linear_add_bias(call, run->first_row, run->row_count, begin, begin + valid);
}

/* [begin, end): columns, multiples of 32 */
static void multiply_columns(void *context, size_t begin, size_t end, int thread)
{
    const struct fused_run *run = context;
    size_t strip = STRIP_ELEMENTS / run->row_count / 32 * 32;
    (void)thread;

    for (size_t n = begin; n < end; n += strip)
        multiply_strip(run, n, plim_min(strip, end - n));
}

static void run_tile(struct fused_run *run)
{
    const struct linear_call *call = run->call;
    const struct exl2_matrix *exl2 = &call->matrix->exl2;
    size_t group_grain = plim_ceil_div(QUANTISE_MIN_ELEMENTS * exl2->group_count, exl2->in_features);

    cpu_run(call->backend, run->row_count * exl2->in_features, run->row_count * exl2->group_count, group_grain,
            quantise_groups, run);
    linear_run(call, plim_round_up(call->out_features, 32), 64, multiply_columns, run);
}

int fused_linear(const struct linear_call *call, struct plim_err *err)
{
    const struct exl2_matrix *exl2 = &call->matrix->exl2;
    size_t tile_rows = plim_min(call->rows, FUSED_TILE_ROWS);

    void *workspace = plim_pool_alloc(call->backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE,
                                      fused_workspace_bytes(exl2->in_features, exl2->group_count, call->rows), err);
    if (!workspace)
        return -1;

    struct fused_run run = { .call = call };
    run.x = workspace;
    run.x_scale = (float *)(void *)(run.x + tile_rows * exl2->in_features);
    run.x_offset = (int32_t *)(void *)(run.x_scale + tile_rows * block_capacity(exl2->in_features, exl2->group_count));
    for (size_t row = 0; row < call->rows; row += tile_rows) {
        run.first_row = row;
        run.row_count = plim_min(tile_rows, call->rows - row);
        run_tile(&run);
        call->backend->counters.weight_bytes_read += call->matrix->stored_bytes;
    }
    call->backend->counters.fused_calls++;

    plim_pool_free(call->backend->pool, workspace);
    return 0;
}
