#ifndef PLIM_BACKEND_H
#define PLIM_BACKEND_H

/*
 * A backend: the small table of operations that a forward pass is made of.
 *
 * Everything above this line names no device. Pointers marked "device" live in the pool's fast tier, which on the CPU
 * backend is ordinary memory and on CUDA is not; the code above moves data to and from them only with `upload` and `download`.
 *
 * Activations are fp32, row-major [rows, width]; `rows` are the tokens of one chunk. Operations run in order; an
 * operation may return before it is done, `download` waits.
 *
 * Memory: persistent matrices are tagged weights or counted as weights_mapped; temporaries are allocated by the
 * operation itself from the pool with the tag named below and freed before it returns, so the peak is what was used.
 * `*_scratch` functions of predict.h say in advance how much that will be.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "dtype.h"
#include "exl2.h"
#include "kv_format.h"
#include "plimsoll/err.h"
#include "plimsoll/parameters.h"
#include "plimsoll/pool.h"

struct threads;
struct backend;

/* One linear layer as it stands in the mapped file. */
struct linear_source {
    const char *name;                 /* "model.layers.0.mlp.down_proj"; borrowed */
    bool is_exl2;
    struct exl2_tensors exl2;         /* if is_exl2 */
    enum dtype dtype;                 /* dense: F32, F16 or BF16 */
    const void *weight;               /* dense: [out_features, in_features], as Hugging Face stores it */
    size_t in_features;
    size_t out_features;              /* columns of the result that count; EXL2 may store more (padding) */
    const void *bias;                 /* [out_features] or longer, dtype bias_dtype; NULL: none */
    enum dtype bias_dtype;
    float prescale;                   /* folded into the weights (EXL2) or applied to the product (dense) */
};

/* A linear layer that a backend made ready. Opaque to the code above; the sizes are for everybody. */
struct matrix {
    size_t in_features, out_features;
    void *impl;
};

struct attention_shape {
    size_t head_count, kv_head_count, head_dim;
    float scale;
    float softcap;                    /* 0: none */
    size_t window;                    /* keys a query sees, itself included; 0: all */
};

/* An RMS norm, as rms_norm takes it. */
struct norm {
    const float *weight;              /* device, [width] */
    float offset;
    double eps;
};

/* down(act(gate(x)) * up(x)) */
struct mlp {
    const struct matrix *gate, *up, *down;
    enum activation activation;
};

/* Counters of work, all exact: the same for the same case on every machine. */
struct backend_counters {
    uint64_t dequant_chunks;          /* chunks expanded into the dequant buffer */
    uint64_t dequantised_elements;
    uint64_t weight_bytes_read;       /* bytes of packed or dense weights that were touched, each time */
    uint64_t fused_calls;             /* linear calls that multiplied straight from packed weights */
    uint64_t chunked_calls;           /* linear calls that expanded chunks */
    uint64_t attention_chunks;
};

/*
 * A step: all operations of one decoded token, which a backend may record and launch again for the next one. They are the
 * same for every token but for the position, as long as the addresses are.
 */
struct backend_step;

#define STEP_ADDRESSES 4
#define STEP_RESULT_BYTES ((size_t)4 << 20)
struct step_key {
    size_t past;                             /* tokens in the cache before this one */
    const void *address[STEP_ADDRESSES];     /* blocks that the operations work on, and that may move between steps */
};

/* Issues the operations of a step; its rows stand at key.past. */
typedef int step_issue(void *context, struct plim_err *err);

#define BACKEND_ROPE_DIM 512

struct backend_ops {
    const char *name;
    bool unified_memory;              /* device memory is ordinary memory: the host may read and write it in place */

    int (*open)(struct backend *backend, struct plim_err *err);
    /*
     * Where there are several (backend_open_at): makes this one's device the calling thread's, which it must be for all other
     * operations. NULL: nothing to do. And its bytes that are free; NULL: as many as anywhere.
     */
    int (*select)(struct backend *backend, struct plim_err *err);
    int (*free_bytes)(struct backend *backend, uint64_t *bytes, struct plim_err *err);
    /* Copies what `from` has on its device, in order with the operations of both. This one is selected before and after. */
    int (*receive)(struct backend *backend, void *to, struct backend *from, const void *what, size_t bytes,
                   struct plim_err *err);
    void (*close)(struct backend *backend);

