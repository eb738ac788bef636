/*
 * Attention of few query vectors (decoding): bound by reading the cache, once.
 *
 * A block of four warps takes one key/value head and one part of the keys; a warp takes 16 keys at a time. Both products
 * are turned round, so that keys and values are the A operand, 16 of them high, and the vectors, of which there are
 * few, the B operand, 8 wide:
 *
 *     S^T [16 keys, 8 n]    = K [16, DIM]   Q^T [DIM, 8 n]
 *     O^T [DIM, 8 n]       += V^T [DIM, 16] P^T [16, 8 n]          n = 1, or 2 for 9 to 16 vectors
 *
 * Operands come straight from memory, 16 bytes a lane, without shared memory or ldmatrix: which dimension stands in
 * which column of K is free as long as Q^T has the same order, so a lane (g, t) takes consecutive elements of key g;
 * and which dimension stands in which row of V^T is free as long as whoever reads O^T knows, so it takes consecutive
 * elements of keys 2t, 2t + 1, 2t + 8, 2t + 9 and pairs them up. P^T needs transposing, one instruction for 8 keys.
 *
 * Quantised caches are widened to fp16 in registers; everything stays rotated until the end (kv_format.h).
 */

#include "attention_device.cuh"

#define WARPS 4
#define THREADS (32 * WARPS)
#define WARP_KEYS 16

/* ---- cache elements: what one lane loads of one key, and how it becomes pairs of halves ---- */

/*
 * UNIT consecutive elements are what a lane loads at once. A row of a head is (DIM / (LANES * UNIT)) runs of LANES units;
 * LANES is 4 for keys, 8 for values.
 */
template <int BYTES> static __device__ __forceinline__ void load_bytes(uint32_t *to, const uint8_t *from, bool valid)
{
    if (BYTES == 16) {
        uint4 x = valid ? __ldcg((const uint4 *)from) : make_uint4(0, 0, 0, 0);
        to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    } else if (BYTES == 8) {
        uint2 x = valid ? __ldcg((const uint2 *)from) : make_uint2(0, 0);
        to[0] = x.x, to[1] = x.y;
    } else {
        to[0] = valid ? __ldcg((const uint32_t *)from) : 0;
    }
}

static __device__ __forceinline__ uint32_t scale_pair(uint32_t pair, uint32_t zero, uint32_t scale)
{
    __half2 x = __hmul2(__hsub2(*(__half2 *)&pair, *(__half2 *)&zero), *(__half2 *)&scale);
    return *(uint32_t *)&x;
}

/* An element type: BITS; and whether pairs come as (0,1) (2,3).. or, within each 8, as (0,4) (1,5) (2,6) (3,7). */
struct cache_f16 {
    static const int BITS = 16;
    static const bool SCALED = false, SPREAD = false;
};
struct cache_q8 {
    static const int BITS = 8;
    static const bool SCALED = true, SPREAD = false;
};
struct cache_q4 {
    static const int BITS = 4;
    static const bool SCALED = true, SPREAD = true;
};

/* Where in its 8 the element at place p of the pairs' order stands. */
template <class E> static __device__ __forceinline__ int spread(int p)
{
    return E::SPREAD ? (p & ~7) | (p & 1) << 2 | (p & 6) >> 1 : p;
}

/* Elements a lane loads at once: 16 bytes if the head is long enough for that. */
template <class E, int DIM, int LANES> struct cache_unit {
    static const int MOST = 16 * 8 / E::BITS, SHARE = DIM / LANES;
    static const int HALF = MOST / 2, QUARTER = MOST / 4;
    static const int ELEMENTS = SHARE % MOST == 0 ? MOST : SHARE % HALF == 0 ? HALF : QUARTER;
    static const int BYTES = ELEMENTS * E::BITS / 8, WORDS = BYTES / 4, RUNS = SHARE / ELEMENTS;
};

