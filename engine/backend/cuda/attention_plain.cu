/*
 * The plain path of attention: scores in memory, a piece at a time, in fp32, by kernels that anybody can check. For every
 * shape and cache; what the others are tested against, and what max_attention_size bounds.
 *
 *     begin    q rotated as the cache is, O = 0, m = -inf, l = 0
 *     step     S = scale q K^T, masked;  m, P, l, alpha = online softmax of S;  O = alpha O + P V
 *     end      out = O / l, rotated back
 *
 * Products are 32 x 32 tiles through shared memory, 256 threads, four results each.
 */

#include "attention_device.cuh"

#define TILE 32
#define THREADS 256

/* Element i of a cache row, still rotated. */
static __device__ __forceinline__ float cached(const uint8_t *row, const kv_format &format, int i)
{
    if (format.element == KV_F16)
        return __half2float(((const __half *)row)[i]);
    if (format.element == KV_F32)
        return ((const float *)row)[i];
    float scale = __half2float(*(const __half *)(row + format.scale_offset + 2 * (i / (int)format.group)));
    int code = format.element == KV_Q8 ? row[i] - 128 : (row[i / 2] >> (i % 2 * 4) & 15) - 8;
    return (float)code * scale;
}

/* A block for each vector: x rotated in shared memory by plain butterflies. */
static __device__ void rotate_shared(float *x, int dim, int chunk)
{
    for (int half = 1; half < chunk / 2; half *= 2) {
        for (int pair = threadIdx.x; pair < dim / 2; pair += blockDim.x) {
            /* Pairs of elements whose index, even and odd ones apart, differs in one bit. */
            int parity = pair & 1, p = pair >> 1;
            int low = (p / half * 2 * half + p % half) * 2 + parity;
            float a = x[low], b = x[low + 2 * half];
            x[low] = a + b;
            x[low + 2 * half] = a - b;
        }
        __syncthreads();
    }
    float norm = 1.0f / sqrtf((float)(chunk / 2));
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        x[i] *= norm;
    __syncthreads();
}

static __global__ void plain_begin(attention_args args, plain_piece piece)
{
    extern __shared__ float x[];
    int slot = blockIdx.y * piece.vector_count + blockIdx.x;
    const float *q = args.q + vector_offset(args, piece.head + (int)blockIdx.y, piece.vector + (int)blockIdx.x);
    for (int i = threadIdx.x; i < args.head_dim; i += blockDim.x)
        x[i] = q[i] * args.scale;
    __syncthreads();
    if (args.key_format.chunk)
        rotate_shared(x, args.head_dim, (int)args.key_format.chunk);
    for (int i = threadIdx.x; i < args.head_dim; i += blockDim.x) {
        piece.queries[(size_t)slot * args.head_dim + i] = x[i];
        piece.sums[(size_t)slot * args.head_dim + i] = 0;
    }
    if (threadIdx.x == 0) {
        piece.highest[slot] = -INFINITY;
        piece.weight[slot] = 0;
    }
}

static __global__ void __launch_bounds__(THREADS) plain_scores(attention_args args, plain_piece piece, int key,
                                                               int key_count)
{
    __shared__ float a[TILE][TILE + 1], b[TILE][TILE + 1];
    int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
    int c0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE, head = piece.head + (int)blockIdx.z;
    size_t slots = (size_t)blockIdx.z * piece.vector_count;
    float sum[4] = { 0, 0, 0, 0 };

    for (int j = 0; j < args.head_dim; j += TILE) {
        for (int k = 0; k < 4; k++) {
            int r = y + 8 * k;
            bool inside = j + x < args.head_dim;
            a[r][x] = inside && r0 + r < piece.vector_count
                          ? piece.queries[(slots + r0 + r) * args.head_dim + j + x] : 0.0f;
            b[r][x] = inside && c0 + r < key_count
                          ? cached(args.keys + (size_t)(key + c0 + r) * args.key_format.row_bytes, args.key_format,
                                   head * args.head_dim + j + x) : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < TILE; i++)
            for (int k = 0; k < 4; k++)
                sum[k] += a[y + 8 * k][i] * b[x][i];
        __syncthreads();
    }
    for (int k = 0; k < 4; k++) {
        int r = r0 + y + 8 * k, c = c0 + x;
        if (r >= piece.vector_count || c >= key_count)
            continue;
        int position = args.past + (piece.vector + r) / args.group;
        bool seen = key + c <= position && !(args.window && key + c <= position - args.window);
        float s = args.softcap > 0 ? args.softcap * tanhf(sum[k] / args.softcap) : sum[k];
        piece.scores[(slots + r) * piece.key_stride + c] = seen ? s : -INFINITY;
    }
}

