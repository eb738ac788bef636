#ifndef PLIM_CONVERSION_H
#define PLIM_CONVERSION_H

/* One conversion under way: what its stages share. measure.c, quantise.c, compile.c; quantize.c runs them. */

#include "block_run.h"
#include "calibration.h"
#include "drift.h"
#include "job.h"
#include "meter.h"
#include "plimsoll/json.h"
#include "plimsoll/progress.h"
#include "plimsoll/quantize.h"
#include "states.h"
#include "working_copy.h"

struct conversion {
    struct plim_engine *engine;
    struct plim_pool *pool;
    struct plim_quantize_options options;     /* defaults filled in */
    struct plim_model *model;                 /* opened, nothing loaded */
    struct job job;
    struct calibration calibration;
    struct meter meter;
    struct plim_progress progress;
    uint64_t steps_done;                      /* of the progress bar */
    uint64_t checkpoint_ns;                   /* when states were last saved (checkpoint.h) */

    /* One stage's rows at a time. */
    struct block_run run;
    struct states current, target;            /* inputs of the block that is next; its outputs */
    struct states dense;                      /* what the dense model has there; unopened: drift is not made up for */

    size_t sensitivity_rows, sensitivity_length;   /* 0 rows: none are measured */
    size_t block_count;                       /* 2 a layer: attention, MLP, attention, ... */
    int *choice;                              /* [block_count] option of each */
    double *expected_error;                   /* [block_count] */
    bool told_tiers[2];                       /* whether the log has said what goes to the slow tier: attention, MLP */
    struct plim_quantize_summary *summary;
};

void conversion_log(struct conversion *c, const char *format, ...) PLIM_PRINTF(2, 3);

/* Moves the progress bar to `steps_done`, plus what `detail` says. */
void conversion_progress(struct conversion *c, const char *detail);

/* The same for part `done` + 1 of `total` of one block's step, begun at `start_ns`: with the time left of that step. */
void conversion_progress_part(struct conversion *c, const char *what, size_t done, size_t total, uint64_t start_ns);

/* Opens run and both sets of states for a stage's rows, and embeds the tokens into `current`. */
int conversion_rows_open(struct conversion *c, const struct calibration_rows *rows, struct plim_err *err);
/* Embeds the tokens into the first rows of `current`. */
int conversion_embed(struct conversion *c, const struct calibration_rows *rows, struct plim_err *err);
/* Tokens first .. of a row, normed as the head wants them: normed [tokens, width], device. */
int conversion_norm_states(struct conversion *c, const struct states *s, size_t row, size_t first, size_t tokens,
                           float *normed, struct plim_err *err);
/* After it: opens `dense`, with the same states. conversion_rows_close closes it too. */
int conversion_dense_open(struct conversion *c, struct plim_err *err);
void conversion_rows_close(struct conversion *c);

/* ---- blocks ---- */

#define BLOCK_MAX_MATRICES 4

/* An attention or MLP block that is being measured or quantised. */
struct module {
    struct conversion *c;
    size_t index, layer_index;
    enum block_kind kind;
    char key[160];                            /* "model.layers.0.self_attn" */
    int matrix_count;
    int first;                                /* its first layer_matrix; the others follow */
    struct matrix_view view[BLOCK_MAX_MATRICES];
    struct layer *layer;                      /* of the model, loaded */
    struct layer quantised;                   /* the same with quantised matrices */
    struct hessian input, inner;              /* of all matrices but the last; of the last */
    struct drift input_drift, output_drift;   /* of the input; of the block's output, for the last matrix */
    enum plim_tier input_tier, inner_tier, weights_tier;
    bool drops_weights;                       /* the layer's own weights go once the rows have run */
    bool one_at_work;                         /* of the two Hessians, the other waits in the slow tier */
    bool rows_twice;                          /* the rows run once for each Hessian */
    struct states *variant;                   /* NULL, or gets the quantised block's output of sensitivity rows */
    int damping_attempts;
};

/* Fills in key, kind and views of block m->index, without loading anything. Refuses what cannot be quantised. */
int module_describe(struct module *m, struct plim_err *err);
int module_name(const struct conversion *c, size_t index, char key[160], struct plim_err *err);

/* Loads the block's part of the layer. On failure nothing is left. */
int module_open(struct module *m, struct conversion *c, size_t index, struct plim_err *err);
/* Also on zero bytes. Ends with the module boundary: pages dropped, cached memory released if the parameter says so. */
void module_close(struct module *m);