/* What one lane holds of one row, as loaded. */
template <class E, int DIM, int LANES> struct cache_share {
    typedef cache_unit<E, DIM, LANES> unit;
    uint32_t word[unit::RUNS * unit::WORDS];
    uint32_t scale[E::SCALED ? unit::RUNS : 1];   /* the same half twice */

    /* `row` is the head's first byte, `scales` its first scale; `which` of the LANES. */
    __device__ __forceinline__ void load(const uint8_t *row, const uint8_t *scales, int which, bool valid)
    {
#pragma unroll
        for (int r = 0; r < unit::RUNS; r++) {
            int element = (r * LANES + which) * unit::ELEMENTS;
            load_bytes<unit::BYTES>(word + r * unit::WORDS, row + element * E::BITS / 8, valid);
            if (E::SCALED) {
                uint32_t s = valid ? *(const uint16_t *)(scales + element / 32 * 2) : 0;
                scale[r] = s | s << 16;
            }
        }
    }

    /* Pair p of this lane's elements, in the order that E::SPREAD says. */
    __device__ __forceinline__ uint32_t pair(int p) const
    {
        if (E::BITS == 16)
            return word[p];
        uint32_t s = scale[p / (unit::ELEMENTS / 2)];
        if (E::BITS == 8) {
            uint32_t halves = __byte_perm(word[p / 2], 0x64646464, p % 2 ? 0x4342 : 0x4140);   /* 1024 + code */
            return scale_pair(halves, 0x64806480, s);
        }
        uint32_t halves = ((word[p / 4] >> (4 * (p % 4))) & 0x000f000f) | 0x64006400;
        return scale_pair(halves, 0x64086408, s);
    }
};

/* ---- the kernel ---- */

/* Queries as halves in shared memory, in the order of K's pairs; rows of DIM + 8 halves so that lanes meet no bank twice. */
template <int DIM> static const int QUERY_STRIDE = DIM + 8;

/*
 * What a block reads before it reads the cache, all of it at once: queries, rotated where they are not yet, and for the
 * block that owns position `past` the new key and value of this head.
 */
template <int DIM, int N> struct fresh {
    static const int QUADS = DIM / 4, ROUNDS = (8 * N * QUADS + THREADS - 1) / THREADS;
    quad q[ROUNDS], k, v;

    __device__ __forceinline__ void load(const attention_args &args, int head, int count, bool stores)
    {
#pragma unroll
        for (int r = 0; r < ROUNDS; r++) {
            int index = r * THREADS + (int)threadIdx.x, f = index / QUADS, i = index % QUADS * 4;
            q[r] = quad{ { 0, 0, 0, 0 } };
            if (f < count) {
                const float *from = args.q + vector_offset(args, head, f);
                q[r] = args.cos_sin ? quad_rope(from, args.cos_sin, i, DIM) : quad_load(from + i);
            }
        }
        k = v = quad{ { 0, 0, 0, 0 } };
        if (stores && (int)threadIdx.x < QUADS) {
            int i = (int)threadIdx.x * 4;
            k = quad_rope(args.k + head * DIM, args.cos_sin, i, DIM);
            v = quad_load(args.v + head * DIM + i);
        }
    }
};

/* The new key and value go into the cache. QUADS threads hold them. */
template <int DIM, int N>
static __device__ __forceinline__ void store_new(const attention_args &args, const fresh<DIM, N> &f, int head, int past)
{
    static_assert(DIM / 4 <= THREADS, "one quad a thread");
    const bool active = (int)threadIdx.x < DIM / 4;
    const int i = head * DIM + (active ? (int)threadIdx.x * 4 : 0), lane = threadIdx.x % 32;
    quad_encode(f.k, (uint8_t *)args.keys + (size_t)past * args.key_format.row_bytes, args.key_format, i, lane, active);
    quad_encode(f.v, (uint8_t *)args.values + (size_t)past * args.value_format.row_bytes, args.value_format, i, lane, active);
}

template <class K, int DIM, int N>
static __device__ __forceinline__ void store_queries(const attention_args &args, const fresh<DIM, N> &fresh, __half *queries)
{
    const int quads = DIM / 4, lane = threadIdx.x % 32;
    int chunk = (int)args.key_format.chunk;
#pragma unroll
    for (int r = 0; r < fresh.ROUNDS; r++) {
        int index = r * THREADS + (int)threadIdx.x, v = index / quads, i = index % quads * 4;
        quad q = fresh.q[r];
        if (chunk)
            q = quad_rotate(q, lane, chunk);
        if (v < 8 * N) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                /* The inverse of spread: element e of 8 stands at place 2 (e % 4) + e / 4. */
                int e = i + k, place = K::SPREAD ? (e & ~7) | (e & 3) << 1 | (e & 4) >> 2 : e;
                queries[v * QUERY_STRIDE<DIM> + place] = __float2half_rn(half_range(q.x[k]));
            }
        }
    }
}

