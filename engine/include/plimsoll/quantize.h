#ifndef PLIMSOLL_QUANTIZE_H
#define PLIMSOLL_QUANTIZE_H

/*
 * The quantizer: from a dense Hugging Face directory to an EXL2 directory.
 *
 *     struct plim_quantize_options options = { .model_directory = "dense", .output_directory = "exl2",
 *                                              .bits_per_weight = 4.0 };
 *     struct plim_quantize_summary summary;
 *     if (plim_quantize(engine, &options, &summary, &err) == 0)
 *         ...
 *     plim_quantize_summary_release(&summary, engine);
 *
 * Stages: calibration tokens; measurement (the error of every option of every attention and MLP block, and how sensitive the
 * model's predictions are to each block's); allocation
 * (an option for each, within bits_per_weight); quantisation (adaptive GPTQ, each block seeing the outputs of the
 * quantised blocks before it); compilation to sharded safetensors.
 *
 * Everything is kept in a job directory, each step written atomically: a conversion that was killed goes on where it
 * stopped, and its files are byte for byte those of an uninterrupted one. They depend on the model, the options, the
 * instruction set and the BLAS core (on CUDA: the kind of card and its cuBLAS); on nothing else: not on threads, memory_budget, hessian_offload_threshold or any
 * other parameter that bounds memory.
 *
 * The engine gives the pool, the threads and the parameters: hessian_offload_threshold, release_at_boundary,
 * memory_budget, cpu_threads. Its other parameters have no effect here. The pool's slow tier is moved to the job
 * directory if it holds nothing yet, and the pool's peaks are reset at every phase: the summary has them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "plimsoll/engine.h"
#include "plimsoll/err.h"
#include "plimsoll/pool.h"

/* What a conversion spends its time on. */
#define PLIM_QUANTIZE_PHASES(X)                                                                                        \
    X(FORWARD, "forward")        /* running blocks over the calibration rows, and comparing their outputs */           \
    X(HESSIAN, "hessian")        /* accumulation, and the order of its features */                                     \
    X(PERMUTE, "permute")                                                                                              \
    X(CHOLESKY, "cholesky")                                                                                            \
    X(INVERT, "invert")                                                                                                \
    X(GATHER, "gather")          /* weights into a working copy, fp32, in the Hessian's order */                       \
    X(SEARCH, "search")          /* scales */                                                                          \
    X(QUANTISE, "quantise")      /* rows, and their errors within a group */                                           \
    X(SPREAD, "spread")          /* errors to later groups */                                                          \
    X(PACK, "pack")                                                                                                    \
    X(WRITE, "write")            /* job and output files */                                                            \
    X(OTHER, "other")

enum plim_quantize_phase {
#define PLIM_QUANTIZE_ENUM(name, text) PLIM_QUANTIZE_##name,
    PLIM_QUANTIZE_PHASES(PLIM_QUANTIZE_ENUM)
#undef PLIM_QUANTIZE_ENUM
    PLIM_QUANTIZE_PHASE_COUNT
};

const char *plim_quantize_phase_name(enum plim_quantize_phase phase);

#define PLIM_QUANTIZE_SENSITIVITY_ROWS 4   /* a good number of them: options.sensitivity_rows */

/* Time and requested bytes of a stretch of work. search, spread and pack share quantise's peak. */
struct plim_quantize_usage {
    uint64_t phase_ns[PLIM_QUANTIZE_PHASE_COUNT];
    uint64_t phase_peak_bytes[PLIM_TIER_COUNT][PLIM_QUANTIZE_PHASE_COUNT];
    uint64_t peak_bytes[PLIM_TIER_COUNT];
    uint64_t tag_peak_bytes[PLIM_TIER_COUNT][PLIM_TAG_COUNT];
};

struct plim_quantize_options {
    const char *model_directory;      /* dense */
    const char *output_directory;     /* must not exist, be empty, or be this job's own */
    const char *job_directory;        /* NULL: OUTPUT.job */
    double bits_per_weight;           /* of the decoder's linear weights, scales and all; never exceeded */
    int head_bits;                    /* 2, 3, 4, 5, 6 or 8; 0: 6 */

    /*
     * .txt, .jsonl (a "text" in each line), or .safetensors (input_ids, I64 or I32 [rows, length]); NULL: the built-in
     * mix. Texts are tokenised without special tokens, joined and cut in rows; too short a text is an error.
     */
    const char *calibration;
    size_t rows, length;                          /* for quantisation; 0: 100 x 2048; lengths are clipped */
    size_t measurement_rows, measurement_length;  /* for measurement; 0: 16 x 2048       to the model's positions */

    /*
     * How many of the measurement's rows (their first 512 tokens) measure each block's sensitivity: the KL divergence of the
     * model's predictions when that block alone is quantised, by its squared error. No more than a quarter of them or one, so
     * that it costs less than the rest of the measurement. 0: errors of all blocks weigh the same, also where an earlier
     * measurement has sensitivities.
     */
    size_t sensitivity_rows;