/*
 * Runs the block as it is over all rows of `current`, its outputs going to `target`; with `collect`, accumulates both
 * Hessians, but with `dense` states the input's only, and how far it has drifted. NaN or infinity in an output is an error
 * that names block and row.
 */
int module_reference(struct module *m, bool collect, struct plim_err *err);

/* Runs the block as it is over the dense model's states, which become its outputs. Nothing without them. */
int module_dense(struct module *m, struct plim_err *err);

/*
 * After module_dense, with all matrices but the last quantised in m->quantised: accumulates the inner Hessian on what these
 * give to the last one, and how far the block's output, with that one as it is, is from the dense model's.
 */
int module_inner(struct module *m, struct plim_err *err);

/*
 * Orders the features of the Hessians that were accumulated and are not ordered yet, and unless rounding to nearest factors
 * them; likewise the drifts.
 */
int module_factor(struct module *m, bool round_to_nearest, struct plim_err *err);

/* Of matrix p: the input's, or the inner one for the last; ready for work. NULL with `err` set when it can't be. */
const struct hessian *module_hessian(struct module *m, int p, struct plim_err *err);
/* NULL: none. */
const struct drift *module_drift(const struct module *m, int p);

/*
 * Two errors of a block's output y' where it should be y (residual included):
 *
 *     frobenius   mean over rows of |y' - y| / |y|, each a whole row: what ExLlamaV2 measures and logs
 *     token       root of the mean over tokens of |y' - y|^2 / |y|^2, each a token: what options are chosen by
 *
 * They part where a few tokens have states a thousand times as large as the others (the first one, often, from some
 * layer on): those tokens are all that the first sees, though the next norm divides them away. SmolLM2-135M at 4 bits
 * got 2.3 bits for its middle layers by it, and a perplexity 23% above dense.
 */
struct block_error {
    double frobenius, token;
};

/*
 * Runs m->quantised over `current` and compares with `target`; without `error` the target is not read. With `advance` the
 * outputs replace `current`.
 */
int module_quantised(struct module *m, bool advance, struct block_error *error, struct plim_err *err);

/* Option `option` of matrix p; sizes in bits by the format's formula, biases included. */
const struct exl2_layout *module_layout(enum block_kind kind, int option, int p);
int module_option_count(enum block_kind kind);
uint64_t module_option_bits(const struct module *m, int option);
uint64_t module_weights(const struct module *m);

/* ---- JSON of usage ---- */

cJSON *usage_to_json(const struct plim_quantize_usage *usage, struct plim_err *err);
int usage_from_json(struct plim_quantize_usage *usage, struct plim_json json, struct plim_err *err);

/* ---- stages ---- */

/* measure-*.json of every block that has none yet, then sensitivities, then measurement.json. */
int measure_blocks(struct conversion *c, struct plim_err *err);

/* ---- sensitivities (sensitivity.c) ---- */

/* How many rows of how many tokens; and which of the measurement's is row `row` of them. */
void sensitivity_set_rows(struct conversion *c);
size_t sensitivity_row(const struct conversion *c, size_t row);

/* The option that a block is quantised with for its variant of the states. */
int sensitivity_option(enum block_kind kind);

/* The output of the block that is being measured for those rows: variant-*.bin, written before the block's record. */
int sensitivity_variant_open(struct conversion *c, struct states *variant, struct plim_err *err);
int sensitivity_variant_save(struct conversion *c, size_t index, struct states *variant, struct plim_err *err);
/* Also when none is needed any more. */
bool sensitivity_has_variant(const struct conversion *c, size_t index);

/* sensitivity.json, once all blocks are measured; the variants go then. */
int measure_sensitivities(struct conversion *c, struct plim_err *err);

/* Adds "sensitivity" to a measurement that has all its entries. */
int sensitivity_add(struct conversion *c, cJSON *root, struct plim_err *err);

/* ---- allocation ---- */

/* Fills choice and expected_error from measurement.json, or from options.measurement. */
int allocate_options(struct conversion *c, struct plim_err *err);

/* module-*.safetensors and module-*.json of every block and the head that have none yet, then modules.json. */
int quantise_blocks(struct conversion *c, struct plim_err *err);

/* The file of a quantised block; block_count is the head. */
void stored_block_path(const struct conversion *c, size_t index, char path[JOB_PATH_BYTES]);

/* The output directory. */
int compile_output(struct conversion *c, struct plim_err *err);

#endif
