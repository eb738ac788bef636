#include "model_run.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "gpu_case.h"
#include "metrics.h"
#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"
#include "plimsoll/process.h"
#include "plimsoll/units.h"
#include "text_ids.h"

#define DEQUANTISED_ELEMENT_BYTES 4        /* the CPU backend expands weights to fp32, for sgemm */
#define CUDA_DEQUANTISED_ELEMENT_BYTES 2   /* the CUDA backend to fp16, for the tensor cores */
#define READ_REFERENCE_NS ((uint64_t)60 * 1000 * 1000)

/* ---- open ---- */

static int random_ids(struct model_run *m, size_t count, struct plim_err *err)
{
    m->id_count = count;
    return text_ids_random(&m->ids, count, m->info.vocab_size,
                           (uint64_t)argument_count(&m->run->request->arguments, "seed"), err);
}

int model_run_open_session(struct model_run *m, size_t context_tokens, struct plim_err *err)
{
    struct plim_session_options options = { .context_tokens = context_tokens };

    return plim_session_open(&m->session, m->model, &options, err);
}

int model_run_open_engine(struct model_run *m, struct workload_run *run, struct plim_err *err)
{
    *m = (struct model_run){ .run = run };
    gpu_case_begin(m);
    m->start_ns = plim_now_ns();
    if (plim_engine_open(&m->engine, NULL, &run->parameters, NULL, err) < 0)
        return -1;
    m->open_ns = plim_now_ns() - m->start_ns;
    if (run->request->trace_path && run->repeat == 0 &&
        plim_pool_trace_start(plim_engine_pool(m->engine), run->request->trace_path, err) < 0)
        return -1;
    return control_hold(&run->request->control, plim_engine_pool(m->engine), &m->planted, err);
}

int model_run_open(struct model_run *m, struct workload_run *run, size_t context_tokens, size_t id_count,
                   struct plim_err *err)
{
    uint64_t load_start_ns;

    if (model_run_open_engine(m, run, err) < 0)
        return -1;
    load_start_ns = plim_now_ns();
    if (plim_model_load(&m->model, m->engine, run->request->model_directory, err) < 0)
        return -1;
    m->load_ns = plim_now_ns() - load_start_ns;
    plim_model_info(m->model, &m->info);
    if (random_ids(m, id_count, err) < 0)
        return -1;
    return context_tokens ? model_run_open_session(m, context_tokens, err) : 0;
}

/* ---- forward ---- */

/* 16 bytes: what every x86-64 has. Wider ones are taken apart into single numbers where a build allows no AVX. */
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t lane_mask __attribute__((vector_size(16)));
#define LANES (sizeof(lanes) / sizeof(float))
#define CHAINS 4          /* comparisons under way at once */
#define LOGITS_BLOCK 256  /* only the block with the largest value is looked through for its index */

/* The largest of at most LOGITS_BLOCK values; NaN where one is no number. */
static float largest_of(const float *values, size_t n)
{
    lanes largest[CHAINS], value;
    lane_mask unordered = { 0 };
    float most = -INFINITY;
    bool ordered = true;
    size_t i = 0;

    for (size_t k = 0; k < CHAINS; k++)
        largest[k] = (lanes){ 0 } - INFINITY;
    for (; i + CHAINS * LANES <= n; i += CHAINS * LANES) {
        for (size_t k = 0; k < CHAINS; k++) {
            memcpy(&value, values + i + k * LANES, sizeof value);
            lane_mask larger = value > largest[k];
            largest[k] = (lanes)(((lane_mask)value & larger) | ((lane_mask)largest[k] & ~larger));
            unordered |= value != value;
        }
    }
    for (size_t k = 0; k < CHAINS * LANES; k++) {
        float one = largest[k / LANES][k % LANES];
        most = one > most ? one : most;
        ordered &= !unordered[k % LANES];
    }
    for (; i < n; i++) {
        most = values[i] > most ? values[i] : most;
        ordered &= !isnan(values[i]);
    }
    return ordered ? most : NAN;
}

