#ifndef PLIMSOLL_ENGINE_H
#define PLIMSOLL_ENGINE_H

/*
 * The engine: models, sessions, and the forward pass.
 *
 *     struct plim_engine *engine;  struct plim_model *model;  struct plim_session *session;
 *     plim_engine_open(&engine, "cpu", &parameters, NULL, &err);
 *     plim_model_load(&model, engine, "models/tiny", &err);
 *     plim_session_open(&session, model, &(struct plim_session_options){ .context_tokens = 4096 }, &err);
 *     plim_session_forward(session, ids, count, &forward, &err);
 *
 * Ownership runs the same way: a session borrows its model, a model its engine; close them in reverse order.
 * Threads: one engine and all that hangs on it belongs to one thread at a time (it uses its own team inside).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/parameters.h"
#include "plimsoll/pool.h"

struct plim_engine;
struct plim_model;
struct plim_session;

/* ---- engine ---- */

struct plim_engine_options {
    const char *spill_directory;   /* slow tier of the CPU backend; NULL: $TMPDIR or /tmp */
    uint64_t fail_allocation;      /* tests: the pool's N-th allocation fails */
};

/*
 * `backend` is "cpu" (or "cuda" where built); NULL: what the parameters say. `parameters` must be resolved; it is copied. memory_budget bounds the
 * fast tier. `options` may be NULL.
 */
int plim_engine_open(struct plim_engine **engine, const char *backend, const struct plim_parameters *parameters,
                     const struct plim_engine_options *options, struct plim_err *err);

/* Returns the number of pool blocks that were still live: 0, or something leaked. `engine` may be NULL. */
uint64_t plim_engine_close(struct plim_engine *engine);

struct plim_pool *plim_engine_pool(struct plim_engine *engine);
const struct plim_parameters *plim_engine_parameters(const struct plim_engine *engine);

/* Names of the backends in this build, NULL-terminated. */
const char *const *plim_backend_names(void);

/* The name of the BLAS in use and the core type that it chose ("OpenBLAS 0.3.21 ... Haswell"). */
void plim_blas_describe(char *library, size_t library_size, char *core, size_t core_size);

/* Counters of work done since the engine was opened, exact: the same for the same work on every machine. */
struct plim_counters {
    uint64_t dequant_chunks;
    uint64_t dequantised_elements;
    uint64_t weight_bytes_read;
    uint64_t fused_calls;
    uint64_t chunked_calls;
    uint64_t attention_chunks;
    uint64_t forward_chunks;       /* pieces of at most max_input_len tokens */
};

void plim_engine_counters(const struct plim_engine *engine, struct plim_counters *out);

/* ---- model ---- */

struct plim_model_info {
    char architecture[64];
    bool is_exl2;
    size_t hidden_size, intermediate_size, layer_count, head_count, kv_head_count, head_dim, vocab_size;
    size_t max_positions;
    uint64_t file_bytes;              /* of all tensor files */
    uint64_t layer_weight_bytes;      /* linear weights of the decoder layers as stored, without biases */
    uint64_t head_weight_bytes;       /* the output head as stored (the embedding, when tied and dense) */
    uint64_t layer_parameters;        /* elements of the decoder layers' linear weights */
    uint64_t head_parameters;
    double layer_bits_per_weight;     /* 8 * layer_weight_bytes / layer_parameters */
    double head_bits_per_weight;
    int32_t bos_token_id;             /* -1: none */
    int32_t eos_token_ids[8];
    size_t eos_token_count;
};

/*
 * Loads a Hugging Face model directory, dense or EXL2. Weights are mapped, not copied, where the layout allows.
 * Weights are checked: a NaN or infinity in norms, scales or dense weights is an error that names the tensor. An
 * embedding that is not the head too is checked row by row when it is used, and reported by plim_session_forward.
 */
int plim_model_load(struct plim_model **model, struct plim_engine *engine, const char *directory,
                    struct plim_err *err);
void plim_model_free(struct plim_model *model);
void plim_model_info(const struct plim_model *model, struct plim_model_info *out);

/* The same from the files' headers, without an engine and without touching weight data. */
int plim_model_inspect(const char *directory, struct plim_model_info *out, struct plim_err *err);

