/*
 * Read bandwidth: each thread sums its own contiguous part of a buffer several times the last-level cache, as a decode
 * step streams weights. Anonymous memory with huge pages asked for: the best that plain loads get here.
 */

#include <string.h>
#include <sys/mman.h>

#include "plimsoll/cpu.h"
#include "plimsoll/units.h"
#include "yardstick.h"
#include "yardstick_threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BUFFER_LEAST (256 * PLIM_MI)
#define BUFFER_MOST ((size_t)2 * PLIM_GI)

/* Where sums go, so that no compiler drops the reads. */
static _Thread_local volatile uint64_t sink;

static uint64_t sum_portable(const uint64_t *words, size_t count)
{
    uint64_t sums[8] = { 0 };

    for (size_t i = 0; i < count; i += 8)
        for (size_t k = 0; k < 8; k++)
            sums[k] += words[i + k];
    return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

#if defined(__x86_64__)
/* Two cache lines a step in four chains; the prefetch crosses the 4 KiB borders that hardware prefetchers stop at. */
__attribute__((target("avx2"))) static uint64_t sum_avx2(const uint64_t *words, size_t count)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    uint64_t lanes[4];

    for (size_t i = 0; i < count; i += 16) {
        const __m256i *line = (const __m256i *)(const void *)(words + i);

        _mm_prefetch((const char *)(words + i) + 1024, _MM_HINT_T0);
        _mm_prefetch((const char *)(words + i) + 1088, _MM_HINT_T0);
        a = _mm256_add_epi64(a, _mm256_load_si256(line));
        b = _mm256_add_epi64(b, _mm256_load_si256(line + 1));
        c = _mm256_add_epi64(c, _mm256_load_si256(line + 2));
        d = _mm256_add_epi64(d, _mm256_load_si256(line + 3));
    }
    _mm256_storeu_si256((__m256i *)(void *)lanes, _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}
#endif

static void read_part(void *context, int thread)
{
    const struct read_yardstick *read = context;
    size_t words = read->buffer_bytes / 8 / (size_t)read->threads / 16 * 16;
    const uint64_t *part = (const uint64_t *)read->buffer + (size_t)thread * words;

#if defined(__x86_64__)
    if (plim_isa_supported(PLIM_ISA_AVX2)) {
        sink = sum_avx2(part, words);
        return;
    }
#endif
    sink = sum_portable(part, words);
}

/* Each thread writes its own part first, so that on machines with several memories its pages are near it. */
static void touch_part(void *context, int thread)
{
    const struct read_yardstick *read = context;
    size_t bytes = read->buffer_bytes / (size_t)read->threads / 128 * 128;

    memset((char *)read->buffer + (size_t)thread * bytes, 1, bytes);
}

int read_yardstick_open(struct read_yardstick *read, int threads, struct plim_err *err)
{
    size_t bytes = plim_min(plim_max(8 * last_level_cache_bytes(), BUFFER_LEAST), BUFFER_MOST);
    double unused;

    *read = (struct read_yardstick){ .threads = threads };
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return plim_err_errno(err, "mapping %zu bytes for the read yardstick", bytes);
    madvise(buffer, bytes, MADV_HUGEPAGE);
    read->buffer = buffer;
    read->buffer_bytes = bytes;
    return timed_passes(threads, 0, touch_part, read, &unused, err);
}

int read_yardstick_measure(struct read_yardstick *read, uint64_t duration_ns, double *bytes_per_s,
                           struct plim_err *err)
{
    size_t read_bytes = read->buffer_bytes / 8 / (size_t)read->threads / 16 * 16 * 8 * (size_t)read->threads;
    double pass_ns;

    if (timed_passes(read->threads, duration_ns, read_part, read, &pass_ns, err) < 0)
        return -1;
    *bytes_per_s = (double)read_bytes / pass_ns * 1e9;
    return 0;
}

void read_yardstick_close(struct read_yardstick *read)
{
    if (read->buffer)
        munmap(read->buffer, read->buffer_bytes);
    *read = (struct read_yardstick){ 0 };
}