/*
 * The first index of the largest value; -1 where a value is no number. Within the measured part, so it must cost little:
 * a plain loop takes 0.1 ms for 128 Ki logits, 0.3% of a token on two cores and 3% on a GPU; this takes a quarter of that.
 */
static ptrdiff_t index_of_largest(const float *row, size_t n)
{
    float most = -INFINITY;
    size_t block = 0;

    for (size_t i = 0; i < n; i += LOGITS_BLOCK) {
        float here = largest_of(row + i, plim_min(LOGITS_BLOCK, n - i));
        if (isnan(here))
            return -1;
        if (here > most) {
            most = here;
            block = i;
        }
    }
    for (size_t i = block; i < n; i++)
        if (row[i] >= most)
            return (ptrdiff_t)i;
    return -1;
}

static int take_logits(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                       struct plim_err *err)
{
    struct last_logits *out = context;
    uint64_t start_ns = plim_now_ns();
    const float *row = logits + (rows - 1) * vocab_size;
    ptrdiff_t best = index_of_largest(row, vocab_size);

    if (best < 0 || !isfinite(row[best]))
        return plim_err_set(err, PLIM_ERR_INTERNAL, "logits of position %zu are not finite", first_position + rows - 1);
    out->id = (int32_t)best;
    if (out->want_digest)
        out->digest = XXH3_64bits(row, vocab_size * sizeof *row);
    out->harness_ns += plim_now_ns() - start_ns;
    return 0;
}

int model_run_fill(struct model_run *m, const int32_t *ids, size_t count, struct plim_err *err)
{
    struct plim_forward forward = { .rows = PLIM_LOGITS_NONE };

    return plim_session_forward(m->session, ids, count, &forward, err);
}

int model_run_forward(struct model_run *m, const int32_t *ids, size_t count, struct last_logits *out,
                      struct plim_err *err)
{
    struct plim_forward forward = { .rows = PLIM_LOGITS_LAST, .callback = take_logits, .context = out };

    return plim_session_forward(m->session, ids, count, &forward, err);
}

/* ---- time ---- */