/* ---- session ---- */

struct plim_session_options {
    size_t context_tokens;    /* capacity of the KV cache, at most the model's max_positions; 0: all of them */
};

int plim_session_open(struct plim_session **session, struct plim_model *model,
                      const struct plim_session_options *options, struct plim_err *err);
void plim_session_close(struct plim_session *session);

/* What a session and a model were opened on. */
struct plim_model *plim_session_model(const struct plim_session *session);
struct plim_engine *plim_model_engine(const struct plim_model *model);

/* Tokens in the cache. */
size_t plim_session_position(const struct plim_session *session);
size_t plim_session_context_tokens(const struct plim_session *session);

/* Drops cached tokens from `position` on. */
void plim_session_rewind(struct plim_session *session, size_t position);

/*
 * Receives logits: `rows` rows of `vocab_size` floats for the tokens at positions first_position ..., in host memory,
 * valid during the call. Return 0, or -1 with `err` set to stop.
 */
typedef int plim_logits_callback(void *context, size_t first_position, size_t rows, size_t vocab_size,
                                 const float *logits, struct plim_err *err);

enum plim_logits_rows {
    PLIM_LOGITS_NONE,   /* fill the cache only */
    PLIM_LOGITS_LAST,   /* of the last token */
    PLIM_LOGITS_ALL     /* of every token, in pieces of plim_logits_piece_rows */
};

/*
 * What the logits of one piece may take. 64 MiB are 130 rows of a vocabulary of 128 Ki: enough that the head's weights,
 * which are expanded again for each piece, cost less than the multiplication.
 */
#define PLIM_LOGITS_BYTES ((size_t)64 << 20)

/* Rows of logits held at once when `rows` rows are wanted: within PLIM_LOGITS_BYTES, at least one. */
size_t plim_logits_piece_rows(size_t vocab_size, size_t rows);

struct plim_forward {
    enum plim_logits_rows rows;
    plim_logits_callback *callback;  /* unused with PLIM_LOGITS_NONE */
    void *context;
};

/*
 * Appends `count` >= 1 tokens to the cache and computes the logits that were asked for. Long inputs are processed in
 * chunks of at most max_input_len tokens. Refuses ids outside the vocabulary and inputs longer than what is left of
 * the context. On failure the cache holds what it held before.
 */
int plim_session_forward(struct plim_session *session, const int32_t *ids, size_t count,
                         const struct plim_forward *forward, struct plim_err *err);

/* ---- prediction ---- */

/* What a run will do, as far as memory is concerned. */
struct plim_plan_request {
    size_t context_tokens;        /* as in plim_session_options; 0: no session (load only) */
    size_t prompt_tokens;         /* the longest single forward call, from position `past` */
    size_t past;
    size_t decode_tokens;         /* one-token calls after it; 0: none */
    enum plim_logits_rows rows;   /* of the prompt call; decode calls use PLIM_LOGITS_LAST */
    uint64_t held_bytes[PLIM_TAG_COUNT];  /* what the caller holds in the pool meanwhile: a sampler, a tokenizer */
};

/* Predicted bytes on the fast tier, and on the slow one, which inference uses only where the fast one isn't RAM (CUDA). */
struct plim_plan {
    uint64_t tag_peak_bytes[PLIM_TAG_COUNT];  /* each tag's own peak, weights_mapped included */
    uint64_t peak_bytes;                      /* peak of the total */
    uint64_t peak_tag_bytes[PLIM_TAG_COUNT];  /* what each tag holds at that peak */
    uint64_t slow_tag_peak_bytes[PLIM_TAG_COUNT];
    uint64_t slow_peak_bytes;
    uint64_t slow_peak_tag_bytes[PLIM_TAG_COUNT];
};

/*
 * Predicts peak memory from config.json, the files' headers and the parameters, by formula, without loading. `backend` as in
 * plim_engine_open. Equal to
 * what the pool will count, to the byte, if `directory` is spelled as it will be for loading (metadata holds paths).
 */
int plim_predict(const char *directory, const char *backend, const struct plim_parameters *parameters,
                 const struct plim_plan_request *request, struct plim_plan *out, struct plim_err *err);

#endif