    /* Makes a linear layer ready. What it maps it counts as weights_mapped. */
    int (*matrix_init)(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                       struct plim_err *err);
    void (*matrix_release)(struct backend *backend, struct matrix *matrix);

    /*
     * y = x W (+ bias), or y += x W (+ bias) with `accumulate`. x [rows, in_features], y [rows, out_features], device.
     * Up to dq_rows rows (EXL2): multiplied straight from the packed weights. More: chunks of at most max_dq_size
     * elements (tag dequant, and workspace for the gathered activations), or as dq_mode says.
     */
    int (*linear)(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                  bool accumulate, struct plim_err *err);

    /*
     * y[i] = x matrices[i] (+ bias) for `count` matrices that read the same x, as `linear` does each: at once where that is
     * faster. NULL: the backend has nothing better than `linear` for each.
     */
    int (*linear_many)(struct backend *backend, const struct matrix *const *matrices, size_t count, const float *x,
                       size_t rows, float *const *y, struct plim_err *err);

    /*
     * Optional: y = act(x gate (+ bias)) * (x up (+ bias)) for one row, at once. Returns 1, and has done nothing, when the
     * backend has nothing better for these matrices than the parts; NULL: for none.
     */
    int (*linear_gated)(struct backend *backend, enum activation activation, const struct matrix *gate,
                        const struct matrix *up, const float *x, float *y, struct plim_err *err);

    /*
     * Optional, all four or none: parts of a decoder layer over many rows, with activations between them in a form of the
     * backend's own. They lie in `work`, device memory of the caller's, of *_work bytes (a multiple of 256) for so many rows;
     * 0: the backend takes these rows operation by operation. Linear scratch is then what halves_scratch says.
     *
     * y[i] = norm(x) matrices[i] (+ bias), or added to y[i]; norm NULL: of x as it is
     */
    size_t (*norm_linear_work)(const struct backend *backend, const struct matrix *const *matrices, size_t count, size_t rows);
    int (*norm_linear)(struct backend *backend, const struct norm *norm, const struct matrix *const *matrices, size_t count,
                       const float *x, size_t rows, void *work, float *const *y, bool accumulate, struct plim_err *err);
    /* out = mlp(norm(x)), or added to out, which may be x. */
    size_t (*mlp_work)(const struct backend *backend, const struct mlp *mlp, size_t rows);
    int (*mlp)(struct backend *backend, const struct norm *norm, const struct mlp *mlp, const float *x, size_t rows,
               void *work, float *out, bool accumulate, struct plim_err *err);

    /*
     * out[r] = table[ids[r]] * scale; table [vocab, width] of dtype F32, F16 or BF16, mapped; ids on the host and
     * checked by the caller.
     */
    int (*embed)(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
                 size_t rows, float scale, float *out, struct plim_err *err);

    /* out = x * (weight + offset) / sqrt(mean(x^2) + eps) over each row; x and out may be the same. weight: device. */
    int (*rms_norm)(struct backend *backend, const float *x, const float *weight, float offset, double eps, size_t rows,
                    size_t width, float *out, struct plim_err *err);

    /*
     * Rotates pairs (j, j + head_dim/2) of each head of x [rows, head_count, head_dim] at positions first .. first +
     * rows - 1; inv_freq [head_dim/2] device doubles are not needed: sin_cos [positions, head_dim] device fp32 holds
     * cos (first half) and sin (second half) per position.
     */
    int (*rope)(struct backend *backend, float *x, const float *sin_cos, size_t first, size_t rows, size_t head_count,
                size_t head_dim, struct plim_err *err);

    /*
     * Optional (NULL: made on the host, and uploaded): such a table [rows, head_dim] of positions first .. first + rows - 1,
     * factor * cos(position * inv_freq[j]) and the sines, in fp64 until they are stored. inv_freq [head_dim / 2] is on the
     * host; head_dim is at most BACKEND_ROPE_DIM.
     */
    int (*rope_table)(struct backend *backend, const double *inv_freq, double factor, size_t first, size_t rows,
                      size_t head_dim, float *table, struct plim_err *err);

    /*
     * Stores k and v [rows, kv_heads * head_dim] at positions first.. of a layer's cache, whose rows are what
     * backend_kv_format says.
     */
    int (*kv_store)(struct backend *backend, const struct attention_shape *shape, const float *k, const float *v,
                    size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err);

