/*
 * Copies between host and device.
 *
 * The device's copy engine reads pageable memory at a tenth of its rate (6.5 instead of 54 GB/s on one H100), so everything
 * goes through a ring of pinned pieces: threads copy into one piece while the device empties the ones before it. Weights
 * thus go from the mapped file to the device without a second copy in RAM.
 *
 *     staging   [piece 0][piece 1][piece 2][piece 3]      each free again when its event has happened
 */

#include <string.h>

#include "cuda_internal.h"
#include "plimsoll/units.h"
#include "threads.h"

/* Below this a copy by one thread is over before a team would have begun. */
#define TEAM_BYTES ((size_t)256 << 10)
#define TEAM_GRAIN ((size_t)64 << 10)

/* ---- the ring ---- */

int cuda_staging_open(struct backend *backend, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct cuda_staging *s = &cuda->staging;

    s->memory = plim_pool_alloc(backend->pool, PLIM_HOST, PLIM_TAG_IO, CUDA_STAGING_BYTES, err);
    if (!s->memory)
        return -1;
    CUDA_TRY(cudaHostRegister(s->memory, CUDA_STAGING_BYTES, cudaHostRegisterMapped | cudaHostRegisterPortable), err);
    s->pinned = true;
    CUDA_TRY(cudaHostGetDevicePointer((void **)&s->device, s->memory, 0), err);
    for (int i = 0; i < CUDA_STAGING_PIECES; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming), err);
    return 0;
}

void cuda_staging_close(struct backend *backend)
{
    struct cuda_staging *s = &cuda_of(backend)->staging;

    for (int i = 0; i < CUDA_STAGING_PIECES; i++)
        if (s->done[i])
            cudaEventDestroy(s->done[i]);
    if (s->pinned)
        cudaHostUnregister(s->memory);
    plim_pool_free(backend->pool, s->memory);
    *s = (struct cuda_staging){ 0 };
}

int cuda_staging_take(struct cuda *cuda, struct cuda_piece *piece, struct plim_err *err)
{
    struct cuda_staging *s = &cuda->staging;

    piece->index = s->next;
    s->next = (s->next + 1) % CUDA_STAGING_PIECES;
    piece->host = s->memory + piece->index * CUDA_PIECE_BYTES;
    piece->device = s->device + piece->index * CUDA_PIECE_BYTES;
    /* An event that was never recorded has happened. */
    return cuda_check(cudaEventSynchronize(s->done[piece->index]), "waiting for a pinned buffer", err);
}

int cuda_staging_used(struct cuda *cuda, const struct cuda_piece *piece, struct plim_err *err)
{
    return cuda_check(cudaEventRecord(cuda->staging.done[piece->index], cuda->stream), "cudaEventRecord", err);
}

/* ---- copies in the host's memory ---- */

struct copy_job {
    char *to;
    const char *from;
};

static void copy_part(void *context, size_t begin, size_t end, int thread)
{
    const struct copy_job *job = context;

    (void)thread;
    memcpy(job->to + begin, job->from + begin, end - begin);
}

static void copy(struct backend *backend, void *to, const void *from, size_t bytes)
{
    struct copy_job job = { to, from };

    if (bytes < TEAM_BYTES)
        memcpy(to, from, bytes);
    else
        threads_run(backend->threads, bytes, TEAM_GRAIN, copy_part, &job);
}

/* ---- operations ---- */

int cuda_upload(struct backend *backend, void *device, const void *host, size_t bytes, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct cuda_piece piece;

    if (bytes <= CUDA_SMALL_UPLOAD_BYTES && bytes > 0 && bytes % 4 == 0 && (uintptr_t)device % 4 == 0)
        return cuda_upload_small(cuda, device, host, bytes, err);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = plim_min(bytes - done, CUDA_PIECE_BYTES);
        if (cuda_staging_take(cuda, &piece, err) < 0)
            return -1;
        copy(backend, piece.host, (const char *)host + done, n);
        CUDA_TRY(cudaMemcpyAsync((char *)device + done, piece.host, n, cudaMemcpyHostToDevice, cuda->stream), err);
        if (cuda_staging_used(cuda, &piece, err) < 0)
            return -1;
    }
    return 0;
}

/*
 * A piece of what one device hands to another, through the first one's pinned memory: nothing is asked of the way between
 * them, and 32 MiB take a millisecond. The two streams wait for each other, the host for neither.
 */
static int hand_over(struct cuda *from, struct cuda *to, const char *what, char *where, size_t bytes, struct plim_err *err)
{
    struct cuda_piece piece;

    CUDA_TRY(cudaSetDevice(from->device), err);
    if (cuda_staging_take(from, &piece, err) < 0)
        return -1;
    CUDA_TRY(cudaMemcpyAsync(piece.host, what, bytes, cudaMemcpyDeviceToHost, from->stream), err);
    CUDA_TRY(cudaEventRecord(from->fork, from->stream), err);
    CUDA_TRY(cudaSetDevice(to->device), err);
    CUDA_TRY(cudaStreamWaitEvent(to->stream, from->fork, 0), err);
    CUDA_TRY(cudaMemcpyAsync(where, piece.host, bytes, cudaMemcpyHostToDevice, to->stream), err);
    CUDA_TRY(cudaEventRecord(to->join, to->stream), err);
    CUDA_TRY(cudaSetDevice(from->device), err);
    CUDA_TRY(cudaStreamWaitEvent(from->stream, to->join, 0), err);
    return cuda_staging_used(from, &piece, err);
}

int cuda_receive(struct backend *backend, void *to, struct backend *from, const void *what, size_t bytes, struct plim_err *err)
{
    int rc = 0;

    for (size_t done = 0, n; done < bytes && rc == 0; done += n) {
        n = plim_min(bytes - done, CUDA_PIECE_BYTES);
        rc = hand_over(cuda_of(from), cuda_of(backend), (const char *)what + done, (char *)to + done, n, err);
    }
    CUDA_TRY(cudaSetDevice(cuda_of(backend)->device), err);
    return rc;
}

/* One piece ahead: the device fills the next while this one is copied out. */
int cuda_download(struct backend *backend, void *host, const void *device, size_t bytes, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    struct cuda_piece piece[2];

    for (size_t asked = 0, done = 0; done < bytes;) {
        if (asked < bytes && asked < done + 2 * CUDA_PIECE_BYTES) {
            struct cuda_piece *next = &piece[asked / CUDA_PIECE_BYTES % 2];
            size_t n = plim_min(bytes - asked, CUDA_PIECE_BYTES);
            if (cuda_staging_take(cuda, next, err) < 0)
                return -1;
            CUDA_TRY(cudaMemcpyAsync(next->host, (const char *)device + asked, n, cudaMemcpyDeviceToHost, cuda->stream),
                     err);
            if (cuda_staging_used(cuda, next, err) < 0)
                return -1;
            asked += n;
            continue;
        }
        struct cuda_piece *this = &piece[done / CUDA_PIECE_BYTES % 2];
        size_t n = plim_min(bytes - done, CUDA_PIECE_BYTES);
        CUDA_TRY(cudaEventSynchronize(cuda->staging.done[this->index]), err);
        copy(backend, (char *)host + done, this->host, n);
        done += n;
    }
    return 0;
}
