#ifndef PLIM_ATTENTION_DEVICE_CUH
#define PLIM_ATTENTION_DEVICE_CUH

/* What the attention kernels and kv_store share: the rotation of quantised caches, and combining split results. */

#include "attention_kernels.h"
#include "tensor_core.cuh"

#define LOG2_E 1.4426950408889634f
#define FULL_WARP 0xffffffffu

/* Four consecutive elements of a vector, in one lane. */
struct quad {
    float x[4];
};

static __device__ __forceinline__ quad quad_load(const float *p)
{
    float4 v = *(const float4 *)p;
    return quad{ { v.x, v.y, v.z, v.w } };
}

static __device__ __forceinline__ void quad_store(float *p, const quad &q)
{
    *(float4 *)p = make_float4(q.x[0], q.x[1], q.x[2], q.x[3]);
}

/*
 * The rotation of kv_format.h over a chunk that chunk / 4 neighbouring lanes hold, four elements each: x[0] and x[2] are
 * even elements, x[1] and x[3] odd ones. The first stage is within a lane, the others between lanes. All lanes of the
 * warp must come here.
 */
static __device__ __forceinline__ quad quad_rotate(quad q, int lane, int chunk)
{
    float a = q.x[0] + q.x[2], b = q.x[1] + q.x[3], c = q.x[0] - q.x[2], d = q.x[1] - q.x[3];
    for (int other = 1; other < chunk / 4; other *= 2) {
        float ra = __shfl_xor_sync(FULL_WARP, a, other), rb = __shfl_xor_sync(FULL_WARP, b, other);
        float rc = __shfl_xor_sync(FULL_WARP, c, other), rd = __shfl_xor_sync(FULL_WARP, d, other);
        bool upper = lane & other;
        a = upper ? ra - a : a + ra;
        b = upper ? rb - b : b + rb;
        c = upper ? rc - c : c + rc;
        d = upper ? rd - d : d + rd;
    }
    float norm = 1.0f / sqrtf((float)(chunk / 2));   /* rounded as the CPU rounds it */
    return quad{ { a * norm, b * norm, c * norm, d * norm } };
}

/* Rotary embedding (half-split layout) of elements i .. i + 3 of one head, rounded as rope.cu rounds it. */
static __device__ __forceinline__ quad quad_rope(const float *head, const float *cos_sin, int i, int head_dim)
{
    int half = head_dim / 2;
    int j = i < half ? i : i - half;
    quad low = quad_load(head + j), high = quad_load(head + j + half);
    quad cosine = quad_load(cos_sin + j), sine = quad_load(cos_sin + half + j), r;
#pragma unroll
    for (int k = 0; k < 4; k++)
        r.x[k] = i < half ? __fmaf_rn(low.x[k], cosine.x[k], -__fmul_rn(high.x[k], sine.x[k]))
                          : __fmaf_rn(high.x[k], cosine.x[k], __fmul_rn(low.x[k], sine.x[k]));
    return r;
}

static __device__ __forceinline__ float half_range(float x)
{
    return fminf(fmaxf(x, -65504.0f), 65504.0f);
}

/* Writes elements i .. i + 3 of a row; all lanes of the warp come here, `store` says which write. */
static __device__ __forceinline__ void quad_encode(quad q, uint8_t *row, const kv_format &format, int i, int lane,
                                                   bool store)
{
    if (format.element == KV_F16) {
        uint2 halves = make_uint2(pack_halves(half_range(q.x[0]), half_range(q.x[1])),
                                  pack_halves(half_range(q.x[2]), half_range(q.x[3])));
        if (store)
            *(uint2 *)(row + 2 * (size_t)i) = halves;
        return;
    }
    if (format.element == KV_F32) {
        if (store)
            quad_store((float *)row + i, q);
        return;
    }
    q = quad_rotate(q, lane, (int)format.chunk);
    /* The element of largest magnitude, the first of equals. */
    float most = q.x[0];
#pragma unroll
    for (int k = 1; k < 4; k++)
        most = fabsf(q.x[k]) > fabsf(most) ? q.x[k] : most;
    for (int other = 1; other < (int)format.group / 4; other *= 2) {
        float theirs = __shfl_xor_sync(FULL_WARP, most, other);
        bool first = lane & other;   /* the other lane's elements come first */
        most = fabsf(theirs) > fabsf(most) || (first && fabsf(theirs) == fabsf(most)) ? theirs : most;
    }
    float zero = format.element == KV_Q8 ? 128.0f : 8.0f;
    __half scale = __float2half_rn(most / -zero);
    float value = __half2float(scale);
    uint32_t code[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float c = value == 0 ? zero : rintf(q.x[k] / value) + zero;
        code[k] = (uint32_t)fminf(fmaxf(c, 0.0f), 2 * zero - 1);
    }
    if (!store)
        return;
    if (format.element == KV_Q8)
        *(uint32_t *)(row + i) = code[0] | code[1] << 8 | code[2] << 16 | code[3] << 24;
    else
        *(uint16_t *)(row + i / 2) = (uint16_t)(code[0] | code[1] << 4 | code[2] << 8 | code[3] << 12);
    if (i % (int)format.group == 0)
        *(__half *)(row + format.scale_offset + 2 * (i / (int)format.group)) = scale;
}

