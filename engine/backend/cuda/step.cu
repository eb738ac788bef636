/*
 * One decoded token as a CUDA graph: some 300 launches become one.
 *
 * A step's operations are the same from token to token but for the position, which they read from cuda->step, and for the
 * parts that attention cuts the keys into, which change when the context outgrows a power of two. So a step is recorded
 * once for each of those, and launched again as long as every address that it was recorded with is still its own. The
 * first run of a kind is not recorded but simply run: kernels are loaded at their first use, which a capture forbids, and
 * it shows how much scratch the operations want.
 *
 *     first       run as it is; the most scratch that any operation takes is noted
 *     second      recorded, with one block of that size for all operations, and launched
 *     later       launched; the block is taken from the pool each time, so that the pool knows of it, and given back
 *
 * The pool's blocks are cached, so addresses rarely change; when one does, the step is recorded anew (about 2 ms).
 */

#include "cuda_kernels.cuh"

#include <string.h>

struct backend_step {
    struct step_key key;          /* of the recording, or of the first run */
    size_t keys_bucket;           /* 0: nothing was run yet */
    size_t scratch_bytes;         /* the most that any operation took */
    void *scratch;                /* address of the recording's block */
    cudaGraphExec_t graph;        /* NULL: not recorded yet */
    struct backend_counters work; /* what one step counts */
};

static __global__ void set_position(struct cuda_step *step, uint32_t past)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    step->past = past;
}

/* ---- small uploads ---- */

/* Bytes that go to the device as what a kernel is passed: no pinned piece, no event, and no change of engine. */
struct small_upload {
    uint32_t words[CUDA_SMALL_UPLOAD_BYTES / 4];
};

static __global__ void put_small(const __grid_constant__ struct small_upload from, uint32_t *to, unsigned words)
{
    cuda_let_next_start();
    cuda_wait_for_previous();
    if (threadIdx.x < words)
        to[threadIdx.x] = from.words[threadIdx.x];
}

extern "C" int cuda_upload_small(struct cuda *cuda, void *device, const void *host, size_t bytes, struct plim_err *err)
{
    struct small_upload from;

    memcpy(from.words, host, bytes);
    return cuda_launch(cuda, "upload", err, put_small, dim3(1), dim3(CUDA_SMALL_UPLOAD_BYTES / 4), 0, from,
                       (uint32_t *)device, (unsigned)(bytes / 4));
}

/* ---- scratch of operations ---- */

extern "C" void *cuda_scratch_take(struct backend *backend, enum plim_tag tag, size_t bytes, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);

    if (cuda->recording) {
        if (bytes <= cuda->scratch_bytes)
            return cuda->scratch;
        plim_err_set(err, PLIM_ERR_INTERNAL, "an operation of a recorded step takes %zu bytes, after %zu at its first run",
                     bytes, cuda->scratch_bytes);
        return NULL;
    }
    if (cuda->in_step)
        cuda->scratch_bytes = bytes > cuda->scratch_bytes ? bytes : cuda->scratch_bytes;
    return plim_pool_alloc(backend->pool, PLIM_FAST, tag, bytes, err);
}

extern "C" void cuda_scratch_give(struct backend *backend, void *block)
{
    if (!cuda_of(backend)->recording)
        plim_pool_free(backend->pool, block);
}

/* ---- recording ---- */

static void forget(struct backend_step *step)
{
    if (step->graph)
        cudaGraphExecDestroy(step->graph);
    step->graph = NULL;
}

/* Powers of two, as attention_few_splits has them. */
static size_t bucket_of(size_t past)
{
    size_t bucket = 256;

    while (bucket < past + 1)
        bucket *= 2;
    return bucket;
}

static bool same_addresses(const struct step_key *a, const struct step_key *b)
{
    return memcmp(a->address, b->address, sizeof a->address) == 0;
}

static int issue_plainly(struct backend *backend, struct backend_step *step, step_issue *issue, void *context,
                         struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);

    cuda->scratch_bytes = 0;
    int rc = issue(context, err);
    step->scratch_bytes = cuda->scratch_bytes;
    return rc;
}

static struct backend_counters counters_since(const struct backend_counters *now, const struct backend_counters *before)
{
    struct backend_counters work;

    work.dequant_chunks = now->dequant_chunks - before->dequant_chunks;
    work.dequantised_elements = now->dequantised_elements - before->dequantised_elements;
    work.weight_bytes_read = now->weight_bytes_read - before->weight_bytes_read;
    work.fused_calls = now->fused_calls - before->fused_calls;
    work.chunked_calls = now->chunked_calls - before->chunked_calls;
    work.attention_chunks = now->attention_chunks - before->attention_chunks;
    return work;
}

