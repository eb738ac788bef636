/* The CPU backend's table, and the rule for threads. */

#include "cpu.h"

#include <string.h>

#include "linear.h"

static int cpu_open(struct backend *backend, struct plim_err *err)
{
    struct cpu_backend *cpu;
    enum plim_isa isa;

    if (plim_isa_select(&isa, err) < 0)
        return -1;
    cpu = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_METADATA, sizeof *cpu, err);
    if (!cpu)
        return -1;
    *cpu = (struct cpu_backend){ .isa = isa, .kernels = cpu_kernels_for(isa) };
    backend->impl = cpu;
    return 0;
}

static void cpu_close(struct backend *backend)
{
    plim_pool_free(backend->pool, backend->impl);
    backend->impl = NULL;
}

const struct cpu_kernels *cpu_kernels(const struct backend *backend)
{
    return ((const struct cpu_backend *)backend->impl)->kernels;
}

enum plim_isa cpu_isa(const struct backend *backend)
{
    return ((const struct cpu_backend *)backend->impl)->isa;
}

const struct cpu_kernels *cpu_kernels_for(enum plim_isa isa)
{
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
    size_t grains = (range + grain - 1) / grain;

    if (range == 0)
        return;
    if (limit == 1) {
        body(context, 0, range, 0);
        return;
    }
    /* A team larger than the limit is held to it by a coarser grain. */
    if (limit < (size_t)threads_count(backend->threads))
        grain *= (grains + limit - 1) / limit;
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
    return sizeof(struct cpu_backend);
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
