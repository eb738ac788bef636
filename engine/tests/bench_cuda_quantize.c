/*
 * One linear layer quantised on CUDA, phase by phase: bench_cuda_quantize [K N [sequences [bits [budget GiB]]]]. A
 * developer's benchmark of the same work as ExLlamaV2's AdaptiveGPTQ: Hessian of sequences x 2048 tokens that are on the
 * device, ordering, factor, gathering of fp16 weights from host memory, GPTQ, packing, packed result on the host. A small
 * layer goes first, unmeasured: it loads cuBLAS and the kernels.
 */

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "gptq.h"
#include "half.h"
#include "plimsoll/clock.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "quantize_ops.h"
#include "threads.h"

#define TOKENS ((size_t)2048)
#define DISTINCT 4   /* sequences that are made; they take turns */

struct bench {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
    const struct quantize_ops *ops;
    size_t k, n, sequences;
    int bits;
    bool measured;
    float *x[DISTINCT];      /* device */
    uint16_t *weights;       /* fp16 [N, K] */
};

static double seconds_since(struct bench *b, uint64_t *start, struct plim_err *err)
{
    (void)b->ops->wait(&b->backend, err);
    uint64_t now = plim_now_ns(), from = *start;
    *start = now;
    return (double)(now - from) / 1e9;
}

static double peak_mib(struct bench *b)
{
    struct plim_pool_stats stats;
    plim_pool_stats(b->pool, &stats);
    plim_pool_reset_peak(b->pool);
    return (double)stats.peak[PLIM_FAST].total_bytes / (double)PLIM_MI;
}

static int make_data(struct bench *b, struct plim_err *err)
{
    size_t count = TOKENS * b->k;
    float *host = malloc(count * sizeof *host), *spread = malloc(b->k * sizeof *spread);
    struct plim_random random;
    int rc = 0;

    plim_random_seed(&random, 1, 0);
    for (size_t i = 0; i < b->k; i++)
        spread[i] = expf(0.7f * (float)plim_random_normal(&random));
    for (int s = 0; s < DISTINCT && rc == 0; s++) {
        for (size_t i = 0; i < count; i++) {
            uint64_t bits = plim_random_u64(&random);
            float a = (float)(uint32_t)bits, c = (float)(uint32_t)(bits >> 32);
            host[i] = spread[i % b->k] * (a + c - 4294967296.0f) / 1753413056.0f;   /* a triangle of deviation 1 */
        }
        b->x[s] = plim_pool_alloc(b->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, count * sizeof *host, err);
        rc = b->x[s] ? b->backend.ops->upload(&b->backend, b->x[s], host, count * sizeof *host, err) : -1;
    }
    b->weights = malloc(b->k * b->n * sizeof *b->weights);
    for (size_t i = 0; i < b->k * b->n; i++)
        b->weights[i] = half_from_float(0.02f * ((float)(plim_random_u64(&random) >> 40) / 8388608.0f - 1.0f));
    free(spread);
    free(host);
    return rc;
}