static uint64_t process_cpu_ns(void)
{
    struct timespec used;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

struct stopwatch stopwatch_start(const struct model_run *m)
{
    struct stopwatch now;

    plim_engine_counters(m->engine, &now.counters);
    now.cpu_ns = process_cpu_ns();
    now.wall_ns = plim_now_ns();
    return now;
}

static struct stopwatch measure_since(const struct model_run *m, const struct stopwatch *start)
{
    struct stopwatch spent = { .wall_ns = plim_now_ns() - start->wall_ns, .cpu_ns = process_cpu_ns() - start->cpu_ns };
    const struct plim_counters *from = &start->counters;
    struct plim_counters to;

    plim_engine_counters(m->engine, &to);
    spent.counters = (struct plim_counters){
        .dequant_chunks = to.dequant_chunks - from->dequant_chunks,
        .dequantised_elements = to.dequantised_elements - from->dequantised_elements,
        .weight_bytes_read = to.weight_bytes_read - from->weight_bytes_read,
        .fused_calls = to.fused_calls - from->fused_calls,
        .chunked_calls = to.chunked_calls - from->chunked_calls,
        .attention_chunks = to.attention_chunks - from->attention_chunks,
        .forward_chunks = to.forward_chunks - from->forward_chunks,
    };
    return spent;
}

struct stopwatch stopwatch_stop(const struct model_run *m, const struct stopwatch *start)
{
    control_delay(&m->run->request->control, start->wall_ns);
    return measure_since(m, start);
}

/* ---- reporting ---- */

int report_number(struct model_run *m, const char *name, double value, struct plim_err *err)
{
    struct metric *metric = metric_of_case(&m->run->report, name, err);

    return metric ? metric_add_sample(metric, value, err) : -1;
}

int report_digest(struct model_run *m, const char *name, uint64_t digest, const char *key, struct plim_err *err)
{
    struct metric *metric = metric_of_case(&m->run->report, name, err);
    char text[17];

    snprintf(text, sizeof text, "%016" PRIx64, digest);
    return metric ? metric_set_text(metric, text, key, err) : -1;
}

void kernels_key(char *buffer, size_t size)
{
    struct plim_err ignored = PLIM_ERR_INIT;
    char library[256], core[64];
    enum plim_isa isa = PLIM_ISA_PORTABLE;

    plim_isa_select(&isa, &ignored);
    plim_blas_describe(library, sizeof library, core, sizeof core);
    snprintf(buffer, size, "%s/%s", plim_isa_name(isa), core);
}

void logits_key(const struct model_run *m, char *buffer, size_t size)
{
    char kernels[80];

    if (gpu_case_is_cuda(m)) {
        gpu_case_key(m, buffer, size);
        return;
    }
    kernels_key(kernels, sizeof kernels);
    snprintf(buffer, size, "%s/%lld", kernels, (long long)m->run->parameters.count[PLIM_CPU_THREADS]);
}

int report_cpu_time(struct model_run *m, const struct stopwatch *spent, struct plim_err *err)
{
    if (report_number(m, "cpu_time_ns", (double)spent->cpu_ns, err) < 0)
        return -1;
    return report_number(m, "cpu_seconds_per_second", (double)spent->cpu_ns / (double)spent->wall_ns, err);
}

int report_work(struct model_run *m, const struct stopwatch *spent, struct plim_err *err)
{
    const struct plim_counters *c = &spent->counters;
    double element_bytes = gpu_case_is_cuda(m) ? CUDA_DEQUANTISED_ELEMENT_BYTES : DEQUANTISED_ELEMENT_BYTES;
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        { "dequant_chunks", (double)c->dequant_chunks },
        { "dequantised_bytes", (double)c->dequantised_elements * element_bytes },
        { "weight_bytes_read", (double)c->weight_bytes_read },
        { "fused_calls", (double)c->fused_calls },
        { "chunked_calls", (double)c->chunked_calls },
        { "attention_chunks", (double)c->attention_chunks },
        { "forward_chunks", (double)c->forward_chunks },
    };

    if (report_cpu_time(m, spent, err) < 0)
        return -1;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (report_number(m, numbers[i].name, numbers[i].value, err) < 0)
            return -1;
    return 0;
}

int report_tags(struct model_run *m, const char *prefix, const uint64_t *bytes, struct plim_err *err)
{
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        char name[80];

        if (!bytes[tag])
            continue;
        snprintf(name, sizeof name, "%s_%s_bytes", prefix, plim_tag_name((enum plim_tag)tag));
        if (report_number(m, name, (double)bytes[tag], err) < 0)
            return -1;
    }
    return 0;
}

/* The peak covers the process's whole life, so it is the workload's own only until the first yardstick is opened. */
static void note_process(struct model_run *m)
{
    const struct references *r = m->run->references;

    if (!r->read_open && !r->gemm_open && !r->other_models) {
        m->peak_rss_bytes = plim_peak_rss_bytes();
        gpu_case_note_memory(m);
    }
}

/* Peaks as the pool has them. */
static int report_peaks(struct model_run *m, const struct plim_pool_stats *s, struct plim_err *err)
{
    if (report_number(m, "peak_requested_fast_bytes", (double)s->peak[PLIM_FAST].total_bytes, err) < 0 ||
        report_number(m, "peak_requested_slow_bytes", (double)s->peak[PLIM_SLOW].total_bytes, err) < 0 ||
        report_tags(m, "peak", s->tag_peak_bytes[PLIM_FAST], err) < 0 ||
        report_tags(m, "peak_slow", s->tag_peak_bytes[PLIM_SLOW], err) < 0 ||
        report_tags(m, "at_peak", s->peak[PLIM_FAST].bytes, err) < 0 ||
        report_number(m, "peak_reserved_fast_bytes", (double)s->reserved_peak_bytes[PLIM_FAST], err) < 0)
        return -1;
    return report_number(m, "peak_reserved_slow_bytes", (double)s->reserved_peak_bytes[PLIM_SLOW], err);
}

