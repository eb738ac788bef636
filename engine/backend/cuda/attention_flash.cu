/*
 * Attention of many query vectors (prompts): bound by the tensor cores.
 *
 * FlashAttention's scheme (Dao, "FlashAttention-2", 2023): a block of four warps takes a tile of query vectors of one
 * key/value head, and walks the keys 64 at a time through shared memory; a warp owns 16 MT of the vectors whole, so
 * maxima and sums never leave a quad of lanes, and its weights P are, as they stand in the accumulators of S = Q K^T,
 * the A operand of O += P V. Keys of the next step are copied while P V runs, values while Q K^T runs.
 *
 * fp16 caches are copied asynchronously. So are the codes of quantised ones, a step ahead, to a place of their own; when a
 * step begins they are widened from there, still rotated (kv_format.h).
 *
 * Few tiles and many keys: several blocks share a tile, and a second kernel adds up what they leave.
 */

#include "attention_device.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define STEP_KEYS 64
#define MOST_SPLITS 32   /* a lane for each when they are added up */

/* Rows of shared memory are DIM + 8 halves: eight rows then lie in different banks for every DIM here. */
template <int DIM, int MT, bool QUANTISED> struct flash_shape {
    static const int VECTORS = WARPS * 16 * MT;         /* MT tiles of 16 vectors a warp */
    static const int STRIDE = DIM + 8;
    static const size_t CODES = QUANTISED ? STEP_KEYS * DIM : 0;             /* bytes of a step's keys, or values, at most */
    static const size_t SCALES = QUANTISED ? STEP_KEYS * (DIM / 32) * 2 : 0;
    static const size_t BYTES = (size_t)(VECTORS + 2 * STEP_KEYS) * STRIDE * sizeof(__half) + 2 * (CODES + SCALES);
};

/* ---- fp16 rows ---- */

/* Rows key .. key + 63 of one head to shared memory, rows from `end` on as zeros. */
template <int DIM>
static __device__ __forceinline__ void load_rows(const uint8_t *cache, const kv_format &format, int head, int key, int end,
                                                 __half *to)
{
    const int pieces = DIM / 8, total = STEP_KEYS * pieces;
#pragma unroll
    for (int base = 0; base < total; base += THREADS) {
        int index = base + (int)threadIdx.x, row = index / pieces, i = index % pieces * 8;
        bool valid = key + row < end;
        const uint8_t *from = cache + (size_t)(valid ? key + row : 0) * format.row_bytes;
        copy_async(to + row * (DIM + 8) + i, from + 2 * (size_t)(head * DIM + i), valid);
    }
    copy_commit();
}

/* ---- quantised rows ---- */

template <int BYTES> static __device__ __forceinline__ void copy_async_small(void *shared, const void *global, bool valid)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? BYTES : 0;
    if (BYTES == 16)
        copy_async(shared, global, valid);
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(bytes) : "memory");
}

/* Codes and scales of rows key .. key + 63 of one head, as they are; rows from `end` on as scales of zero. */
template <int DIM>
static __device__ __forceinline__ void load_codes(const uint8_t *cache, const kv_format &format, int head, int key, int end,
                                                  uint8_t *codes, uint8_t *scales)
{
    const int scale_bytes = DIM / 32 * 2;
    const int row_bytes = format.element == KV_Q8 ? DIM : DIM / 2, pieces = row_bytes / 16, total = STEP_KEYS * pieces;
#pragma unroll 4
    for (int index = threadIdx.x; index < total; index += THREADS) {
        int row = index / pieces, i = index % pieces * 16;
        bool valid = key + row < end;
        const uint8_t *from = cache + (size_t)(valid ? key + row : 0) * format.row_bytes;
        copy_async(codes + row * row_bytes + i, from + head * row_bytes + i, valid);
    }
    if (threadIdx.x < STEP_KEYS) {
        bool valid = key + (int)threadIdx.x < end;
        const uint8_t *from = cache + (size_t)(valid ? key + (int)threadIdx.x : 0) * format.row_bytes + format.scale_offset;
        copy_async_small<scale_bytes>(scales + threadIdx.x * scale_bytes, from + head * scale_bytes, valid);
    }
}

