#ifndef PLIM_CUDA_LINEAR_KERNELS_H
#define PLIM_CUDA_LINEAR_KERNELS_H

/*
 * The kernels of linear layers, as plain functions over device pointers and a stream; linear.h says how they are used.
 *
 * How EXL2 codes lie on the device. W [in_features, out_features] is cut into tiles of 32 packed rows by 32 columns; a
 * tile has one bit width b, and one warp reads it, b words a lane:
 *
 *   tiles   [out_features / 32][word_rows][32] words: the tiles of one column block follow each other down the rows,
 *           so that a warp streams through adjacent memory whatever the widths are. As many bytes as in the file.
 *   tile    its 32 * b words in planes of 4, 2 or 1 words a lane (b = 4: 4; b = 5: 4 + 1; b = 6: 4 + 2; b = 3: 2 + 1;
 *           b = 8: 4 + 4): each plane is one coalesced load. linear_tile.cuh says where a lane's 32 codes stand in
 *           its words; they are the operand that mma.m16n8k16 wants from that lane.
 *   scales  [out_features / 32][group_count][8] of 16 bits: nibble t of entry c is column c + 8 t of the block
 *   units   [group_count] fp16: the group's unit of the scales
 *   segments: runs of groups of one width and one size (the last of a run may be shorter); a converter makes one for each
 *           width, and those are passed to kernels by value: where a warp begins must not cost it a trip to memory.
 *
 * All launches return what the launch itself reports; none waits.
 */

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct linear_segment {
    uint16_t first_tile;
    uint16_t first_word_row;
    uint16_t first_group;
    uint16_t group_tiles;
    uint16_t bits;
};

#define LINEAR_NEAR_SEGMENTS 6   /* widths there are */

/* One EXL2 matrix on the device. All pointers are device pointers; bias may be NULL. */
struct linear_tiles {
    const uint32_t *tiles;
    const uint16_t *scales;
    const uint16_t *units;
    const uint16_t *invperm;         /* [in_features] input feature -> packed row */
    const float *bias;               /* [out_features] */
    const struct linear_segment *segments;                   /* [segment_count] */
    struct linear_segment near_segments[LINEAR_NEAR_SEGMENTS];   /* the first of them */
    uint32_t segment_count;
    uint32_t in_features;
    uint32_t stored_out_features;    /* multiple of 32 */
    uint32_t out_features;           /* columns of y, and its row stride */
    uint32_t group_count;
    uint32_t word_rows;
};

/* ---- making ready ---- */

/*
 * A piece of q_weight in memory that the device can read: the words of tiles [first_tile, end_tile), which begin at word
 * row `first_word_row`, of `columns` columns from `first_column` on. Goes into `tiles`.
 */
struct linear_piece {
    const uint32_t *words;           /* [word rows, columns] */
    uint32_t first_word_row, first_tile, end_tile;
    uint32_t first_column, columns;  /* multiples of 32 */
};
cudaError_t linear_load_codes(const struct linear_tiles *matrix, uint32_t *tiles, const struct linear_piece *piece,
                              cudaStream_t stream);

/* Rows [first_group, first_group + groups) of q_scale, `words` [groups, stored_out_features / 8], into `scales`. */
cudaError_t linear_load_scales(const struct linear_tiles *matrix, uint16_t *scales, const uint32_t *words,
                               uint32_t first_group, uint32_t groups, cudaStream_t stream);

/* ---- activations ---- */

/*
 * x [rows, width] as fp16 in packed row order: column k goes to invperm[k] (NULL: stays). Rows from `rows` to
 * `padded_rows` become zeros. LINEAR_TILED: out [width / 32][padded_rows / 8][8][32], as linear_few reads it. LINEAR_WGMMA: as linear_wgmma does.
 * The width is a multiple of 32, out is 16-byte aligned.
 */
enum linear_order { LINEAR_ROWS, LINEAR_TILED, LINEAR_WGMMA };
cudaError_t linear_gather(const float *x, const uint16_t *invperm, size_t rows, size_t padded_rows, size_t width,
                          enum linear_order order, uint16_t *out, bool overlap, cudaStream_t stream);

/*
 * The same of what is not in memory yet. linear_norm_gather: of x * (weight + offset) / sqrt(mean(x^2) + eps) over each row.
 * linear_act_gather: of act(gate) * up, fp16 [rows, width], over gate.
 */
struct linear_norm {
    const float *x, *weight;
    float offset, eps;
};
cudaError_t linear_norm_gather(const struct linear_norm *norm, const uint16_t *invperm, size_t rows, size_t width,
                               enum linear_order order, uint16_t *out, bool overlap, cudaStream_t stream);
cudaError_t linear_act_gather(bool gelu_tanh, uint16_t *gate, const uint16_t *up, const uint16_t *invperm, size_t rows,
                              size_t width, enum linear_order order, bool overlap, cudaStream_t stream);

/* ---- few rows ---- */

#define LINEAR_MAX_MATRICES 3
#define LINEAR_MAX_FUSED_ROWS 64

