#ifndef PLIM_CPU_BACKEND_H
#define PLIM_CPU_BACKEND_H

/*
 * The CPU backend: what its files share.
 *
 *   cpu.c                          the table of operations, opening, the rule for threads
 *   norm.c rope.c elementwise.c    operations over rows: they cut the rows and call a kernel
 *   kv_cache.c                     storing keys and values
 *   embed.c attention.c
 *   linear*.c                      linear layers
 *   kernels*.c, *_simd.h           the inner loops, one set for each instruction set
 */

#include "backend.h"
#include "kernels.h"
#include "threads.h"

extern const struct backend_ops cpu_backend_ops;
extern const struct backend_predict_ops cpu_backend_predict_ops;

/* The kernels that were chosen when the backend was opened, and their instruction set. */
const struct cpu_kernels *cpu_kernels(const struct backend *backend);
enum plim_isa cpu_isa(const struct backend *backend);

/*
 * The rule for threads: work on fewer than this many elements is small and gets at most cpu_threads_small threads;
 * larger work gets the team. 64 Ki elements are some 10 us of one core, ten times what waking the team costs: the
 * operations of one decoded token are small, those of a prefill are large.
 */
#define CPU_SMALL_ELEMENTS ((size_t)1 << 16)

/* Threads that work on `elements` elements may use: a formula of the parameters, so predictions can use it too. */
size_t cpu_thread_limit(const struct plim_parameters *parameters, size_t elements);

/* threads_run under that rule: at most cpu_thread_limit(elements) pieces. */
void cpu_run(struct backend *backend, size_t elements, size_t range, size_t grain, threads_body *body, void *context);

/* ---- operations, as in backend.h ---- */

int cpu_embed(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
              size_t rows, float scale, float *out, struct plim_err *err);
int cpu_rms_norm(struct backend *backend, const float *x, const float *weight, float offset, double eps, size_t rows,
                 size_t width, float *out, struct plim_err *err);
int cpu_rope(struct backend *backend, float *x, const float *sin_cos, size_t first, size_t rows, size_t head_count,
             size_t head_dim, struct plim_err *err);
int cpu_kv_store(struct backend *backend, const struct attention_shape *shape, const float *k, const float *v,
                 size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err);
int cpu_attention(struct backend *backend, const struct attention_shape *shape, const float *q,
                  const void *cache_k, const void *cache_v, size_t past, size_t rows, float *out,
                  struct plim_err *err);
int cpu_act_mul(struct backend *backend, enum activation activation, float *gate, const float *up, size_t n,
                struct plim_err *err);
int cpu_add(struct backend *backend, float *x, const float *y, float scale, size_t n, struct plim_err *err);
int cpu_softcap(struct backend *backend, float *x, float cap, size_t n, struct plim_err *err);

struct attention_scratch cpu_attention_scratch(const struct attention_shape *shape, size_t past, size_t rows,
                                               const struct plim_parameters *parameters);

#endif