static void counters_add(struct backend_counters *counters, const struct backend_counters *work)
{
    counters->dequant_chunks += work->dequant_chunks;
    counters->dequantised_elements += work->dequantised_elements;
    counters->weight_bytes_read += work->weight_bytes_read;
    counters->fused_calls += work->fused_calls;
    counters->chunked_calls += work->chunked_calls;
    counters->attention_chunks += work->attention_chunks;
}

/* Work of the capture is counted when the graph is launched. */
static int record(struct backend *backend, struct backend_step *step, step_issue *issue, void *context, void *scratch,
                  struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct backend_counters before = backend->counters;
    cudaGraph_t graph = NULL;
    int rc;

    forget(step);
    CUDA_TRY(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal), err);
    cuda->recording = true;
    cuda->scratch = scratch;
    cuda->scratch_bytes = step->scratch_bytes;
    rc = issue(context, err);
    cuda->recording = false;
    cuda->scratch = NULL;
    step->work = counters_since(&backend->counters, &before);
    backend->counters = before;

    /* The capture ends whatever happened in it. */
    cudaError_t ended = cudaStreamEndCapture(cuda->stream, &graph);
    if (rc == 0)
        rc = cuda_check(ended, "recording a decode step", err);
    if (rc == 0)
        rc = cuda_check(cudaGraphInstantiate(&step->graph, graph, 0), "instantiating a decode step", err);
    if (graph)
        cudaGraphDestroy(graph);
    step->scratch = scratch;
    return rc;
}

static int launch(struct backend *backend, struct backend_step *step, step_issue *issue, void *context, void *scratch,
                  struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);

    if ((!step->graph || step->scratch != scratch) && record(backend, step, issue, context, scratch, err) < 0)
        return -1;
    CUDA_TRY(cudaGraphLaunch(step->graph, cuda->stream), err);
    counters_add(&backend->counters, &step->work);
    return 0;
}

extern "C" int cuda_step_run(struct backend *backend, struct backend_step *step, const struct step_key *key,
                             step_issue *issue, void *context, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    size_t bucket = bucket_of(key->past);
    bool first = bucket != step->keys_bucket;
    void *scratch = NULL;
    int rc = -1;

    if (first || !same_addresses(&step->key, key))
        forget(step);
    step->key = *key;
    if (cuda_launch(cuda, "set_position", err, set_position, dim3(1), dim3(1), 0, cuda->step, (uint32_t)key->past) < 0)
        return -1;
    cuda->in_step = true;
    if (first) {
        rc = issue_plainly(backend, step, issue, context, err);
        goto out;
    }
    if (step->scratch_bytes) {
        scratch = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, step->scratch_bytes, err);
        if (!scratch)
            goto out;
    }
    rc = launch(backend, step, issue, context, scratch, err);
out:
    cuda->in_step = false;
    plim_pool_free(backend->pool, scratch);
    /* After a failure nothing of it is relied on. */
    step->keys_bucket = rc == 0 ? bucket : 0;
    return rc;
}

/* Into a pinned piece; nobody takes that before the caller's next operation. */
extern "C" int cuda_step_result(struct backend *backend, const void *device, size_t bytes, const void **host,
                                struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct cuda_piece piece;

    static_assert(STEP_RESULT_BYTES <= CUDA_PIECE_BYTES, "a result fits a piece");
    if (cuda_staging_take(cuda, &piece, err) < 0)
        return -1;
    CUDA_TRY(cudaMemcpyAsync(piece.host, device, bytes, cudaMemcpyDeviceToHost, cuda->stream), err);
    CUDA_TRY(cudaStreamSynchronize(cuda->stream), err);
    *host = piece.host;
    return 0;
}

extern "C" int cuda_step_open(struct backend *backend, struct backend_step **step, struct plim_err *err)
{
    *step = (struct backend_step *)plim_pool_calloc(backend->pool, PLIM_HOST, PLIM_TAG_METADATA, 1, sizeof **step, err);
    return *step ? 0 : -1;
}

extern "C" void cuda_step_close(struct backend *backend, struct backend_step *step)
{
    if (!step)
        return;
    /* A graph that still runs must not be destroyed under it. */
    cudaStreamSynchronize(cuda_of(backend)->stream);
    forget(step);
    plim_pool_free(backend->pool, step);
}

extern "C" size_t cuda_step_host_bytes(void)
{
    return sizeof(struct backend_step);
}
