#ifndef PLIM_CUDA_INTERNAL_H
#define PLIM_CUDA_INTERNAL_H

/*
 * The CUDA backend: what its files share. C and C++ alike (nvcc compiles .cu files as C++).
 *
 *   cuda.c             the table of operations, opening and closing
 *   cuda_check.c       errors with context
 *   cuda_memory.c      device memory for the pool's fast tier
 *   cuda_libraries.c   cuBLAS, loaded when it is first needed
 *   transfer.c         copies between host and device, through pinned staging
 *   cuda_kernels.cuh   what kernels share: launching, reductions, the step in device memory
 *   linear*.cu attention*.cu kv*.cu norm.cu rope.cu elementwise.cu embed.cu   operations
 *
 * Rules for every operation: work goes to cuda->stream in order and nothing waits for it but `download`; memory comes from
 * the pool (device: PLIM_FAST, host: PLIM_HOST), so freeing a block that kernels still use is fine as long as the next
 * owner's work is on the same stream; work on cuda->side is joined to cuda->stream before its blocks are freed.
 *
 * An operation that may be part of the decode step's graph (every one, with one row) makes no call that a capture forbids:
 * no synchronisation, no memory from the driver, and nothing passed by value that changes from step to step. The position
 * is the only such thing: see struct cuda_step.
 */

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend.h"
#include "quantize_ops.h"

struct cuda_blas;

/*
 * What changes from one decoded token to the next, in device memory, so that a captured graph can be launched again. While
 * cuda->in_step is set, kernels take the position from here: cuda_step(cuda) is passed to them, and their `first` or
 * `past` by value is ignored (cuda_position in cuda_kernels.cuh). Outside, cuda_step returns NULL and they use the value.
 */
struct cuda_step {
    uint32_t past;             /* tokens in the cache before this one: its position */
    uint32_t reserved[15];
};

/*
 * Pinned memory through which everything passes between host and device: a ring of pieces, allocated from the pool (host,
 * tag io) and pinned once. 4 pieces of 4 MiB keep the bus busy while threads fill the next, and are small beside any model.
 */
#define CUDA_STAGING_PIECES 4
#define CUDA_PIECE_BYTES    ((size_t)4 << 20)
#define CUDA_STAGING_BYTES  (CUDA_STAGING_PIECES * CUDA_PIECE_BYTES)

struct cuda_staging {
    char *memory;              /* CUDA_STAGING_BYTES */
    char *device;              /* the same memory as the device addresses it */
    bool pinned;
    size_t next;
    cudaEvent_t done[CUDA_STAGING_PIECES];   /* the device is done with the piece's last contents */
};

/* A piece that was taken: the host fills it (or has it filled), work on cuda->stream uses it, then it is marked used. */
struct cuda_piece {
    size_t index;
    char *host, *device;
};

struct cuda {
    int device;
    char name[128];            /* "NVIDIA H100 80GB HBM3" */
    int compute_capability;    /* 90 for 9.0 */
    int multiprocessors;
    size_t l2_bytes;
    size_t shared_bytes;       /* that one block may have, opted in */
    cudaStream_t stream;       /* operations, in order */
    cudaStream_t side;         /* what overlaps with it: copies, expansions */
    cudaEvent_t fork, join;    /* to order the two: record on one stream, wait on the other; timing is off */
    bool overlap_launches;     /* programmatic dependent launch is there (compute capability 9.0) */

    bool in_step;              /* a decode step is being recorded, or run in its form */
    bool recording;            /* it is being recorded */
    struct cuda_step *step;    /* device, tag metadata */
    void *scratch;             /* while recording: the block that every operation's scratch is, and its size; while run */
    size_t scratch_bytes;      /* in its form: the most that one took */

    uint32_t *linear_counters; /* device, tag metadata; zeros between kernels: linear_kernels.h */

    struct cuda_staging staging;
    struct cuda_blas *blas;    /* its library is loaded when first needed: cuda_libraries.h */
};

static inline struct cuda *cuda_of(const struct backend *backend)
{
    return (struct cuda *)backend->impl;
}

/* NULL outside a decode step: then positions go by value. */
static inline const struct cuda_step *cuda_step(const struct cuda *cuda)
{
    return cuda->in_step ? cuda->step : NULL;
}

