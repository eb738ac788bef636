/* The list of backends. Each is one `struct backend_ops` and one `struct backend_predict_ops`. */

#include "backend.h"

#include <string.h>

#include "cpu/blas.h"
#include "cpu/cpu.h"
#include "cpu/quantize_cpu.h"
#ifdef PLIMSOLL_HAVE_CUDA
#include "cuda/cuda_internal.h"
#include "cuda/quantize_cuda.h"
#endif
#include "null/null.h"

struct backend_entry {
    const char *name;
    const struct backend_ops *ops;
    const struct backend_predict_ops *predict;
    const struct quantize_ops *quantize;   /* NULL: the backend has no quantizer */
};

static const struct backend_entry entries[] = {
    { "cpu", &cpu_backend_ops, &cpu_backend_predict_ops, &cpu_quantize_ops },
#ifdef PLIMSOLL_HAVE_CUDA
    { "cuda", &cuda_backend_ops, &cuda_backend_predict_ops, &cuda_quantize_ops },
#endif
    { "null", &null_backend_ops, &null_backend_predict_ops, NULL },
};

#define ENTRY_COUNT (sizeof entries / sizeof entries[0])

#ifdef PLIMSOLL_HAVE_CUDA
#define BACKEND_LIST "cpu, cuda, null"
static const char *const names[ENTRY_COUNT + 1] = { "cpu", "cuda", "null", NULL };
#else
#define BACKEND_LIST "cpu, null"
static const char *const names[ENTRY_COUNT + 1] = { "cpu", "null", NULL };
#endif

static const struct backend_entry *entry_find(const char *name)
{
    for (size_t i = 0; i < ENTRY_COUNT; i++)
        if (strcmp(entries[i].name, name) == 0)
            return &entries[i];
    return NULL;
}

const char *const *backend_names(void)
{
    return names;
}

const struct backend_predict_ops *backend_predict(const char *name)
{
    const struct backend_entry *entry = entry_find(name);
    return entry ? entry->predict : NULL;
}

const struct quantize_ops *backend_quantize_ops(const char *name)
{
    const struct backend_entry *entry = entry_find(name);
    return entry ? entry->quantize : NULL;
}

bool backend_memory_at(const char *name, size_t place, const struct plim_parameters *parameters,
                       struct plim_pool_memory *memory)
{
#ifdef PLIMSOLL_HAVE_CUDA
    if (strcmp(name, "cuda") == 0) {
        cuda_memory(cuda_device_at(parameters, place), memory);
        return true;
    }
#endif
    (void)name;
    (void)place;
    (void)parameters;
    (void)memory;
    return false;
}

bool backend_memory(const char *name, const struct plim_parameters *parameters, struct plim_pool_memory *memory)
{
    return backend_memory_at(name, 0, parameters, memory);
}

int backend_split(const char *name, const struct plim_parameters *parameters, struct plim_split *split, struct plim_err *err)
{
    if (plim_split_parse(parameters->text[PLIM_GPU_SPLIT], split, err) < 0)
        return -1;
    if (!split->automatic)
        return 0;
    split->count = 1;
#ifdef PLIMSOLL_HAVE_CUDA
    if (strcmp(name, "cuda") == 0)
        return cuda_device_count(parameters, &split->count, err);
#endif
    (void)name;
    return 0;
}

int backend_select(struct backend *backend, struct plim_err *err)
{
    plim_pool_set_place(backend->pool, backend->place);
    return backend->ops->select ? backend->ops->select(backend, err) : 0;
}

int backend_open(struct backend *backend, const char *name, struct plim_pool *pool, struct threads *threads,
                 const struct plim_parameters *parameters, struct plim_err *err)
{
    return backend_open_at(backend, name, 0, pool, threads, parameters, err);
}

int backend_open_at(struct backend *backend, const char *name, size_t place, struct plim_pool *pool, struct threads *threads,
                    const struct plim_parameters *parameters, struct plim_err *err)
{
    const struct backend_entry *entry = entry_find(name);
    const char *reason = strcmp(name, "cuda") == 0 ? "this build has no CUDA backend" : "unknown name";

    *backend = (struct backend){ .pool = pool, .place = place, .threads = threads, .parameters = parameters };
    if (!entry)
        return plim_err_input(err, "backend \"%s\": %s; this build has " BACKEND_LIST, name, reason);
    if (place > 0)
        plim_pool_set_place(pool, place);
    if (entry->ops->open(backend, err) < 0)
        return plim_err_wrap(err, "opening the %s backend", name);
    backend->ops = entry->ops;
    return 0;
}

void backend_close(struct backend *backend)
{
    if (backend->ops)
        backend->ops->close(backend);
    *backend = (struct backend){ 0 };
}

void backend_blas_describe(char *library, size_t library_size, char *core, size_t core_size)
{
    blas_describe(library, library_size, core, core_size);
}

/* q6 is keys of 8 and values of 4 bits, as in ExLlamaV2: keys are what a coarse cache suffers from. */
struct kv_format backend_kv_format(const struct plim_parameters *parameters, enum kv_part part, size_t kv_head_count,
                                   size_t head_dim)
{
    static const enum kv_element elements[][2] = {
        [PLIM_KV_FP16] = { KV_F16, KV_F16 }, [PLIM_KV_FP32] = { KV_F32, KV_F32 }, [PLIM_KV_Q8] = { KV_Q8, KV_Q8 },
        [PLIM_KV_Q6] = { KV_Q8, KV_Q4 },     [PLIM_KV_Q4] = { KV_Q4, KV_Q4 },
    };
    return kv_format_make(elements[parameters->count[PLIM_KV_CACHE]][part], head_dim, kv_head_count * head_dim);
}

size_t backend_kv_bytes(const struct plim_parameters *parameters, size_t kv_head_count, size_t head_dim)
{
    return backend_kv_format(parameters, KV_KEYS, kv_head_count, head_dim).row_bytes +
           backend_kv_format(parameters, KV_VALUES, kv_head_count, head_dim).row_bytes;
}

int backend_kv_check(const struct plim_parameters *parameters, size_t head_dim, struct plim_err *err)
{
    char type[16];

    if (!kv_is_quantised(backend_kv_format(parameters, KV_KEYS, 1, head_dim).element) || kv_chunk(head_dim) != 0)
        return 0;
    return plim_err_input(err, "kv_cache %s: heads of %zu elements; a quantised cache needs a multiple of 16",
                          plim_parameters_format(parameters, PLIM_KV_CACHE, type, sizeof type), head_dim);
}