    /*
     * Causal attention: query row r stands at position past + r and sees keys 0 .. past + r (the last `window` of
     * them). q and out [rows, head_count, head_dim], possibly the same. Scores are held in pieces; all pieces that are
     * held at once have at most max_attention_size elements (tag attention), whatever `past` is. Operands and partial
     * results of a piece are tagged workspace.
     */
    int (*attention)(struct backend *backend, const struct attention_shape *shape, const float *q,
                     const void *cache_k, const void *cache_v, size_t past, size_t rows, float *out,
                     struct plim_err *err);

    /*
     * Optional (NULL: its parts one by one). Rows from position `past` on: rotates q and k by cos_sin [rows, head_dim], the
     * positions' rows of the table, stores k and v, and attends. q, k and v may be changed; out may be q.
     */
    int (*attention_step)(struct backend *backend, const struct attention_shape *shape, float *q, float *k, const float *v,
                          const float *cos_sin, void *cache_k, void *cache_v, size_t past, size_t rows, float *out,
                          struct plim_err *err);

    /* gate = act(gate) * up, n elements. */
    int (*act_mul)(struct backend *backend, enum activation activation, float *gate, const float *up, size_t n,
                   struct plim_err *err);

    /* x += y * scale, n elements. */
    int (*add)(struct backend *backend, float *x, const float *y, float scale, size_t n, struct plim_err *err);

    /* x = cap * tanh(x / cap), n elements. */
    int (*softcap)(struct backend *backend, float *x, float cap, size_t n, struct plim_err *err);

    /*
     * Optional, all four or none: steps that are recorded. step_run calls `issue` when it has to, and counts what a step
     * counts. An operation that is part of a step holds at most one temporary at a time.
     */
    int (*step_open)(struct backend *backend, struct backend_step **step, struct plim_err *err);
    void (*step_close)(struct backend *backend, struct backend_step *step);
    int (*step_run)(struct backend *backend, struct backend_step *step, const struct step_key *key, step_issue *issue,
                    void *context, struct plim_err *err);
    /*
     * What a step left at `device`, at most STEP_RESULT_BYTES, in host memory that the backend lends until its next
     * operation: a download without a copy. Waits for it.
     */
    int (*step_result)(struct backend *backend, const void *device, size_t bytes, const void **host, struct plim_err *err);

    int (*upload)(struct backend *backend, void *device, const void *host, size_t bytes, struct plim_err *err);
    int (*download)(struct backend *backend, void *host, const void *device, size_t bytes, struct plim_err *err);
};

struct backend {
    const struct backend_ops *ops;
    struct plim_pool *pool;                    /* borrowed */
    size_t place;                              /* which of the fast tier's devices is its own */
    struct threads *threads;                   /* borrowed */
    const struct plim_parameters *parameters;  /* borrowed, resolved */
    struct backend_counters counters;
    bool fixed_pieces;                         /* cut products by shapes alone: the same bits for any number of threads,
                                                  at some cost. The quantizer sets it */
    void *impl;
};

/* Opens the backend called `name` ("cpu", "cuda", "null"). */
int backend_open(struct backend *backend, const char *name, struct plim_pool *pool, struct threads *threads,
                 const struct plim_parameters *parameters, struct plim_err *err);
void backend_close(struct backend *backend);

/* The same on the place-th device that gpu_split uses, counted from 0. Selects it. */
int backend_open_at(struct backend *backend, const char *name, size_t place, struct plim_pool *pool, struct threads *threads,
                    const struct plim_parameters *parameters, struct plim_err *err);

/* From now on this backend's operations may be called, and the pool's fast tier is its device. Only where there are several. */
int backend_select(struct backend *backend, struct plim_err *err);

/* How many devices gpu_split uses: "auto": all from `device` on, so this may look for them. */
int backend_split(const char *name, const struct plim_parameters *parameters, struct plim_split *split, struct plim_err *err);

/*
 * The memory of the backend's fast tier, for plim_pool_options; false where that is RAM, or the name is unknown. Touches no
 * device: that begins with the pool's first allocation there.
 */
bool backend_memory(const char *name, const struct plim_parameters *parameters, struct plim_pool_memory *memory);
bool backend_memory_at(const char *name, size_t place, const struct plim_parameters *parameters,
                       struct plim_pool_memory *memory);