/* Codes in shared memory to rows of halves there. */
template <int DIM>
static __device__ __forceinline__ void widen_rows(kv_element element, const uint8_t *codes, const uint8_t *scales, __half *to)
{
    const int pieces = DIM / 8, total = STEP_KEYS * pieces;
#pragma unroll
    for (int base = 0; base < total; base += THREADS) {
        int index = base + (int)threadIdx.x, row = index / pieces, i = index % pieces * 8;
        __half2 scale = __half2half2(((const __half *)scales)[row * (DIM / 32) + i / 32]), pair[4];
        if (element == KV_Q8) {
            uint2 eight = *(const uint2 *)(codes + index * 8);
            __half2 zero = __half2half2(__ushort_as_half(0x6480));   /* 1024 + 128 */
#pragma unroll
            for (int p = 0; p < 4; p++) {
                uint32_t x = __byte_perm(p < 2 ? eight.x : eight.y, 0x64646464, p % 2 ? 0x4342 : 0x4140);
                pair[p] = __hmul2(__hsub2(*(__half2 *)&x, zero), scale);
            }
        } else {
            uint32_t eight = *(const uint32_t *)(codes + index * 4);
            __half2 zero = __half2half2(__ushort_as_half(0x6408));   /* 1024 + 8 */
#pragma unroll
            for (int p = 0; p < 4; p++) {
                uint32_t two = eight >> (8 * p), x = (two & 0x0f) | (two & 0xf0) << 12 | 0x64006400;
                pair[p] = __hmul2(__hsub2(*(__half2 *)&x, zero), scale);
            }
        }
        *(uint4 *)(to + row * (DIM + 8) + i) = make_uint4(*(uint32_t *)&pair[0], *(uint32_t *)&pair[1],
                                                          *(uint32_t *)&pair[2], *(uint32_t *)&pair[3]);
    }
}

/* ---- a tile ---- */

template <int DIM, int MT, bool QUANTISED>
static __device__ __forceinline__ void load_queries(const attention_args &args, int head, int first, int vectors,
                                                    __half *to)
{
    const int quads = DIM / 4, total = WARPS * 16 * MT * quads, lane = threadIdx.x % 32;
    /* Unrolled, so that eight rows are under way at once: one by one they would take 18 us for 128 vectors. */
#pragma unroll 8
    for (int base = 0; base < total; base += THREADS) {
        int index = base + (int)threadIdx.x, v = index / quads, i = index % quads * 4;
        quad q = { { 0, 0, 0, 0 } };
        if (first + v < vectors) {
            const float *from = args.q + vector_offset(args, head, first + v);
            q = args.cos_sin ? quad_rope(from, args.cos_sin + (size_t)((first + v) / args.group) * DIM, i, DIM)
                             : quad_load(from + i);
        }
        if (QUANTISED)
            q = quad_rotate(q, lane, (int)args.key_format.chunk);
        uint2 halves = make_uint2(pack_halves(half_range(q.x[0]), half_range(q.x[1])),
                                  pack_halves(half_range(q.x[2]), half_range(q.x[3])));
        *(uint2 *)(to + v * (DIM + 8) + i) = halves;
    }
}