/* A warp for each vector. */
static __global__ void __launch_bounds__(THREADS) plain_softmax(plain_piece piece, int slots, int key_count)
{
    int slot = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (slot >= slots)
        return;
    float *row = piece.scores + (size_t)slot * piece.key_stride, before = piece.highest[slot], most = before, total = 0;
    for (int c = lane; c < key_count; c += 32)
        most = fmaxf(most, row[c]);
    for (int other = 1; other < 32; other *= 2)
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, other));
    float shift = most == -INFINITY ? 0.0f : most;
    for (int c = lane; c < key_count; c += 32) {
        float w = expf(row[c] - shift);
        row[c] = w;
        total += w;
    }
    for (int other = 1; other < 32; other *= 2)
        total += __shfl_xor_sync(FULL_WARP, total, other);
    if (lane == 0) {
        float rescale = expf(before - shift);
        piece.rescale[slot] = rescale;
        piece.weight[slot] = piece.weight[slot] * rescale + total;
        piece.highest[slot] = most;
    }
}

static __global__ void __launch_bounds__(THREADS) plain_values(attention_args args, plain_piece piece, int key,
                                                               int key_count)
{
    __shared__ float a[TILE][TILE + 1], b[TILE][TILE + 1];
    int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
    int j0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE, head = piece.head + (int)blockIdx.z;
    size_t slots = (size_t)blockIdx.z * piece.vector_count;
    float sum[4] = { 0, 0, 0, 0 };

    for (int c = 0; c < key_count; c += TILE) {
        for (int k = 0; k < 4; k++) {
            int r = y + 8 * k;
            a[r][x] = c + x < key_count && r0 + r < piece.vector_count
                          ? piece.scores[(slots + r0 + r) * piece.key_stride + c + x] : 0.0f;
            b[r][x] = c + r < key_count && j0 + x < args.head_dim
                          ? cached(args.values + (size_t)(key + c + r) * args.value_format.row_bytes, args.value_format,
                                   head * args.head_dim + j0 + x) : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < TILE; i++)
            for (int k = 0; k < 4; k++)
                sum[k] += a[y + 8 * k][i] * b[i][x];
        __syncthreads();
    }
    for (int k = 0; k < 4; k++) {
        int r = r0 + y + 8 * k, j = j0 + x;
        if (r >= piece.vector_count || j >= args.head_dim)
            continue;
        float *o = piece.sums + (slots + r) * args.head_dim + j;
        *o = *o * piece.rescale[slots + r] + sum[k];
    }
}

static __global__ void plain_end(attention_args args, plain_piece piece)
{
    extern __shared__ float x[];
    int slot = blockIdx.y * piece.vector_count + blockIdx.x;
    float *out = args.out + vector_offset(args, piece.head + (int)blockIdx.y, piece.vector + (int)blockIdx.x);
    for (int i = threadIdx.x; i < args.head_dim; i += blockDim.x)
        x[i] = piece.sums[(size_t)slot * args.head_dim + i] / piece.weight[slot];
    __syncthreads();
    if (args.value_format.chunk)
        rotate_shared(x, args.head_dim, (int)args.value_format.chunk);
    for (int i = threadIdx.x; i < args.head_dim; i += blockDim.x)
        out[i] = x[i];
}

static dim3 vector_grid(const plain_piece *piece)
{
    return dim3((unsigned)piece->vector_count, (unsigned)piece->heads);
}

static dim3 tile_grid(const plain_piece *piece, int columns)
{
    return dim3((unsigned)((columns + TILE - 1) / TILE), (unsigned)((piece->vector_count + TILE - 1) / TILE),
                (unsigned)piece->heads);
}

cudaError_t attention_plain_begin(const attention_args *args, const plain_piece *piece, cudaStream_t stream)
{
    plain_begin<<<vector_grid(piece), 64, (size_t)args->head_dim * sizeof(float), stream>>>(*args, *piece);
    return cudaGetLastError();
}

cudaError_t attention_plain_step(const attention_args *args, const plain_piece *piece, int key, int key_count,
                                 cudaStream_t stream)
{
    int slots = piece->heads * piece->vector_count;
    plain_scores<<<tile_grid(piece, key_count), THREADS, 0, stream>>>(*args, *piece, key, key_count);
    plain_softmax<<<(unsigned)((slots + THREADS / 32 - 1) / (THREADS / 32)), THREADS, 0, stream>>>(*piece, slots, key_count);
    plain_values<<<tile_grid(piece, args->head_dim), THREADS, 0, stream>>>(*args, *piece, key, key_count);
    return cudaGetLastError();
}

cudaError_t attention_plain_end(const attention_args *args, const plain_piece *piece, cudaStream_t stream)
{
    plain_end<<<vector_grid(piece), 64, (size_t)args->head_dim * sizeof(float), stream>>>(*args, *piece);
    return cudaGetLastError();
}