/* How a layer's keys and values are stored, as the parameter kv_cache says: one row for each position. */
enum kv_part {
    KV_KEYS,
    KV_VALUES
};
struct kv_format backend_kv_format(const struct plim_parameters *parameters, enum kv_part part, size_t kv_head_count,
                                   size_t head_dim);

/* Bytes of one position in one layer, keys and values. */
size_t backend_kv_bytes(const struct plim_parameters *parameters, size_t kv_head_count, size_t head_dim);

/* Whether a cache of that type can hold heads of this size: quantised ones need a multiple of 16. */
int backend_kv_check(const struct plim_parameters *parameters, size_t head_dim, struct plim_err *err);

/* Names that this build has, NULL-terminated. */
const char *const *backend_names(void);

/* The BLAS behind the CPU backend and the core type that it chose. */
void backend_blas_describe(char *library, size_t library_size, char *core, size_t core_size);

/* ---- prediction: what an operation allocates, from shapes alone, before anything is loaded ---- */

/* A linear layer by its shape. */
struct linear_shape {
    bool is_exl2;
    enum dtype dtype;
    size_t in_features;
    size_t out_features;          /* logical */
    size_t stored_out_features;   /* EXL2: padded to 32; dense: the same as out_features */
    size_t group_count;           /* EXL2 */
    size_t word_rows;             /* EXL2: rows of q_weight */
    size_t copied_bytes;          /* EXL2: exl2_copied_bytes, what is not used where it is mapped */
    bool has_bias;
    float prescale;
};

/* Bytes held at once by `linear` for `rows` rows: the sum of both tags is their peak. */
struct linear_scratch {
    size_t dequant_bytes;
    size_t workspace_bytes;
};

/* Bytes held at once by `attention`: the score pieces, and operands and partial results beside them. */
struct attention_scratch {
    size_t attention_bytes;       /* at most 4 * max_attention_size */
    size_t workspace_bytes;
};

/*
 * What is held in host memory for a moment while a matrix is made ready: tables (tag weights) and what is on its way to the
 * device (tag io) together, then the bias on its way (tag io).
 */
struct matrix_loading {
    size_t tables_bytes, io_bytes, bias_io_bytes;
};

struct backend_predict_ops {
    /* What `open` keeps (tag metadata), on the fast tier and, where that isn't RAM, in host memory. */
    size_t (*open_bytes)(const struct plim_parameters *parameters);
    size_t (*open_host_bytes)(const struct plim_parameters *parameters);     /* NULL: none */
    size_t (*open_staging_bytes)(const struct plim_parameters *parameters);  /* in host memory, tag io; NULL: none */
    /* Owned bytes of a ready matrix (tag weights; in host memory where that is another tier: metadata), mapped bytes. */
    size_t (*matrix_bytes)(const struct linear_shape *shape, const struct plim_parameters *parameters);
    size_t (*matrix_host_bytes)(const struct linear_shape *shape);           /* NULL: none */
    size_t (*matrix_mapped_bytes)(const struct linear_shape *shape);
    struct matrix_loading (*matrix_loading)(const struct linear_shape *shape);   /* NULL: nothing */
    struct linear_scratch (*linear_scratch)(const struct linear_shape *shape, size_t rows,
                                            const struct plim_parameters *parameters);
    /* The work of norm_linear and mlp, and the scratch of each of their matrices. NULL: the backend has neither. */
    size_t (*norm_linear_work)(const struct linear_shape *const *shapes, size_t count, size_t rows,
                               const struct plim_parameters *parameters);
    size_t (*mlp_work)(const struct linear_shape *gate, const struct linear_shape *up, const struct linear_shape *down,
                       size_t rows, const struct plim_parameters *parameters);
    struct linear_scratch (*halves_scratch)(const struct linear_shape *shape, size_t rows,
                                            const struct plim_parameters *parameters);
    struct attention_scratch (*attention_scratch)(const struct attention_shape *shape, size_t past, size_t rows,
                                                  const struct plim_parameters *parameters);
    /* Whether a session of such attention records its steps, and what an open step takes in host memory. NULL: never. */
    bool (*records_steps)(const struct attention_shape *shape, const struct plim_parameters *parameters);
    size_t (*step_host_bytes)(void);
};

/* NULL when there is no backend of that name. */
const struct backend_predict_ops *backend_predict(const char *name);

#endif