    const char *measurement;          /* measurement.json of an earlier job of this model, or ExLlamaV2's; NULL: measure */
    bool measure_only;                /* ends once the job directory has measurement.json; no output is written */
    uint64_t shard_bytes;             /* 0: 8192 MiB */
    double checkpoint_s;              /* least time between saves of the calibration states to the job directory; 0: 180 */
    bool round_to_nearest;            /* for comparison: same order, groups, scales and allocation, no error feedback */
    bool as_exllamav2;                /* its damping and its scale search: the same inputs give the same codes as its own,
                                         with more error than by ours */
    uint64_t seed;                    /* of the built-in mix */

    FILE *progress;                   /* a bar with the time left; NULL: none */
    void (*log)(void *context, const char *line);   /* what is worth knowing, a line each; NULL: nowhere */
    void *log_context;
};

/* An attention or MLP block, or the head. */
struct plim_quantize_module {
    char name[160];                   /* "model.layers.0.self_attn", ".mlp", "lm_head" */
    int option;                       /* row of ExLlamaV2's option table; -1: the head */
    double bits_per_weight;
    double expected_error;            /* token_error as measured for the option; the head: 0 */
    double token_error;               /* of the block's output on its own inputs: root of the mean over tokens of the
                                         squared relative error; options are chosen by it. The head: 0 */
    double error;                     /* likewise, relative Frobenius error of whole rows: ExLlamaV2's rfn_error; the
                                         head: of the logits */
    struct plim_quantize_usage usage; /* of quantisation, measurement apart */
    uint64_t floor_bytes;             /* live on the fast tier once the block is done */
    uint64_t reserved_bytes;          /* held from the system on the fast tier then, after release_at_boundary */
    int damping_attempts;             /* the most that one of its Hessians took */
};

struct plim_quantize_summary {
    struct plim_quantize_module *modules;   /* pool memory */
    size_t module_count;              /* 0 with measure_only */
    double bits_per_weight;           /* of the decoder, by the format's own formula; <= the target */
    double loss;                      /* sum over the blocks of sensitivity x expected_error^2, a KL divergence in nats; without
                                         sensitivities of expected_error^2 */
    double loss_bound;                /* the least possible for the budget: equal when the allocation is optimal */
    bool weighted;                    /* by sensitivities */
    double head_bits_per_weight;
    size_t rows, length, measurement_rows, measurement_length;   /* as used */
    struct plim_quantize_usage measurement;  /* all blocks together; zero when an earlier one was reused */
    struct plim_quantize_usage quantisation;
    double measurement_s, quantisation_s, compile_s;
    uint64_t spill_peak_bytes;        /* reserved on the slow tier */
    uint64_t reserved_peak_bytes;     /* on the fast tier */
    uint64_t output_bytes;            /* of the tensor files */
    char digest[33];                  /* XXH3-128 of the tensor files' bytes, in order */
    bool resumed;                     /* the job directory held finished steps; their figures are those of the run that
                                         did them */
};

/* `summary` may be NULL; on failure it is empty. */
int plim_quantize(struct plim_engine *engine, const struct plim_quantize_options *options,
                  struct plim_quantize_summary *summary, struct plim_err *err);
void plim_quantize_summary_release(struct plim_quantize_summary *summary, struct plim_engine *engine);

/* ---- one linear layer, made up: a workload ---- */

struct plim_quantize_layer_options {
    size_t in_features;               /* K, a multiple of 32 up to 65536; with factor_only any number up to it */
    size_t out_features;              /* N */
    size_t rows, length;              /* calibration: sequences, and tokens in each */
    int bits;                         /* 2, 3, 4, 5, 6 or 8: the layout of that head_bits, mixed widths and all */
    bool as_exllamav2;                /* with its damping and its scale search */
    bool round_to_nearest;            /* no factor, no error feedback */
    bool factor_only;                 /* Hessian, permutation, factor and inverse, no weights: out_features and bits
                                         are not looked at */
    uint64_t seed;
};

struct plim_quantize_layer_result {
    struct plim_quantize_usage usage; /* of phase permute: 4 K^2 are on one tier or the other, by the threshold */
    double error;                     /* relative Frobenius error of x W over the calibration rows */
    double bits_per_weight;
    bool offloaded;
    int damping_attempts;
    uint64_t floor_bytes;             /* live on the fast tier afterwards, beyond what was live before: 0 */
    uint64_t reserved_bytes;          /* afterwards, on the fast tier */
    uint64_t reserved_peak_bytes[PLIM_TIER_COUNT];
    char digest[33];                  /* XXH3-128 of the packed tensors; with factor_only of the inverse's factor */
};

/*
 * Makes calibration rows (correlated, features of log-normal spread) and fp16 weights, and quantises the layer: Hessian,
 * permutation, factor, GPTQ, packing. The rows are made again for the error, so that only one sequence is ever held.
 */
int plim_quantize_layer(struct plim_engine *engine, const struct plim_quantize_layer_options *options,
                        struct plim_quantize_layer_result *result, struct plim_err *err);

/*
 * Predicts its requested bytes on a backend (as in plim_engine_open) by formula, without an engine: each phase's, each tag's and the total's peaks,
 * equal to those of the result to the byte when the pool holds nothing else (an engine that was just opened: add what its
 * pool holds).
 */
int plim_quantize_layer_predict(const char *backend, const struct plim_parameters *parameters,
                                const struct plim_quantize_layer_options *options,
                                struct plim_quantize_usage *usage, struct plim_err *err);

#endif