static int report_memory(struct model_run *m, struct plim_err *err)
{
    struct plim_pool_stats s;

    plim_pool_stats(plim_engine_pool(m->engine), &s);
    if ((!m->quantizes && report_peaks(m, &s, err) < 0) ||
        report_number(m, "allocation_count", (double)s.allocation_count, err) < 0)
        return -1;
    note_process(m);
    return m->peak_rss_bytes ? report_number(m, "peak_rss_bytes", (double)m->peak_rss_bytes, err) : 0;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

static void widen_plan(struct plim_plan *all, const struct plim_plan *plan)
{
    all->peak_bytes = plim_max(all->peak_bytes, plan->peak_bytes);
    all->slow_peak_bytes = plim_max(all->slow_peak_bytes, plan->slow_peak_bytes);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        all->tag_peak_bytes[tag] = plim_max(all->tag_peak_bytes[tag], plan->tag_peak_bytes[tag]);
        all->slow_tag_peak_bytes[tag] = plim_max(all->slow_tag_peak_bytes[tag], plan->slow_tag_peak_bytes[tag]);
    }
}

/* Where the fast tier is RAM, inference leaves the slow one alone: there is nothing to say of it. */
static int report_slow_prediction(struct model_run *m, const struct plim_plan *all, struct plim_err *err)
{
    if (all->slow_peak_bytes == 0)
        return 0;
    if (report_number(m, "predicted_slow_peak_bytes", (double)all->slow_peak_bytes, err) < 0)
        return -1;
    return report_tags(m, "predicted_slow", all->slow_tag_peak_bytes, err);
}

int report_prediction(struct model_run *m, const struct plim_plan_request *requests, size_t request_count,
                      struct plim_err *err)
{
    struct plim_plan all = { 0 };
    struct plim_pool_stats s;
    uint64_t error;

    for (size_t i = 0; i < request_count; i++) {
        struct plim_plan plan;

        if (plim_predict(m->run->request->model_directory, NULL, &m->run->parameters, &requests[i], &plan, err) < 0)
            return -1;
        widen_plan(&all, &plan);
    }
    plim_pool_stats(plim_engine_pool(m->engine), &s);
    error = distance(all.peak_bytes, s.peak[PLIM_FAST].total_bytes) +
            distance(all.slow_peak_bytes, s.peak[PLIM_SLOW].total_bytes);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        error += distance(all.tag_peak_bytes[tag], s.tag_peak_bytes[PLIM_FAST][tag]) +
                 distance(all.slow_tag_peak_bytes[tag], s.tag_peak_bytes[PLIM_SLOW][tag]);
    if (report_number(m, "predicted_peak_bytes", (double)all.peak_bytes, err) < 0 ||
        report_tags(m, "predicted", all.tag_peak_bytes, err) < 0 || report_slow_prediction(m, &all, err) < 0)
        return -1;
    return report_number(m, "prediction_error_bytes", (double)error, err);
}

/* What a look at the clock takes: tens of nanoseconds, or a microsecond where it is a system call. */
static double clock_read_ns(void)
{
    enum { READS = 64 };
    uint64_t start_ns = plim_now_ns(), last_ns = start_ns;

    for (int i = 0; i < READS; i++)
        last_ns = plim_now_ns();
    return (double)(last_ns - start_ns) / READS;
}

int report_harness(struct model_run *m, const struct stopwatch *spent, uint64_t harness_ns, size_t clock_reads,
                   struct plim_err *err)
{
    double own_ns = (double)harness_ns + (double)clock_reads * clock_read_ns();

    return report_number(m, "harness_fraction", own_ns / (double)spent->wall_ns, err);
}

/* ---- references ---- */