/* One call: y[m] = x W[m] for up to three matrices that share rows and in_features. */
struct linear_few {
    struct linear_tiles matrix[LINEAR_MAX_MATRICES];
    float *y[LINEAR_MAX_MATRICES];
    const uint16_t *x_half[LINEAR_MAX_MATRICES];  /* gathered (LINEAR_TILED), rows to 8, 16, 32 or 64; one row: NULL */
    const float *x;                               /* one row: [in_features] as it stands, 16-byte aligned */
    uint32_t matrix_count;
    uint32_t rows;                                /* 1 .. LINEAR_MAX_FUSED_ROWS */
    bool accumulate;
    uint32_t variant;                             /* 0: the default for the shape */
    uint32_t split;                               /* 0: default; blocks that share one strip of columns */
    bool overlap;                                 /* may start while the kernel before it runs (compute capability 9.0) */
    float *partial;                               /* scratch, linear_few_scratch */
    uint32_t *counters;                           /* zeroed once; left zeroed */
};

/* Bytes of `partial` (0: none needed) and entries of `counters` for a call. */
struct linear_few_scratch {
    size_t partial_bytes;
    size_t counter_count;
};
struct linear_few_scratch linear_few_scratch(const struct linear_few *call);

/* Entries of `counters` that no call passes. */
#define LINEAR_COUNTERS 4096

cudaError_t linear_few(const struct linear_few *call, cudaStream_t stream);

/* ---- one row ---- */

/*
 * y[m] = x W[m] (+ bias) for up to three matrices that share in_features, or added to y[m].
 * With a gate, for two matrices with the same out_features: y[0] = act(x W[0]) * x W[1].
 */
enum linear_gate { LINEAR_GATE_NONE, LINEAR_GATE_SILU, LINEAR_GATE_GELU_TANH };
struct linear_one {
    struct linear_tiles matrix[LINEAR_MAX_MATRICES];
    float *y[LINEAR_MAX_MATRICES];
    const float *x;                  /* [in_features], 16-byte aligned */
    uint32_t matrix_count;
    enum linear_gate gate;
    bool accumulate;
    bool overlap;                    /* may start while kernels before it run (compute capability 9.0) */
};

/* Whether the matrices are such that linear_one can take them, where a block may have so much shared memory. */
bool linear_one_takes(const struct linear_one *call, size_t shared_bytes);
cudaError_t linear_one(const struct linear_one *call, cudaStream_t stream);

/* ---- many rows ---- */

/*
 * W[row ... row + rows, column ... column + columns] as fp16, out [columns][rows], in packed row order. All are multiples
 * of 32.
 */
cudaError_t linear_expand(const struct linear_tiles *matrix, size_t column, size_t columns, size_t row, size_t rows,
                          uint16_t *out, cudaStream_t stream);

/* y[r][n] += bias[n], y [rows, columns]. */
cudaError_t linear_bias(float *y, const float *bias, size_t rows, size_t columns, cudaStream_t stream);

/* ---- dense ---- */

enum linear_type { LINEAR_F32, LINEAR_F16, LINEAR_BF16 };

#define LINEAR_DENSE_ROWS 8

/* y = alpha x W (+ bias), or added to y; weight [out_features, in_features]; at most LINEAR_DENSE_ROWS rows. */
struct linear_dense {
    enum linear_type type;
    const void *weight;
    const float *x;
    float *y;
    const float *bias;               /* or NULL */
    uint32_t in_features, out_features, rows;
    float alpha;
    bool accumulate, overlap;
};
cudaError_t linear_dense_dots(const struct linear_dense *call, cudaStream_t stream);

/* out[i] = fp16(x[i]); high[i] + low[i] = x[i], both bf16, as nearly as those can. */
cudaError_t linear_halve(const float *x, size_t n, uint16_t *out, bool overlap, cudaStream_t stream);
cudaError_t linear_split(const float *x, size_t n, uint16_t *high, uint16_t *low, bool overlap, cudaStream_t stream);

/*
 * One call on compute capability 9.0, with no expanded weights in memory: y[m] = x W[m] (+ bias), or added to y[m], for up to
 * three matrices that share rows and in_features.
 */
struct linear_wgmma {
    struct linear_tiles matrix[LINEAR_MAX_MATRICES];
    const uint16_t *x_half[LINEAR_MAX_MATRICES];  /* [rows, in_features] in LINEAR_WGMMA order, 16-byte aligned */
    float *y[LINEAR_MAX_MATRICES];
    uint16_t *y_half[LINEAR_MAX_MATRICES];        /* not NULL: fp16, written instead of y; out_features % 4 is 0 */
    uint32_t matrix_count;
    uint32_t rows;
    bool accumulate, overlap;
    uint32_t variant, cluster;                    /* 0: the default for the shape */
};
cudaError_t linear_wgmma(const struct linear_wgmma *call, cudaStream_t stream);

/* How long that takes, as one H100 was measured. */
size_t linear_wgmma_ns(size_t in_features, size_t columns, size_t rows);

/* ---- the plain twin ---- */

/*
 * y = x W (+ bias), or added to y: one thread an element, from q_weight and q_scale as in the file (on the device), in
 * double precision; for tests.
 */
struct linear_group {
    uint32_t first_word_row;
    uint16_t first_tile;
    uint8_t bits;
    uint16_t scale_unit;             /* fp16 bits */
};
struct linear_reference {
    const uint32_t *q_weight;        /* [word_rows, stored_out_features] */
    const uint32_t *q_scale;
    const struct linear_group *groups;   /* [group_count] */
    const uint16_t *tile_group;          /* [in_features / 32] the group of each 32 rows */
    const uint16_t *perm;                /* [in_features] packed row -> input feature */
    const float *bias;
    uint32_t in_features, stored_out_features, out_features;
};
cudaError_t linear_reference(const struct linear_reference *matrix, const float *x, size_t rows, double *y,
                             cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