template <int DIM, class K, class V, int N>
__global__ void __launch_bounds__(THREADS) attention_few(attention_args args)
{
    typedef cache_unit<K, DIM, 4> key_unit;
    typedef cache_unit<V, DIM, 8> value_unit;
    extern __shared__ __align__(16) uint8_t shared[];
    __half *queries = (__half *)shared;   /* [8 N][QUERY_STRIDE]; later the warps' results */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.y, split = blockIdx.x;
    const int count = args.rows * args.group;

#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
#endif
    const int past = args.past_at ? (int)*args.past_at : args.past;
    const bool stores = args.k && split == args.splits - 1;
    fresh<DIM, N> fresh;
    fresh.load(args, head, count, stores);
    const int end = past + args.rows;
    const int begin = args.window && past + 1 > args.window ? past + 1 - args.window : 0;
    /* Parts are whole blocks of keys, from the first block that anybody sees. */
    const int first_block = begin / WARP_KEYS, blocks = (end + WARP_KEYS - 1) / WARP_KEYS - first_block;
    const int from = first_block + (int)((long long)blocks * split / args.splits);
    const int to = first_block + (int)((long long)blocks * (split + 1) / args.splits);

    if (stores)
        store_new<DIM, N>(args, fresh, head, past);
    store_queries<K, DIM, N>(args, fresh, queries);
    __syncthreads();

    /* B fragments of Q^T: step s takes the lane's elements 4 s .. 4 s + 3. */
    uint32_t query[N][DIM / 16][2];
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int s = 0; s < DIM / 16; s++) {
            int run = 4 * s / key_unit::ELEMENTS, within = 4 * s % key_unit::ELEMENTS;
            int element = (run * 4 + t) * key_unit::ELEMENTS + within;
            uint2 pairs = *(const uint2 *)(queries + (n * 8 + g) * QUERY_STRIDE<DIM> + element);
            query[n][s][0] = pairs.x;
            query[n][s][1] = pairs.y;
        }
    __syncthreads();

    const float scale = args.softcap > 0 ? args.scale : args.scale * LOG2_E;
    const uint8_t *key_head = args.keys + (size_t)head * DIM * K::BITS / 8;
    const uint8_t *value_head = args.values + (size_t)head * DIM * V::BITS / 8;
    const uint8_t *key_scales = args.keys + args.key_format.scale_offset + (size_t)head * (DIM / 32) * 2;
    const uint8_t *value_scales = args.values + args.value_format.scale_offset + (size_t)head * (DIM / 32) * 2;

    float o[N][DIM / 16][4], highest[N][2], sum[N][2];
    int last_key[N][2], first_key[N][2];   /* what vectors 2t and 2t + 1 see */
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int m = 0; m < DIM / 16; m++)
            o[n][m][0] = o[n][m][1] = o[n][m][2] = o[n][m][3] = 0;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int f = n * 8 + 2 * t + c, position = past + (f < count ? f / args.group : 0);
            last_key[n][c] = position;
            first_key[n][c] = args.window && position + 1 > args.window ? position + 1 - args.window : 0;
            highest[n][c] = -INFINITY;
            sum[n][c] = 0;
        }
    }

    for (int block = from + warp; block < to; block += WARPS) {
        const int key = block * WARP_KEYS;
        cache_share<K, DIM, 4> k[2];
        cache_share<V, DIM, 8> v[4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = key + g + 8 * h;
            k[h].load(key_head + (size_t)row * args.key_format.row_bytes,
                      key_scales + (size_t)row * args.key_format.row_bytes, t, row < end);
        }
#pragma unroll
        for (int h = 0; h < 4; h++) {
            int row = key + 2 * t + (h & 1) + 8 * (h >> 1);
            v[h].load(value_head + (size_t)row * args.value_format.row_bytes,
                      value_scales + (size_t)row * args.value_format.row_bytes, g, row < end);
        }

        float s[N][4];
#pragma unroll
        for (int n = 0; n < N; n++)
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
        for (int step = 0; step < DIM / 16; step++) {
            uint32_t a[4] = { k[0].pair(2 * step), k[1].pair(2 * step), k[0].pair(2 * step + 1),
                              k[1].pair(2 * step + 1) };
#pragma unroll
            for (int n = 0; n < N; n++)
                mma_16816(s[n], a, query[n][step][0], query[n][step][1]);
        }

        uint32_t weights[N][2];
#pragma unroll
        for (int n = 0; n < N; n++) {
            float rescale[2];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float most = highest[n][c];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float &x = s[n][2 * h + c];
                    int row = key + g + 8 * h;
                    x *= scale;
                    if (args.softcap > 0)
                        x = softcap_score(x, args.softcap) * LOG2_E;
                    if (row > last_key[n][c] || row < first_key[n][c])
                        x = -INFINITY;
                    most = fmaxf(most, x);
                }
#pragma unroll
                for (int other = 4; other < 32; other *= 2)
                    most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, other));
                float shift = most == -INFINITY ? 0.0f : most;
                rescale[c] = exp2_fast(highest[n][c] - shift);
                highest[n][c] = most;