static int run(struct bench *b, struct plim_err *err)
{
    const struct exl2_layout layout = { 1, { { (uint32_t)b->bits, 128, 1.0 } } };
    struct linear_source source = {
        .name = "layer", .dtype = DTYPE_F16, .weight = b->weights, .in_features = b->k, .out_features = b->n
    };
    struct hessian h = { 0 };
    struct hessian_report report;
    struct gptq_result result = { 0 };
    float *w = NULL;
    int rc = -1;
    /* As in a conversion, one sequence is on the device beside the Hessian; the others are not counted. */
    double others = (double)(DISTINCT - 1) * (double)(TOKENS * b->k * sizeof(float)) / (double)PLIM_MI;

    if (hessian_init(&h, &b->backend, b->k, err) < 0)
        goto out;
    (void)b->ops->wait(&b->backend, err);
    (void)peak_mib(b);
    uint64_t begin = plim_now_ns(), start = begin;
    for (size_t s = 0; s < b->sequences; s++)
        if (hessian_add(&h, b->x[s % DISTINCT], TOKENS, err) < 0)
            goto out;
    double add_s = seconds_since(b, &start, err), add_mib = peak_mib(b) - others;
    for (int s = 0; s < DISTINCT; s++) {
        plim_pool_free(b->pool, b->x[s]);
        b->x[s] = NULL;
    }
    if (b->parameters.count[PLIM_RELEASE_AT_BOUNDARY])
        plim_pool_trim(b->pool);
    (void)peak_mib(b);
    start = plim_now_ns();
    if (hessian_order(&h, "layer", err) < 0)
        goto out;
    double order_s = seconds_since(b, &start, err);
    if (hessian_factor(&h, "layer", b->parameters.count[PLIM_HESSIAN_OFFLOAD_THRESHOLD], &report, err) < 0)
        goto out;
    double factor_s = seconds_since(b, &start, err), factor_mib = peak_mib(b);
    factor_mib = fmax(factor_mib, (double)plim_max(report.permute_peak_bytes[PLIM_FAST],
                                                   report.factor_peak_bytes[PLIM_FAST]) / (double)PLIM_MI);
    w = plim_pool_alloc(b->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, b->k * b->n * sizeof *w, err);
    if (!w || b->ops->gather_weights(&b->backend, &source, h.order, b->n, b->n, w, err) < 0)
        goto out;
    double gather_s = seconds_since(b, &start, err);
    if (gptq_quantise(&result, w, b->n, &h, &layout, false, err) < 0)
        goto out;
    double gptq_s = seconds_since(b, &start, err), gptq_mib = peak_mib(b);
    double total = add_s + order_s + factor_s + gather_s + gptq_s;
    rc = 0;
    if (!b->measured)
        goto out;
    printf("%zu -> %zu, %d bits, %zu x %zu tokens%s: hessian %.3f s (%.2f ms a sequence), order %.4f, permute %.4f, "
           "cholesky %.4f, invert %.4f, gather %.4f, gptq %.4f (search %.4f rows %.4f spread %.4f pack %.4f); total %.3f s\n"
           "    peak MiB: hessian %.0f, factor %.0f, quantise %.0f\n",
           b->k, b->n, b->bits, b->sequences, TOKENS, report.offloaded ? ", offloaded" : "", add_s,
           add_s / (double)b->sequences * 1e3, order_s, (double)report.permute_ns / 1e9, (double)report.cholesky_ns / 1e9,
           (double)report.invert_ns / 1e9, gather_s, gptq_s, (double)result.search_ns / 1e9,
           (double)result.quantise_ns / 1e9, (double)result.spread_ns / 1e9, (double)result.pack_ns / 1e9, total, add_mib,
           factor_mib, gptq_mib);

out:
    gptq_result_release(&result, b->pool);
    plim_pool_free(b->pool, w);
    hessian_release(&h);
    return rc;
}

static int run_layer(struct bench *b, size_t k, size_t n, size_t sequences, bool measured, struct plim_err *err)
{
    b->k = k;
    b->n = n;
    b->sequences = sequences;
    b->measured = measured;
    int rc = make_data(b, err) < 0 || run(b, err) < 0 ? -1 : 0;
    free(b->weights);
    b->weights = NULL;
    return rc;
}

int main(int argc, char **argv)
{
    struct bench b = { .bits = 4 };
    size_t k = 14336, n = 4096, sequences = 64;
    struct plim_pool_memory memory;
    struct plim_pool_options options = { .fast_memory = &memory };
    struct plim_err err = PLIM_ERR_INIT;

    if (argc > 2) {
        k = strtoul(argv[1], NULL, 10);
        n = strtoul(argv[2], NULL, 10);
    }
    if (argc > 3)
        sequences = strtoul(argv[3], NULL, 10);
    if (argc > 4)
        b.bits = atoi(argv[4]);
    if (argc > 5)
        options.fast_budget_bytes = (size_t)(atof(argv[5]) * (double)PLIM_GI);
    b.ops = backend_quantize_ops("cuda");
    plim_parameters_default(&b.parameters);
    if (plim_parameters_resolve(&b.parameters, &err) < 0 || !backend_memory("cuda", &b.parameters, &memory) ||
        plim_pool_open(&b.pool, &options, &err) < 0 ||
        threads_open(&b.threads, (int)b.parameters.count[PLIM_CPU_THREADS], &err) < 0 ||
        backend_open(&b.backend, "cuda", b.pool, b.threads, &b.parameters, &err) < 0)
        goto fail;
    if (run_layer(&b, 1280, 256, 2, false, &err) < 0 || run_layer(&b, k, n, sequences, true, &err) < 0)
        goto fail;
    return 0;

fail:
    fprintf(stderr, "bench_cuda_quantize: %s\n", err.message);
    return 1;
}