template <int DIM, int MT, bool QUANTISED>
__global__ void __launch_bounds__(THREADS, DIM > 128 ? 1 : 2) attention_flash(attention_args args)
{
    typedef flash_shape<DIM, MT, QUANTISED> shape;
    constexpr int STRIDE = shape::STRIDE, TILES = STEP_KEYS / 8;
    extern __shared__ __align__(16) uint8_t shared[];
    __half *queries = (__half *)shared, *keys = queries + shape::VECTORS * STRIDE, *values = keys + STEP_KEYS * STRIDE;
    uint8_t *key_codes = (uint8_t *)(values + STEP_KEYS * STRIDE), *value_codes = key_codes + shape::CODES;
    uint8_t *key_scales = value_codes + shape::CODES, *value_scales = key_scales + shape::SCALES;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    /* Late tiles see the most keys: they go first. */
    const int head = blockIdx.x / args.splits, split = blockIdx.x % args.splits;
    const int tile = gridDim.y - 1 - blockIdx.y, first = tile * shape::VECTORS;
    const int vectors = args.rows * args.group;
    const int past = args.past;

    const int last = min(first + shape::VECTORS, vectors) - 1;
    const int first_position = past + first / args.group, end = past + last / args.group + 1;
    const int begin = args.window && first_position + 1 > args.window ? first_position + 1 - args.window : 0;
    const int first_step = begin / STEP_KEYS, steps = (end + STEP_KEYS - 1) / STEP_KEYS - first_step;
    const int from = first_step + (int)((long long)steps * split / args.splits);
    const int to = first_step + (int)((long long)steps * (split + 1) / args.splits);

    auto load_step_codes = [&](int step) {
        load_codes<DIM>(args.keys, args.key_format, head, step * STEP_KEYS, end, key_codes, key_scales);
        load_codes<DIM>(args.values, args.value_format, head, step * STEP_KEYS, end, value_codes, value_scales);
        copy_commit();
    };
    if (from < to) {
        if constexpr (QUANTISED)
            load_step_codes(from);
        else
            load_rows<DIM>(args.keys, args.key_format, head, from * STEP_KEYS, end, keys);
    }
    load_queries<DIM, MT, QUANTISED>(args, head, first, vectors, queries);

    const bool capped = args.softcap > 0;
    const float scale = capped ? LOG2_E : args.scale * LOG2_E;   /* what a stored score is multiplied by */
    float o[MT][DIM / 8][4], highest[MT][2], sum[MT][2];
    int position[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int f = first + warp * 16 * MT + m * 16 + g + 8 * h;
            position[m][h] = past + min(f, vectors - 1) / args.group;
            highest[m][h] = -INFINITY;
            sum[m][h] = 0;
        }
    }

    const __half *query_row = queries + (warp * 16 * MT + lane % 8 + lane / 8 % 2 * 8) * STRIDE + lane / 16 * 8;
    const __half *key_row = keys + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 8;
    const __half *value_row = values + (lane % 8 + lane / 8 % 2 * 8) * STRIDE + lane / 16 * 8;

    for (int step = from; step < to; step++) {
        const int key = step * STEP_KEYS;
        copy_wait<0>();
        __syncthreads();   /* keys (or all codes) are here, and nobody reads the old values any more */
        if constexpr (QUANTISED) {
            widen_rows<DIM>(args.key_format.element, key_codes, key_scales, keys);
            widen_rows<DIM>(args.value_format.element, value_codes, value_scales, values);
            __syncthreads();   /* both are wide, and nobody reads the codes any more */
            if (step + 1 < to)
                load_step_codes(step + 1);
        } else {
            load_rows<DIM>(args.values, args.value_format, head, key, end, values);
        }

        float s[MT][TILES][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < TILES; n++)
                s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
                load_matrices(a[m], query_row + m * 16 * STRIDE + k * 16);
#pragma unroll
            for (int n = 0; n < TILES / 2; n++) {
                uint32_t b[4];
                load_matrices(b, key_row + n * 16 * STRIDE + k * 16);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma_16816(s[m][2 * n], a[m], b[0], b[1]);
                    mma_16816(s[m][2 * n + 1], a[m], b[2], b[3]);
                }
            }
        }
        if constexpr (!QUANTISED) {
            copy_wait<0>();
            __syncthreads();   /* values are here, and nobody reads the keys any more */
            if (step + 1 < to)
                load_rows<DIM>(args.keys, args.key_format, head, key + STEP_KEYS, end, keys);
        }

        if (capped) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < TILES; n++)
#pragma unroll
                    for (int c = 0; c < 4; c++)
                        s[m][n][c] = softcap_score(s[m][n][c] * args.scale, args.softcap);
        }
        /* Some vector doesn't see some key of this step. */
        if (key + STEP_KEYS > first_position + 1 || (args.window && key < end - args.window)) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < TILES; n++)
#pragma unroll
                    for (int c = 0; c < 4; c++) {
                        int at = key + n * 8 + 2 * t + c % 2, stand = position[m][c / 2];
                        if (at > stand || (args.window && at <= stand - args.window))
                            s[m][n][c] = -INFINITY;
                    }
        }

#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float most = highest[m][h];
#pragma unroll
                for (int n = 0; n < TILES; n++)
                    most = fmaxf(most, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
                float shift = most == -INFINITY ? 0.0f : most * scale;
                float rescale = exp2_fast(highest[m][h] * scale - shift), total = 0;
                highest[m][h] = most;
#pragma unroll
                for (int n = 0; n < TILES; n++) {
                    s[m][n][2 * h] = exp2_fast(s[m][n][2 * h] * scale - shift);
                    s[m][n][2 * h + 1] = exp2_fast(s[m][n][2 * h + 1] * scale - shift);
                    total += s[m][n][2 * h] + s[m][n][2 * h + 1];
                }
                sum[m][h] = sum[m][h] * rescale + total;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++) {
                    o[m][n][2 * h] *= rescale;
                    o[m][n][2 * h + 1] *= rescale;
                }
            }

