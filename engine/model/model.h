#ifndef PLIM_MODEL_H
#define PLIM_MODEL_H

/*
 * What an engine, a model and a session are made of. Private to model/; everybody else uses plimsoll/engine.h.
 *
 * One decoder layer (pre-norm transformer; the bracketed steps only where the architecture has them):
 *
 *     hidden += [post_norm] o_proj(attention([head_norm + ] rope(q), rope(k), v)),   q, k, v = proj(norm(hidden))
 *     hidden += [post_norm] down_proj(act(gate_proj(x)) * up_proj(x)),               x       = norm(hidden)
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "model_files.h"
#include "plimsoll/engine.h"
#include "plimsoll/units.h"
#include "rope_table.h"
#include "threads.h"

struct plim_engine {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;                 /* the only one, or the first that gpu_split uses */
    struct backend *others;                 /* the other ones, [place_count - 1] */
    size_t place_count;
    uint64_t forward_chunks;
};

struct layer {
    struct matrix matrix[LAYER_MATRIX_COUNT];
    const float *norm[LAYER_NORM_COUNT];    /* device, inside plim_model.norms; NULL: this architecture has none */
    struct attention_shape attention;
    const struct rope *rope;                /* one of plim_model.rope */
    char attention_scope[40];               /* "layers.3.attention", for the pool's reports */
    char mlp_scope[40];
    size_t place;                           /* whose backend has it; 0 up to place_count - 1, never falling */
    float *own_norms;                       /* its norms, when it was loaded alone (model_layer_load), or isn't at place 0 */
};

struct plim_model {
    struct plim_engine *engine;             /* borrowed */
    struct model_files files;
    struct plim_model_info info;
    struct layer *layers;                   /* [layer_count] */
    const struct tensor *embedding;         /* [vocab_size, hidden_size], mapped */
    float *norms;                           /* device; every norm's weights at place 0, one block */
    float *head_norm;                       /* of a head elsewhere: the final norm */
    const float *final_norm;                /* [hidden_size], inside norms, or head_norm */
    struct matrix head;
    size_t head_place;                      /* no layer's is beyond it */
    struct rope rope;                       /* of global layers */
    struct rope rope_local;                 /* of local layers, where it differs; else unused */
    size_t mapped_bytes;                    /* of the embedding; 0 where the head has checked and counted it */
};

struct plim_session {
    struct plim_model *model;               /* borrowed */
    size_t context_tokens;                  /* capacity */
    size_t position;                        /* tokens that are valid */
    void *cache;                            /* device [layers at place 0][keys, values][context_tokens] rows (kv_format.h) */
    void **other_caches;                    /* likewise at the other places; NULL: there are none */
    struct backend_step *step;              /* what the backend records of a decoded token; NULL: nothing */
};

/*
 * A model by parts, for work that goes through the layers one by one: model_open reads config.json and the headers,
 * then layers and the head are loaded and dropped as needed. plim_model_free drops what is still there.
 */
int model_open(struct plim_model **model, struct plim_engine *engine, const char *directory, struct plim_err *err);

/* All norms of a layer, and `count` of its matrices from `first` on. */
int model_layer_load(struct plim_model *model, size_t index, enum layer_matrix first, int count, struct plim_err *err);
void model_layer_drop(struct plim_model *model, size_t index);

/* The output head, the final norm, and the embedding. */
int model_head_load(struct plim_model *model, struct plim_err *err);
void model_head_drop(struct plim_model *model);

/* The backend at a place. */
static inline struct backend *engine_backend(struct plim_engine *engine, size_t place)
{
    return place == 0 ? &engine->backend : &engine->others[place - 1];
}

/* Selects it where there is more than one. */
int engine_select(struct plim_engine *engine, size_t place, struct plim_err *err);

/*
 * Decides where layers and head go, as gpu_split says, by the bytes they take: place [layer_count + 1], the head's last, never
 * falls. `free_bytes` [split->count]: of each device, for an automatic split (every device then has at least one layer, while
 * there are as many). -1 with `err` when sizes that were given are too small.
 */
int model_split(const struct plim_split *split, const uint64_t *free_bytes, const uint64_t *part_bytes, size_t layer_count,
                size_t *place, struct plim_err *err);

/* Bytes of a layer's, or the head's (index layer_count), weights on the device. */
int model_part_bytes(const struct model_files *files, size_t index, const char *backend,
                     const struct plim_parameters *parameters, uint64_t *bytes, struct plim_err *err);

/*
 * Takes the mapped pages of a tensor out of this process' resident set; they are read again when they are used. Loading
 * a layer reads it whole, so without this the resident set would grow to the size of the model.
 */
void model_drop_pages(const void *data, size_t bytes);

/* Whether the backend records what a decoded token takes: a matter of parameters and of every layer's attention. */
bool model_records_steps(const struct model_config *config, const char *backend, const struct plim_parameters *parameters);

/* A layer's keys and values in the cache: [context_tokens] rows each. */
void *session_keys(const struct plim_session *session, size_t layer);
void *session_values(const struct plim_session *session, size_t layer);

/*
 * Parts of the activations block start at multiples of 64 bytes, as the pool's own blocks do, so that no kernel meets
 * a row that straddles a cache line more than it must.
 */
static inline size_t activation_pad(size_t elements)
{
    return plim_round_up(elements, PLIM_POOL_ALIGN / sizeof(float));
}

#endif