#pragma unroll
                for (int h = 0; h < 2; h++)
                    s[n][2 * h + c] = exp2_fast(s[n][2 * h + c] - shift);
                sum[n][c] = sum[n][c] * rescale[c] + s[n][c] + s[n][2 + c];
            }
            weights[n][0] = transpose_8x8(pack_halves(s[n][0], s[n][1]));
            weights[n][1] = transpose_8x8(pack_halves(s[n][2], s[n][3]));
#pragma unroll
            for (int m = 0; m < DIM / 16; m++) {
                o[n][m][0] *= rescale[0];
                o[n][m][1] *= rescale[1];
                o[n][m][2] *= rescale[0];
                o[n][m][3] *= rescale[1];
            }
        }
#pragma unroll
        for (int m = 0; m < DIM / 16; m++) {
            uint32_t p0 = v[0].pair(m), p1 = v[1].pair(m), p2 = v[2].pair(m), p3 = v[3].pair(m);
            uint32_t a[4] = { __byte_perm(p0, p1, 0x5410), __byte_perm(p0, p1, 0x7632), __byte_perm(p2, p3, 0x5410),
                              __byte_perm(p2, p3, 0x7632) };
#pragma unroll
            for (int n = 0; n < N; n++)
                mma_16816(o[n][m], a, weights[n][0], weights[n][1]);
        }
    }

    /* The warps' results meet in shared memory: for each warp and vector DIM sums, then maxima, then sums. */
    float *results = (float *)shared;                       /* [WARPS][8 N][DIM] */
    float *maxima = results + WARPS * 8 * N * DIM, *sums = maxima + WARPS * 8 * N;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float total = sum[n][c];
#pragma unroll
            for (int other = 4; other < 32; other *= 2)
                total += __shfl_xor_sync(FULL_WARP, total, other);
            int vector = warp * 8 * N + n * 8 + 2 * t + c;
            if (g == 0) {
                maxima[vector] = highest[n][c];
                sums[vector] = total;
            }
#pragma unroll
            for (int m = 0; m < DIM / 16; m++) {
                int run = 2 * m / value_unit::ELEMENTS, within = 2 * m % value_unit::ELEMENTS;
                int unit = (run * 8 + g) * value_unit::ELEMENTS;
                results[vector * DIM + unit + spread<V>(within)] = o[n][m][c];
                results[vector * DIM + unit + spread<V>(within + 1)] = o[n][m][2 + c];
            }
        }
    __syncthreads();

    const int quads = DIM / 4, total = count * quads, rounds = (total + THREADS - 1) / THREADS;
    partials p = { NULL, NULL };
    if (args.splits > 1)
        p = partials_of(args, head, args.kv_heads, count);
    for (int r = 0; r < rounds; r++) {
        int index = r * THREADS + (int)threadIdx.x;
        bool active = index < total;
        int f = active ? index / quads : 0, i = active ? index % quads * 4 : 0;
        float most = -INFINITY, all = 0;
        quad x = { { 0, 0, 0, 0 } };
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            most = fmaxf(most, maxima[w * 8 * N + f]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float high = maxima[w * 8 * N + f], weight = high == -INFINITY ? 0.0f : exp2_fast(high - most);
            quad part = quad_load(results + (w * 8 * N + f) * DIM + i);
            all += weight * sums[w * 8 * N + f];
#pragma unroll
            for (int k = 0; k < 4; k++)
                x.x[k] += weight * part.x[k];
        }
        if (args.splits > 1) {
            if (active) {
                quad_store(p.sums + (size_t)(split * count + f) * DIM + i, x);
                if (i == 0)
                    p.stats[split * count + f] = make_float2(most, all);
            }
            continue;
        }
        if (V::SCALED)
            x = quad_rotate(x, lane, (int)args.value_format.chunk);
#pragma unroll
        for (int k = 0; k < 4; k++)
            x.x[k] *= 1.0f / all;
        if (active)
            quad_store(args.out + vector_offset(args, head, f) + i, x);
    }
    if (args.splits > 1 && arrive_last(head, args.splits))
        combine_partials<DIM>(args, p, head, 0, count, count, (float *)shared);
}

