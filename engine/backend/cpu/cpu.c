/* The CPU backend's table, and the rule for threads. */

#include "cpu.h"

#include <string.h>

#include "linear.h"
#include "plimsoll/units.h"

/* A backend is nothing but its choice of kernels: `impl` is the table, and there is no memory to hold. */
static int cpu_open(struct backend *backend, struct plim_err *err)
{
    enum plim_isa isa;

    if (plim_isa_select(&isa, err) < 0)
        return -1;
    backend->impl = (void *)(uintptr_t)cpu_kernels_for(isa);
    return 0;
}

static void cpu_close(struct backend *backend)
{
    backend->impl = NULL;
}

const struct cpu_kernels *cpu_kernels(const struct backend *backend)
{
    return backend->impl;
}

enum plim_isa cpu_isa(const struct backend *backend)
{
    return cpu_kernels(backend)->isa;
}

const struct cpu_kernels *cpu_kernels_for(enum plim_isa isa)
{
#if defined(__x86_64__)
    if (isa == PLIM_ISA_AVX512)
        return &cpu_kernels_avx512;
    if (isa == PLIM_ISA_AVX2)
        return &cpu_kernels_avx2;
#endif
    (void)isa;
    return &cpu_kernels_portable;
}

size_t cpu_thread_limit(const struct plim_parameters *parameters, size_t elements)
{
    int64_t team = parameters->count[PLIM_CPU_THREADS], small = parameters->count[PLIM_CPU_THREADS_SMALL];
    int64_t limit = elements < CPU_SMALL_ELEMENTS && small < team ? small : team;
    return limit > 1 ? (size_t)limit : 1;
}

void cpu_run(struct backend *backend, size_t elements, size_t range, size_t grain, threads_body *body, void *context)
{
    size_t limit = cpu_thread_limit(backend->parameters, elements);

    if (range == 0)
        return;
    if (limit == 1) {
        body(context, 0, range, 0);
        return;
    }
    /* A team larger than the limit is held to it by a coarser grain. */
    if (limit < (size_t)threads_count(backend->threads))
        grain *= plim_ceil_div(plim_ceil_div(range, grain), limit);
    threads_run(backend->threads, range, grain, body, context);
}

static int cpu_upload(struct backend *backend, void *device, const void *host, size_t bytes, struct plim_err *err)
{
    (void)backend;
    (void)err;
    memcpy(device, host, bytes);
    return 0;
}

static int cpu_download(struct backend *backend, void *host, const void *device, size_t bytes, struct plim_err *err)
{
    (void)backend;
    (void)err;
    memcpy(host, device, bytes);
    return 0;
}

static size_t cpu_open_bytes(const struct plim_parameters *parameters)
{
    (void)parameters;
    return 0;
}

const struct backend_ops cpu_backend_ops = {
    .name = "cpu",
    .unified_memory = true,
    .open = cpu_open,
    .close = cpu_close,
    .matrix_init = cpu_matrix_init,
    .matrix_release = cpu_matrix_release,
    .linear = cpu_linear,
    .embed = cpu_embed,
    .rms_norm = cpu_rms_norm,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .attention = cpu_attention,
    .act_mul = cpu_act_mul,
    .add = cpu_add,
    .softcap = cpu_softcap,
    .upload = cpu_upload,
    .download = cpu_download,
};

const struct backend_predict_ops cpu_backend_predict_ops = {
    .open_bytes = cpu_open_bytes,
    .matrix_bytes = cpu_matrix_bytes,
    .matrix_mapped_bytes = cpu_matrix_mapped_bytes,
    .linear_scratch = cpu_linear_scratch,
    .attention_scratch = cpu_attention_scratch,
};