/* x = cap * tanh(x / cap) for a score in units of log2: no more than a few ulp off where it matters. */
static __device__ __forceinline__ float softcap_score(float x, float cap)
{
    float e = exp2_fast(fabsf(x) / cap * (2 * LOG2_E));
    return copysignf(cap * (1.0f - __fdividef(2.0f, e + 1.0f)), x);
}

/* Where vector f of a key/value head lies in q and out. */
static __device__ __forceinline__ size_t vector_offset(const attention_args &args, int head, int f)
{
    return ((size_t)(f / args.group) * (size_t)(args.kv_heads * args.group) +
            (size_t)(head * args.group + f % args.group)) * (size_t)args.head_dim;
}

/*
 * Counts arrivals of the blocks that share a result; atomicInc wraps to 0 at the last, so nothing needs resetting.
 * Launches of one stream follow each other; two streams must not run attention at once.
 */
#define ARRIVAL_COUNT 8192
static __device__ unsigned attention_arrivals[ARRIVAL_COUNT];

/*
 * A split block's unfinished vectors: for each of `vectors` slots [head_dim] sums, and beside them maximum and weight
 * sum. partial = [tiles][splits][vectors] slots of head_dim floats, then the same number of (maximum, sum).
 */
struct partials {
    float *sums;      /* of this tile */
    float2 *stats;
};

static __device__ __forceinline__ partials partials_of(const attention_args &args, int tile, int tiles, int vectors)
{
    size_t slots = (size_t)args.splits * (size_t)vectors;
    float2 *stats = (float2 *)(args.partial + (size_t)tiles * slots * (size_t)args.head_dim);
    return partials{ args.partial + (size_t)tile * slots * (size_t)args.head_dim, stats + (size_t)tile * slots };
}

/* Whether this block is the last of its tile; all threads of the block come here, after writing their partials. */
static __device__ __forceinline__ bool arrive_last(int tile, int splits)
{
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicInc(&attention_arrivals[tile], (unsigned)splits - 1) == (unsigned)splits - 1;
    __syncthreads();
    if (last)
        __threadfence();
    return last;
}

/* A tile's weights of each split, once for all: [count][splits] floats, then [count] sums. A warp for each vector. */
static __device__ void combine_weights(const attention_args &args, const partials &p, int count, int stride, float *weights)
{
    int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    float *sums = weights + count * args.splits;
    for (int v = threadIdx.x / 32; v < count; v += warps) {
        float highest = -INFINITY, sum = 0;
        for (int s = lane; s < args.splits; s += 32)
            highest = fmaxf(highest, __ldcg(&p.stats[s * stride + v]).x);
        for (int other = 16; other; other /= 2)
            highest = fmaxf(highest, __shfl_xor_sync(FULL_WARP, highest, other));
        for (int s = lane; s < args.splits; s += 32) {
            float2 stat = __ldcg(&p.stats[s * stride + v]);
            float weight = stat.y > 0 ? exp2_fast(stat.x - highest) : 0.0f;
            weights[v * args.splits + s] = weight;
            sum += weight * stat.y;
        }
        for (int other = 16; other; other /= 2)
            sum += __shfl_xor_sync(FULL_WARP, sum, other);
        if (lane == 0)
            sums[v] = sum;
    }
    __syncthreads();
}

/*
 * Adds up a tile's partials and writes vectors [first, first + count) of `head`; `stride` slots a split. `weights`: shared
 * memory of count * (splits + 1) floats.
 */
template <int DIM>
static __device__ void combine_partials(const attention_args &args, const partials &p, int head, int first, int count,
                                        int stride, float *weights)
{
    combine_weights(args, p, count, stride, weights);
    const int quads = DIM / 4;
    int chunk = (int)args.value_format.chunk;
    int lane = threadIdx.x % 32;
    int total = count * quads, rounds = (total + (int)blockDim.x - 1) / (int)blockDim.x;
    for (int r = 0; r < rounds; r++) {
        int index = r * (int)blockDim.x + (int)threadIdx.x;
        bool active = index < total;
        int v = active ? index / quads : 0, i = active ? index % quads * 4 : 0;
        quad o = { { 0, 0, 0, 0 } };
#pragma unroll 16
        for (int s = 0; s < args.splits; s++) {
            float4 x = __ldcg((const float4 *)(p.sums + (size_t)(s * stride + v) * DIM + i));
            float weight = weights[v * args.splits + s];
            o.x[0] += weight * x.x;
            o.x[1] += weight * x.y;
            o.x[2] += weight * x.z;
            o.x[3] += weight * x.w;
        }
        if (chunk)
            o = quad_rotate(o, lane, chunk);
        float inverse = 1.0f / weights[count * args.splits + v];
#pragma unroll
        for (int k = 0; k < 4; k++)
            o.x[k] *= inverse;
        if (active)
            quad_store(args.out + vector_offset(args, head, first + v) + i, o);
    }
}

#endif