/* ---- launching ---- */

template <int DIM, class K, class V, int N> static cudaError_t launch(const attention_args *args, cudaStream_t stream)
{
    size_t query_bytes = (size_t)8 * N * QUERY_STRIDE<DIM> * sizeof(__half);
    size_t result_bytes = (size_t)WARPS * 8 * N * (DIM + 2) * sizeof(float);
    size_t bytes = query_bytes > result_bytes ? query_bytes : result_bytes;
    if (bytes > 48 * 1024) {
        cudaError_t rc = cudaFuncSetAttribute(attention_few<DIM, K, V, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              (int)bytes);
        if (rc != cudaSuccess)
            return rc;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)args->splits, (unsigned)args->kv_heads);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    cudaLaunchAttribute attribute[1];
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    config.attrs = attribute;
    config.numAttrs = args->dependent ? 1 : 0;
    return cudaLaunchKernelEx(&config, attention_few<DIM, K, V, N>, *args);
}

template <int DIM, class K, class V> static cudaError_t launch_count(const attention_args *args, cudaStream_t stream)
{
    return args->rows * args->group <= 8 ? launch<DIM, K, V, 1>(args, stream) : launch<DIM, K, V, 2>(args, stream);
}

template <int DIM> static cudaError_t launch_type(const attention_args *args, cudaStream_t stream)
{
    kv_element k = args->key_format.element, v = args->value_format.element;
    if (k == KV_F16)
        return launch_count<DIM, cache_f16, cache_f16>(args, stream);
    if constexpr (DIM % 64 == 0) {
        if (k == KV_Q8 && v == KV_Q8)
            return launch_count<DIM, cache_q8, cache_q8>(args, stream);
        if (k == KV_Q8 && v == KV_Q4)
            return launch_count<DIM, cache_q8, cache_q4>(args, stream);
        if (k == KV_Q4 && v == KV_Q4)
            return launch_count<DIM, cache_q4, cache_q4>(args, stream);
    }
    return cudaErrorInvalidValue;
}

bool attention_few_supports(const attention_args *args)
{
    int dim = args->head_dim;
    kv_element k = args->key_format.element, v = args->value_format.element;
    bool whole = dim == 64 || dim == 128 || dim == 256;
    bool types = k == KV_F16 ? v == KV_F16 : whole && k != KV_F32;
    return args->rows * args->group <= FEW_VECTORS && (whole || dim == 32 || dim == 80 || dim == 96) && types &&
           args->kv_heads <= ARRIVAL_COUNT;
}

/*
 * At least 64 keys a block, 16 a warp, and some two blocks of four warps for each of an H100's 132 multiprocessors. Adding up
 * costs some 2.5 us, so up to 256 keys stay in one part (6.3 us at 8 heads of 128; 7.0 to 7.5 in two or four). The bucket is
 * the next power of two from 256 up.
 *
 * Tried and no better: eight warps a block; asking for the next block's rows while this one is multiplied, which takes the
 * registers that a fourth block needs (4% slower at 8192 keys, 25% at 16384).
 */
int attention_few_splits(int kv_heads, size_t keys)
{
    size_t bucket = 256;
    while (bucket < keys)
        bucket *= 2;
    size_t most = (size_t)(264 + kv_heads - 1) / (size_t)kv_heads, splits = bucket / 64;
    if (bucket == 256)
        return 1;
    return (int)(splits < most ? splits : most);
}

size_t attention_few_partial_floats(int kv_heads, int vectors, int head_dim, int splits)
{
    return splits > 1 ? (size_t)kv_heads * (size_t)splits * (size_t)vectors * (size_t)(head_dim + 2) : 0;
}

cudaError_t attention_few_launch(const attention_args *args, cudaStream_t stream)
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