#pragma unroll
        for (int k = 0; k < STEP_KEYS / 16; k++) {
            uint32_t a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) {
                a[m][0] = pack_halves(s[m][2 * k][0], s[m][2 * k][1]);
                a[m][1] = pack_halves(s[m][2 * k][2], s[m][2 * k][3]);
                a[m][2] = pack_halves(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
                a[m][3] = pack_halves(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
            }
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                uint32_t b[4];
                load_matrices_transposed(b, value_row + k * 16 * STRIDE + n * 16);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma_16816(o[m][2 * n], a[m], b[0], b[1]);
                    mma_16816(o[m][2 * n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }

    /* Whole vectors go out through shared memory when they are still rotated; otherwise straight from registers. */
    const int tile_index = head * gridDim.y + tile, tiles = args.kv_heads * gridDim.y;
    const bool finished = args.splits == 1;
    partials p = { NULL, NULL };
    if (!finished)
        p = partials_of(args, tile_index, tiles, shape::VECTORS);
    float *staged = (float *)shared;   /* [VECTORS][DIM]: no more than queries, keys and values take */
    if (QUANTISED)
        __syncthreads();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float total = sum[m][h];
            total += __shfl_xor_sync(FULL_WARP, total, 1);
            total += __shfl_xor_sync(FULL_WARP, total, 2);
            int v = warp * 16 * MT + m * 16 + g + 8 * h;
            if (first + v >= vectors)
                continue;
            float *to = QUANTISED ? staged + v * DIM : args.out + vector_offset(args, head, first + v);
            float inverse = finished ? 1.0f / total : 1.0f;
            if (!finished) {
                to = p.sums + (size_t)(split * shape::VECTORS + v) * DIM;
                if (t == 0)
                    p.stats[split * shape::VECTORS + v] = make_float2(highest[m][h] * scale, total);
            }
#pragma unroll
            for (int n = 0; n < DIM / 8; n++)
                *(float2 *)(to + n * 8 + 2 * t) = make_float2(o[m][n][2 * h] * inverse, o[m][n][2 * h + 1] * inverse);
        }
    if (QUANTISED && finished) {
        __syncthreads();
        const int quads = DIM / 4;
        for (int base = 0; base < shape::VECTORS * quads; base += THREADS) {
            int index = base + (int)threadIdx.x, v = index / quads, i = index % quads * 4;
            quad x = quad_rotate(quad_load(staged + v * DIM + i), lane, (int)args.value_format.chunk);
            if (first + v < vectors)
                quad_store(args.out + vector_offset(args, head, first + v) + i, x);
        }
    }
}

/* ---- adding up ---- */

/* Adds up what the blocks of a tile left, in their order: a warp for each vector. */
template <int DIM> __global__ void __launch_bounds__(THREADS) attention_flash_combine(attention_args args, int tile_vectors)
{
    const int lane = threadIdx.x % 32, vectors = args.rows * args.group, head = blockIdx.y;
    const int v = blockIdx.x * WARPS + threadIdx.x / 32;
    if (v >= vectors)
        return;
    const int tiles = (vectors + tile_vectors - 1) / tile_vectors, tile = v / tile_vectors, slot = v % tile_vectors;
    partials p = partials_of(args, head * tiles + tile, args.kv_heads * tiles, tile_vectors);

    float2 stat = lane < args.splits ? __ldcg(&p.stats[lane * tile_vectors + slot]) : make_float2(-INFINITY, 0);
    float highest = stat.x;
    for (int other = 16; other; other /= 2)
        highest = fmaxf(highest, __shfl_xor_sync(FULL_WARP, highest, other));
    float weight = stat.y > 0 ? exp2_fast(stat.x - highest) : 0.0f, sum = weight * stat.y;
    for (int other = 16; other; other /= 2)
        sum += __shfl_xor_sync(FULL_WARP, sum, other);

#pragma unroll
    for (int base = 0; base < DIM / 4; base += 32) {
        const int i = (base + lane) * 4;
        const bool active = i < DIM;
        quad o = { { 0, 0, 0, 0 } };
#pragma unroll 8
        for (int s = 0; s < args.splits; s++) {
            float4 x = __ldcg((const float4 *)(p.sums + (size_t)(s * tile_vectors + slot) * DIM + (active ? i : 0)));
            float w = __shfl_sync(FULL_WARP, weight, s);
            o.x[0] += w * x.x;
            o.x[1] += w * x.y;
            o.x[2] += w * x.z;
            o.x[3] += w * x.w;
        }
        if (args.value_format.chunk)
            o = quad_rotate(o, lane, (int)args.value_format.chunk);
#pragma unroll
        for (int k = 0; k < 4; k++)
            o.x[k] *= 1.0f / sum;
        if (active)
            quad_store(args.out + vector_offset(args, head, v) + i, o);
    }
}

/* ---- launching ---- */

/* Tiles of 64 vectors where they are few (or long), else of 128. */
static int tile_vectors(int head_dim, int vectors)
{
    return WARPS * 16 * (head_dim > 128 || vectors <= WARPS * 16 ? 1 : 2);
}

template <int DIM, int MT, bool QUANTISED> static cudaError_t launch(const attention_args *args, cudaStream_t stream)
{
    typedef flash_shape<DIM, MT, QUANTISED> shape;
    int vectors = args->rows * args->group, tiles = (vectors + shape::VECTORS - 1) / shape::VECTORS;
    dim3 grid((unsigned)(args->kv_heads * args->splits), (unsigned)tiles);
    cudaError_t rc = cudaFuncSetAttribute(attention_flash<DIM, MT, QUANTISED>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                          (int)shape::BYTES);
    if (rc != cudaSuccess)
        return rc;
    attention_flash<DIM, MT, QUANTISED><<<grid, THREADS, shape::BYTES, stream>>>(*args);
    rc = cudaGetLastError();
    if (rc != cudaSuccess || args->splits == 1)
        return rc;
    dim3 every((unsigned)((vectors + WARPS - 1) / WARPS), (unsigned)args->kv_heads);
    attention_flash_combine<DIM><<<every, THREADS, 0, stream>>>(*args, shape::VECTORS);
    return cudaGetLastError();
}

template <int DIM, bool QUANTISED> static cudaError_t launch_tiles(const attention_args *args, cudaStream_t stream)
{
    if constexpr (DIM <= 128)
        if (tile_vectors(DIM, args->rows * args->group) > WARPS * 16)
            return launch<DIM, 2, QUANTISED>(args, stream);
    return launch<DIM, 1, QUANTISED>(args, stream);
}

template <int DIM> static cudaError_t launch_type(const attention_args *args, cudaStream_t stream)
{
    if (args->key_format.element == KV_F16)
        return launch_tiles<DIM, false>(args, stream);
    if constexpr (DIM % 64 == 0)
        return launch_tiles<DIM, true>(args, stream);
    return cudaErrorInvalidValue;
}

bool attention_flash_supports(const attention_args *args)
{
    int dim = args->head_dim;
    kv_element k = args->key_format.element, v = args->value_format.element;
    bool whole = dim == 64 || dim == 128 || dim == 256;
    bool types = k == KV_F16 ? v == KV_F16 : whole && k != KV_F32;
    return (whole || dim == 32 || dim == 80 || dim == 96) && types;
}

/*
 * Few tiles and many keys: parts of at least 512 keys, as many as make two blocks on each of an H100's multiprocessors. 512
 * rows behind 8192: 244 us, and 314 with one block on each; 64 rows there: 54 and 60.
 */
int attention_flash_splits(int kv_heads, int vectors, int head_dim, size_t keys)
{
    int of_tile = tile_vectors(head_dim, vectors), tiles = kv_heads * ((vectors + of_tile - 1) / of_tile);
    size_t most = tiles <= 264 ? (size_t)(264 / tiles) : 1, splits = (keys + 511) / 512;
    most = most < MOST_SPLITS ? most : MOST_SPLITS;
    return (int)(splits < most ? splits : most);
}

size_t attention_flash_partial_floats(int kv_heads, int vectors, int head_dim, int splits)
{
    size_t of_tile = (size_t)tile_vectors(head_dim, vectors);
    size_t tiles = ((size_t)vectors + of_tile - 1) / of_tile * (size_t)kv_heads;
    return splits > 1 ? tiles * (size_t)splits * of_tile * (size_t)(head_dim + 2) : 0;
}

cudaError_t attention_flash_launch(const attention_args *args, cudaStream_t stream)
{
    switch (args->head_dim) {
    case 32: return launch_type<32>(args, stream);
    case 64: return launch_type<64>(args, stream);
    case 80: return launch_type<80>(args, stream);
    case 96: return launch_type<96>(args, stream);
    case 128: return launch_type<128>(args, stream);
    case 256: return launch_type<256>(args, stream);
    default: return cudaErrorInvalidValue;
    }
}
