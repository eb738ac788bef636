/* Attention and the KV cache. To come: these refuse, saying so. */

#include "cuda_internal.h"

extern "C" int cuda_kv_store(struct backend *backend, const float *k, const float *v, size_t rows, size_t width,
                             size_t first, void *cache_k, void *cache_v, struct plim_err *err)
{
    (void)backend;
    (void)k;
    (void)v;
    (void)rows;
    (void)width;
    (void)first;
    (void)cache_k;
    (void)cache_v;
    return plim_err_set(err, PLIM_ERR_INTERNAL, "the CUDA backend has no KV cache yet");
}

extern "C" int cuda_attention(struct backend *backend, const struct attention_shape *shape, const float *q,
                              const void *cache_k, const void *cache_v, size_t past, size_t rows, float *out,
                              struct plim_err *err)
{
    (void)backend;
    (void)shape;
    (void)q;
    (void)cache_k;
    (void)cache_v;
    (void)past;
    (void)rows;
    (void)out;
    return plim_err_set(err, PLIM_ERR_INTERNAL, "the CUDA backend has no attention yet");
}

extern "C" struct attention_scratch cuda_attention_scratch(const struct attention_shape *shape, size_t past,
                                                           size_t rows, const struct plim_parameters *parameters)
{
    struct attention_scratch scratch = { 0, 0 };
    (void)shape;
    (void)past;
    (void)rows;
    (void)parameters;
    return scratch;
}
