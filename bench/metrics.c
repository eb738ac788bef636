#include "metrics.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "plimsoll/json.h"
#include "plimsoll/pool.h"
#include "plimsoll/quantize.h"

static const struct metric_row rows[] = {
    /* speed */
    { "prefill_tokens_per_s", "tokens/s", METRIC_TIMING, DIRECTION_HIGHER, "prompt tokens over the time to their last logits" },
    { "prefill_flops_per_s", "flop/s", METRIC_TIMING, DIRECTION_HIGHER, "2 x layer weights x prompt tokens over the same time" },
    { "sgemm_flops_per_s", "flop/s", METRIC_TIMING, DIRECTION_HIGHER, "BLAS sgemm on ready fp32 weights of the same shapes, measured beside the prefill" },
    { "sgemm_fraction", "", METRIC_TIMING, DIRECTION_HIGHER, "prefill_flops_per_s over sgemm_flops_per_s of the same repeat" },
    { "decode_tokens_per_s", "tokens/s", METRIC_TIMING, DIRECTION_HIGHER, "one-token steps over their total time" },
    { "token_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "each one-token step" },
    { "weight_read_bytes_per_s", "bytes/s", METRIC_TIMING, DIRECTION_HIGHER, "weight bytes read in decode steps over their time" },
    { "read_bandwidth_bytes_per_s", "bytes/s", METRIC_TIMING, DIRECTION_HIGHER, "plain reads with the case's threads, measured beside the decode" },
    { "read_bandwidth_fraction", "", METRIC_TIMING, DIRECTION_HIGHER, "weight_read_bytes_per_s over read_bandwidth_bytes_per_s of the same repeat" },
    { "copy_bandwidth_bytes_per_s", "bytes/s", METRIC_TIMING, DIRECTION_HIGHER, "cuda: a device-to-device copy, bytes read and written, measured beside the decode" },
    { "copy_bandwidth_fraction", "", METRIC_TIMING, DIRECTION_HIGHER, "weight_read_bytes_per_s over copy_bandwidth_bytes_per_s of the same repeat" },
    { "fp16_product_flops_per_s", "flop/s", METRIC_TIMING, DIRECTION_HIGHER, "cuda: cuBLAS on ready fp16 weights of the same shapes, measured beside the prefill" },
    { "fp16_product_fraction", "", METRIC_TIMING, DIRECTION_HIGHER, "prefill_flops_per_s over fp16_product_flops_per_s of the same repeat" },
    { "generate_tokens_per_s", "tokens/s", METRIC_TIMING, DIRECTION_HIGHER, "generated tokens after the first over their time" },
    { "first_token_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "prompt to the first generated token" },
    { "perplexity_tokens_per_s", "tokens/s", METRIC_TIMING, DIRECTION_HIGHER, "tokens scored over the time" },
    { "open_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "opening the engine: on cuda, the driver's context" },
    { "load_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "model directory to a model that can run" },
    { "first_logits_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "model directory to the first logits (load, session, one token)" },
    { "quantize_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "quantising: a layer, or a whole model with its measurement apart" },
    { "measurement_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "measuring the error of every option of every block" },
    { "phase_PHASE_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "the phase's share of the quantizer's time, measurement included" },
    { "spin_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "the multiplications of the spin workload" },
    { "cpu_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "processor time of all threads in the measured part" },
    { "cpu_seconds_per_second", "", METRIC_TIMING, DIRECTION_LOWER, "processor time over wall time in the measured part: cores kept busy" },
    { "harness_fraction", "", METRIC_TIMING, DIRECTION_LOWER, "share of the measured part that is the harness's own: choosing ids, digests, looks at the clock" },
    { "harness_time_ns", "ns", METRIC_TIMING, DIRECTION_LOWER, "what the harness itself costs a case: process start to exit, less the work" },

    /* memory: requested bytes, exact */
    { "peak_requested_fast_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "peak of what the engine asked for on the fast tier" },
    { "peak_requested_slow_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "the same on the slow tier" },
    { "peak_TAG_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "the tag's own peak on the fast tier, whenever it was" },
    { "peak_slow_TAG_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "the tag's own peak on the slow tier" },
    { "at_peak_TAG_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "what the tag held when the fast tier's total peaked" },
    { "peak_in_PHASE_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "peak on the fast tier in this phase of the quantizer; search, spread and pack are part of quantise" },
    { "peak_slow_in_PHASE_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "the same on the slow tier" },
    { "boundary_floor_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "what is live on the fast tier behind a module of a conversion: the most, of all boundaries" },
    { "boundary_floor_spread_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "the most less the least of all boundaries: 0 when each module gives everything back" },
    { "predicted_peak_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "peak_requested_fast_bytes as predicted from the configuration" },
    { "predicted_TAG_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "peak_TAG_bytes as predicted from the configuration" },
    { "predicted_in_PHASE_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "peak_in_PHASE_bytes as predicted from the shape" },
    { "predicted_slow_in_PHASE_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "peak_slow_in_PHASE_bytes as predicted from the shape" },
    { "predicted_slow_peak_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "peak_requested_slow_bytes as predicted from the configuration" },
    { "predicted_slow_TAG_bytes", "bytes", METRIC_EXACT, DIRECTION_NONE, "peak_slow_TAG_bytes as predicted from the configuration" },
    { "prediction_error_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "sum of |measured - predicted| over the total, the tags, and the phases of a quantised layer" },
    { "allocation_count", "", METRIC_EXACT, DIRECTION_LOWER, "allocations that the engine made" },
    { "leaked_blocks", "", METRIC_EXACT, DIRECTION_LOWER, "blocks still live after everything was closed" },

    /* memory: as the pool and the system see it */
    { "peak_reserved_fast_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, "what the pool held from the system on the fast tier, cached blocks included" },
    { "peak_reserved_slow_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, "the same on the slow tier" },
    { "boundary_reserved_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, "held from the system on the fast tier behind a module of a conversion: the most, of all boundaries" },
    { "peak_rss_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, "peak resident set of the worker process, mapped files included" },
    { "process_device_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, "cuda: device memory of the worker process by the driver's count, after the work" },
    { "device_outside_pool_bytes", "bytes", METRIC_SYSTEM, DIRECTION_LOWER, "of it, what the pool does not hold: context, kernels, libraries" },

    /* the GPU beside a case, only recorded */
    { "gpu_sm_clock_before_mhz", "MHz", METRIC_SYSTEM, DIRECTION_NONE, "clock before a repeat" },
    { "gpu_sm_clock_after_mhz", "MHz", METRIC_SYSTEM, DIRECTION_NONE, "and after it" },
    { "gpu_temperature_before_c", "C", METRIC_SYSTEM, DIRECTION_NONE, "temperature before a repeat" },
    { "gpu_temperature_after_c", "C", METRIC_SYSTEM, DIRECTION_NONE, "and after it" },
    { "gpu_throttle_before", "", METRIC_SYSTEM, DIRECTION_NONE, "NVML's bits of why the clock is held down, before a repeat; 0: nothing holds it" },
    { "gpu_throttle_after", "", METRIC_SYSTEM, DIRECTION_NONE, "and after it" },

    /* work done, exact */
    { "dequant_chunks", "", METRIC_EXACT, DIRECTION_LOWER, "pieces of weights expanded" },
    { "dequantised_bytes", "bytes", METRIC_EXACT, DIRECTION_LOWER, "bytes of expanded weights written" },
    { "weight_bytes_read", "bytes", METRIC_EXACT, DIRECTION_LOWER, "stored weight bytes read by linear layers" },
    { "fused_calls", "", METRIC_EXACT, DIRECTION_NONE, "linear layers run by the fused kernel" },
    { "chunked_calls", "", METRIC_EXACT, DIRECTION_NONE, "linear layers run by expanding and BLAS" },
    { "attention_chunks", "", METRIC_EXACT, DIRECTION_NONE, "pieces of the attention matrix" },
    { "forward_chunks", "", METRIC_EXACT, DIRECTION_NONE, "pieces of at most max_input_len tokens" },
    { "generated_tokens", "tokens", METRIC_EXACT, DIRECTION_NONE, "tokens generated" },
    { "damping_attempts", "", METRIC_EXACT, DIRECTION_LOWER, "times that a Hessian was damped until it was positive definite, the most of all" },
    { "scored_tokens", "tokens", METRIC_EXACT, DIRECTION_NONE, "tokens that the perplexity is over" },

    /* the output itself */
    { "output_digest", "", METRIC_EXACT, DIRECTION_NONE, "digest of the greedy token ids" },
    { "logits_digest", "", METRIC_EXACT, DIRECTION_NONE, "digest of the logits' bits, for one ISA, BLAS core and thread count" },
    { "quantised_digest", "", METRIC_EXACT, DIRECTION_NONE, "digest of the quantised tensors, for one ISA and BLAS core, or card" },
    { "perplexity", "", METRIC_BOUNDED, DIRECTION_LOWER, "exp of the mean negative log-likelihood" },
    { "reference_perplexity", "", METRIC_BOUNDED, DIRECTION_NONE, "the same of the dense model" },
    { "perplexity_excess", "", METRIC_BOUNDED, DIRECTION_LOWER, "perplexity over reference_perplexity, less 1" },
    { "kl_divergence", "", METRIC_BOUNDED, DIRECTION_LOWER, "mean KL(dense || quantised) of the next token's probabilities, in nats" },
    { "top_token_agreement", "", METRIC_BOUNDED, DIRECTION_HIGHER, "positions where both models find the same token most probable" },
    { "quantisation_error", "", METRIC_BOUNDED, DIRECTION_LOWER, "relative Frobenius error: of a layer's outputs; of a model the mean over its blocks" },
    { "bits_per_weight", "", METRIC_BOUNDED, DIRECTION_NONE, "of the decoder's linear weights, scales and all" },
    { NULL, NULL, METRIC_EXACT, DIRECTION_NONE, NULL }
};

const struct metric_row *metric_rows(void)
{
    return rows;
}

/* What a pattern has a hole for. */
struct hole {
    const char *text;
    int count;
};

static const struct hole holes[] = { { "TAG", PLIM_TAG_COUNT }, { "PHASE", PLIM_QUANTIZE_PHASE_COUNT } };

static const char *filling(const struct hole *hole, int i)
{
    return hole == &holes[0] ? plim_tag_name((enum plim_tag)i)
                             : plim_quantize_phase_name((enum plim_quantize_phase)i);
}

/* The hole of a pattern and where it is, or NULL. */
static const struct hole *find_hole(const char *pattern, const char **at)
{
    for (size_t i = 0; i < sizeof holes / sizeof holes[0]; i++)
        if ((*at = strstr(pattern, holes[i].text)))
            return &holes[i];
    return NULL;
}

/* True when `name` is `pattern` with its hole filled in. */
static bool matches_pattern(const char *name, const char *pattern)
{
    const char *at;
    const struct hole *hole = find_hole(pattern, &at);
    size_t before, after, length = strlen(name);

    if (!hole)
        return false;
    before = (size_t)(at - pattern);
    after = strlen(at + strlen(hole->text));
    if (length <= before + after || strncmp(name, pattern, before) != 0 ||
        strcmp(name + length - after, at + strlen(hole->text)) != 0)
        return false;
    for (int i = 0; i < hole->count; i++) {
        const char *text = filling(hole, i);

        if (strlen(text) == length - before - after && strncmp(name + before, text, strlen(text)) == 0)
            return true;
    }
    return false;
}

const struct metric_row *metric_find(const char *name)
{
    const char *at;

    for (const struct metric_row *row = rows; row->name; row++)
        if (strcmp(row->name, name) == 0 && !find_hole(row->name, &at))
            return row;
    for (const struct metric_row *row = rows; row->name; row++)
        if (matches_pattern(name, row->name))
            return row;
    return NULL;
}

bool metric_is_silent_peak(const char *name)
{
    static const char *const patterns[] = { "peak_TAG_bytes", "peak_slow_TAG_bytes", "peak_in_PHASE_bytes",
                                            "peak_slow_in_PHASE_bytes" };

    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (matches_pattern(name, patterns[i]))
            return true;
    return false;
}

bool metric_only_explains(const char *name)
{
    static const char *const names[] = { "sgemm_flops_per_s", "read_bandwidth_bytes_per_s", "prefill_flops_per_s",
                                         "weight_read_bytes_per_s", "cpu_seconds_per_second", "reference_perplexity",
                                         "perplexity_excess", "harness_fraction", "copy_bandwidth_bytes_per_s",
                                         "fp16_product_flops_per_s" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return strncmp(name, "at_peak_", 8) == 0 || strncmp(name, "gpu_", 4) == 0 || strncmp(name, "predicted_", 10) == 0 || strncmp(name, "phase_", 6) == 0;
}

const char *metric_nearest(const char *name)
{
    /* Every plain name and every filling of every pattern. */
    enum { NAME_LIMIT = 400, NAME_SIZE = 64 };
    static char filled[NAME_LIMIT][NAME_SIZE];
    const char *names[NAME_LIMIT + 1];
    size_t count = 0;

    for (const struct metric_row *row = rows; row->name; row++) {
        const char *at;
        const struct hole *hole = find_hole(row->name, &at);

        for (int i = 0; i < (hole ? hole->count : 1) && count < NAME_LIMIT; i++) {
            if (hole)
                snprintf(filled[count], NAME_SIZE, "%.*s%s%s", (int)(at - row->name), row->name, filling(hole, i),
                         at + strlen(hole->text));
            else
                snprintf(filled[count], NAME_SIZE, "%s", row->name);
            names[count] = filled[count];
            count++;
        }
    }
    names[count] = NULL;
    return plim_nearest_name(name, names);
}

struct metric *metric_of_case(struct result_case *c, const char *name, struct plim_err *err)
{
    struct metric *metric = case_find_metric(c, name);
    const struct metric_row *row = metric ? NULL : metric_find(name);

    if (metric)
        return metric;
    if (!row) {
        plim_err_set(err, PLIM_ERR_INTERNAL, "metric %s is not in the table", name);
        return NULL;
    }
    return case_add_metric(c, name, row->unit, row->class, row->direction, err);
}

const struct metric *case_headline(const struct result_case *c)
{
    static const char *const names[] = { "prefill_tokens_per_s", "decode_tokens_per_s", "generate_tokens_per_s",
                                         "perplexity_tokens_per_s", "quantize_time_ns", "load_time_ns", "spin_time_ns", "harness_time_ns" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct metric *metric = case_find_metric(c, names[i]);

        if (metric)
            return metric;
    }
    return NULL;
}