int report_read_reference(struct model_run *m, double bytes_per_s, uint64_t step_bytes, struct plim_err *err)
{
    struct references *r = m->run->references;
    double reference;

    /* Weights that stay in cache are not read at memory's speed: there is nothing to compare with. Warm-ups report
     * nothing, so they measure nothing either. */
    if ((!gpu_case_is_cuda(m) && step_bytes < 2 * last_level_cache_bytes()) || m->run->repeat < 0 ||
        !argument_is_on(&m->run->request->arguments, "bandwidth_reference"))
        return 0;
    note_process(m);
    if (gpu_case_is_cuda(m)) {
        r->read_open = true;
        return gpu_case_read_reference(m, bytes_per_s, step_bytes, err);
    }
    if (!r->read_open) {
        r->read_open = true;
        if (read_yardstick_open(&r->read, (int)m->run->parameters.count[PLIM_CPU_THREADS], err) < 0)
            return -1;
    }
    if (read_yardstick_measure(&r->read, READ_REFERENCE_NS, &reference, err) < 0)
        return -1;
    if (report_number(m, "read_bandwidth_bytes_per_s", reference, err) < 0)
        return -1;
    return report_number(m, "read_bandwidth_fraction", bytes_per_s / reference, err);
}

static size_t layer_shapes(const struct plim_model_info *info, struct gemm_shape shapes[7])
{
    size_t hidden = info->hidden_size, inner = info->intermediate_size;
    size_t q = info->head_count * info->head_dim, kv = info->kv_head_count * info->head_dim;

    shapes[0] = (struct gemm_shape){ hidden, q, 1 };
    shapes[1] = (struct gemm_shape){ hidden, kv, 2 };
    shapes[2] = (struct gemm_shape){ q, hidden, 1 };
    shapes[3] = (struct gemm_shape){ hidden, inner, 2 };
    shapes[4] = (struct gemm_shape){ inner, hidden, 1 };
    return 5;
}

int report_gemm_reference(struct model_run *m, size_t rows, double flops_per_s, struct plim_err *err)
{
    struct references *r = m->run->references;
    double reference;

    if (m->run->repeat < 0 || !argument_is_on(&m->run->request->arguments, "sgemm_reference"))
        return 0;
    note_process(m);
    if (gpu_case_is_cuda(m)) {
        r->gemm_open = true;
        return gpu_case_product_reference(m, rows, r->shapes, layer_shapes(&m->info, r->shapes), flops_per_s, err);
    }
    if (!r->gemm_open) {
        r->gemm_open = true;
        if (gemm_yardstick_open(&r->gemm, rows, r->shapes, layer_shapes(&m->info, r->shapes),
                                (int)m->run->parameters.count[PLIM_CPU_THREADS], err) < 0)
            return -1;
        gemm_yardstick_measure(&r->gemm);   /* warms up */
    }
    reference = gemm_yardstick_measure(&r->gemm);
    if (report_number(m, "sgemm_flops_per_s", reference, err) < 0)
        return -1;
    return report_number(m, "sgemm_fraction", flops_per_s / reference, err);
}

/* ---- close ---- */

int model_run_close(struct model_run *m, int rc, struct plim_err *err)
{
    struct plim_err unreported = PLIM_ERR_INIT;
    uint64_t leaked;

    if (m->engine) {
        if (rc < 0)
            plim_pool_last_refusal(plim_engine_pool(m->engine), &m->run->refusal);
        if (report_memory(m, rc < 0 ? &unreported : err) < 0)
            rc = -1;
    }
    if (gpu_case_end(m, rc < 0 ? &unreported : err) < 0)
        rc = -1;
    plim_session_close(m->session);
    plim_model_free(m->model);
    if (m->planted)
        plim_pool_free(plim_engine_pool(m->engine), m->planted);
    if (m->engine && plim_pool_trace_stop(plim_engine_pool(m->engine), rc < 0 ? &unreported : err) < 0)
        rc = -1;
    leaked = plim_engine_close(m->engine);
    free(m->ids);
    if (rc == 0 && leaked)
        rc = plim_err_set(err, PLIM_ERR_INTERNAL, "%llu blocks were still live after everything was closed",
                          (unsigned long long)leaked);
    if (rc == 0)
        rc = report_number(m, "leaked_blocks", (double)leaked, err);
    return rc;
}