/* ---- checked calls ---- */

/*
 * 0, or -1 with `err` set: "what: CUDA's own words (its name for it), device 0". Kind memory when CUDA says that memory is
 * out, else system. `what` names the call and its purpose: "cudaMemcpyAsync of a cached row".
 */
int cuda_check(cudaError_t status, const char *what, struct plim_err *err);

/* After <<<>>>: what launching `kernel` said. */
int cuda_launch_check(const char *kernel, struct plim_err *err);

/* As a statement that fails the function it stands in; for functions with nothing to undo. */
#define CUDA_TRY(call, err)                                                                                            \
    do {                                                                                                               \
        if (cuda_check((call), #call, (err)) < 0)                                                                      \
            return -1;                                                                                                 \
    } while (0)

/*
 * Whether `device` can be used, or in one line why not: no driver, a driver older than this build's runtime, no such
 * device. Creates no context.
 */
int cuda_device_check(int device, struct plim_err *err);

/*
 * The device that a backend of this place uses: `device` and those after it. PLIMSOLL_SPLIT_DEVICES (tests) lists others, so
 * that one device can stand for several: "0,0".
 */
int cuda_device_at(const struct plim_parameters *parameters, size_t place);

/* How many there are from `device` on. */
int cuda_device_count(const struct plim_parameters *parameters, size_t *count, struct plim_err *err);

/* The same, and makes it the calling thread's. */
int cuda_device_select(int device, struct plim_err *err);

/* The fast tier's memory on `device`, for the pool. Touches no device before the pool's first allocation there. */
void cuda_memory(int device, struct plim_pool_memory *out);

/* ---- steps (step.cu) ---- */

/*
 * The temporary of an operation that may be part of a step: memory from the pool, or, while a step is recorded, a block
 * that stays where it is. One at a time. NULL with `err` set when there is none; giving back NULL is allowed.
 */
void *cuda_scratch_take(struct backend *backend, enum plim_tag tag, size_t bytes, struct plim_err *err);
void cuda_scratch_give(struct backend *backend, void *block);

int cuda_step_open(struct backend *backend, struct backend_step **step, struct plim_err *err);
void cuda_step_close(struct backend *backend, struct backend_step *step);
int cuda_step_run(struct backend *backend, struct backend_step *step, const struct step_key *key, step_issue *issue,
                  void *context, struct plim_err *err);
int cuda_step_result(struct backend *backend, const void *device, size_t bytes, const void **host, struct plim_err *err);
size_t cuda_step_host_bytes(void);

/* ---- operations, as in backend.h; each is replaced in its own file ---- */

extern const struct backend_ops cuda_backend_ops;
extern const struct backend_predict_ops cuda_backend_predict_ops;

/* linear*.c, linear*.cu */
int cuda_linear_open(struct backend *backend, struct plim_err *err);
void cuda_linear_close(struct backend *backend);
size_t cuda_linear_open_bytes(void);
int cuda_matrix_init(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                     struct plim_err *err);
void cuda_matrix_release(struct backend *backend, struct matrix *matrix);
int cuda_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                bool accumulate, struct plim_err *err);
int cuda_linear_many(struct backend *backend, const struct matrix *const *matrices, size_t count, const float *x,
                     size_t rows, float *const *y, struct plim_err *err);
int cuda_linear_gated(struct backend *backend, enum activation activation, const struct matrix *gate,
                      const struct matrix *up, const float *x, float *y, struct plim_err *err);
size_t cuda_matrix_bytes(const struct linear_shape *shape, const struct plim_parameters *parameters);
size_t cuda_matrix_host_bytes(const struct linear_shape *shape);
struct matrix_loading cuda_matrix_loading(const struct linear_shape *shape);
size_t cuda_matrix_mapped_bytes(const struct linear_shape *shape);
struct linear_scratch cuda_linear_scratch(const struct linear_shape *shape, size_t rows,
                                          const struct plim_parameters *parameters);
struct linear_scratch cuda_halves_scratch(const struct linear_shape *shape, size_t rows,
                                          const struct plim_parameters *parameters);

/* halves.c */
size_t cuda_norm_linear_work(const struct backend *backend, const struct matrix *const *matrices, size_t count, size_t rows);
int cuda_norm_linear(struct backend *backend, const struct norm *norm, const struct matrix *const *matrices, size_t count,
                     const float *x, size_t rows, void *work, float *const *y, bool accumulate, struct plim_err *err);
size_t cuda_mlp_work(const struct backend *backend, const struct mlp *mlp, size_t rows);
int cuda_mlp(struct backend *backend, const struct norm *norm, const struct mlp *mlp, const float *x, size_t rows, void *work,
             float *out, bool accumulate, struct plim_err *err);
size_t cuda_norm_linear_planned(const struct linear_shape *const *shapes, size_t count, size_t rows,
                                const struct plim_parameters *parameters);
size_t cuda_mlp_planned(const struct linear_shape *gate, const struct linear_shape *up, const struct linear_shape *down,
                        size_t rows, const struct plim_parameters *parameters);

/* attention*.cu, kv*.cu */
int cuda_kv_store(struct backend *backend, const struct attention_shape *shape, const float *k, const float *v,
                  size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err);
int cuda_attention(struct backend *backend, const struct attention_shape *shape, const float *q, const void *cache_k,
                   const void *cache_v, size_t past, size_t rows, float *out, struct plim_err *err);
int cuda_attention_step(struct backend *backend, const struct attention_shape *shape, float *q, float *k, const float *v,
                        const float *cos_sin, void *cache_k, void *cache_v, size_t past, size_t rows, float *out,
                        struct plim_err *err);
bool cuda_records_steps(const struct attention_shape *shape, const struct plim_parameters *parameters);
struct attention_scratch cuda_attention_scratch(const struct attention_shape *shape, size_t past, size_t rows,
                                                const struct plim_parameters *parameters);

/* norm.cu, rope.cu, elementwise.cu, embed.cu */
int cuda_embed(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
               size_t rows, float scale, float *out, struct plim_err *err);
int cuda_rms_norm(struct backend *backend, const float *x, const float *weight, float offset, double eps, size_t rows,
                  size_t width, float *out, struct plim_err *err);
int cuda_rope(struct backend *backend, float *x, const float *sin_cos, size_t first, size_t rows, size_t head_count,
              size_t head_dim, struct plim_err *err);
int cuda_rope_table(struct backend *backend, const double *inv_freq, double factor, size_t first, size_t rows,
                    size_t head_dim, float *table, struct plim_err *err);
int cuda_act_mul(struct backend *backend, enum activation activation, float *gate, const float *up, size_t n,
                 struct plim_err *err);
int cuda_add(struct backend *backend, float *x, const float *y, float scale, size_t n, struct plim_err *err);
int cuda_softcap(struct backend *backend, float *x, float cap, size_t n, struct plim_err *err);

/* transfer.c: `upload` may return before the copy is done, but not before `host` has been read. */
int cuda_receive(struct backend *backend, void *to, struct backend *from, const void *what, size_t bytes, struct plim_err *err);
int cuda_upload(struct backend *backend, void *device, const void *host, size_t bytes, struct plim_err *err);
/* step.cu: the same for a multiple of 4 bytes, at most so many, in one launch. */
#define CUDA_SMALL_UPLOAD_BYTES ((size_t)1024)
int cuda_upload_small(struct cuda *cuda, void *device, const void *host, size_t bytes, struct plim_err *err);
int cuda_download(struct backend *backend, void *host, const void *device, size_t bytes, struct plim_err *err);

int cuda_staging_open(struct backend *backend, struct plim_err *err);
void cuda_staging_close(struct backend *backend);

/* The next piece of the ring, once the device is done with what was in it; at most CUDA_PIECE_BYTES. */
int cuda_staging_take(struct cuda *cuda, struct cuda_piece *piece, struct plim_err *err);

/* Says that everything that uses the piece has been put on cuda->stream. */
int cuda_staging_used(struct cuda *cuda, const struct cuda_piece *piece, struct plim_err *err);

/* out = staged * scale: n elements of an embedding's type in memory that the device can read (staging), widened. */
int cuda_widen(struct cuda *cuda, enum dtype dtype, const void *staged, float scale, size_t n, float *out,
               struct plim_err *err);

#ifdef __cplusplus
}
#endif

#endif
