/* Keys and values into the cache, in its format. */

#include "attention_device.cuh"

#define THREADS 128

/* A block for each row of keys (y = 0) and of values (y = 1); a lane takes four elements at a time. */
static __global__ void __launch_bounds__(THREADS) kv_store(kv_store_args args)
{
    const bool is_key = blockIdx.y == 0;
    const int row = blockIdx.x, lane = threadIdx.x % 32;
    const kv_format &format = is_key ? args.key_format : args.value_format;
    const float *from = (is_key ? args.k : args.v) + (size_t)row * (size_t)args.width;

#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
#endif
    const int first = args.first_at ? (int)*args.first_at : args.first;
    uint8_t *to = (is_key ? args.keys : args.values) + (size_t)(first + row) * format.row_bytes;
    const int whole = args.width % 4 == 0 ? args.width : 0;

    for (int base = 0; base < whole; base += 4 * THREADS) {
        int i = base + 4 * (int)threadIdx.x;
        bool active = i < whole;
        int at = active ? i : 0, head = at / args.head_dim * args.head_dim;
        quad x = is_key && args.cos_sin
                     ? quad_rope(from + head, args.cos_sin + (size_t)row * (size_t)args.head_dim, at - head, args.head_dim)
                     : quad_load(from + at);
        quad_encode(x, to, format, at, lane, active);
    }
    /* Widths that four doesn't divide are never quantised. */
    for (int i = whole + (int)threadIdx.x; i < args.width; i += THREADS) {
        if (format.element == KV_F16)
            ((__half *)to)[i] = __float2half_rn(half_range(from[i]));
        else
            ((float *)to)[i] = from[i];
    }
}

cudaError_t kv_store_launch(const kv_store_args *args, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute[1];

    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((unsigned)args->rows, 2);
    config.blockDim = dim3(THREADS);
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = args->dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, kv_store, *args);
}
