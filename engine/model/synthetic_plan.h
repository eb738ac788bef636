#ifndef PLIM_SYNTHETIC_PLAN_H
#define PLIM_SYNTHETIC_PLAN_H

/*
 * What a synthetic model consists of: its configuration, its tensors in file order, and which file each goes to. All of
 * it is decided before a byte is written.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "dtype.h"
#include "exl2.h"
#include "plimsoll/err.h"
#include "plimsoll/pool.h"
#include "plimsoll/synthetic.h"

/*
 * In the order of a file: parts whose sizes are multiples of 64 bytes come first and so begin at multiples of 64, which
 * mapped matrices are read from fastest (q_scale, multiples of 16, come last of those); small ones of any size follow.
 */
enum synthetic_part {
    SYNTHETIC_DENSE,         /* fp16 [out, in] */
    SYNTHETIC_Q_WEIGHT,      /* the five tensors of an EXL2 matrix: exl2.h */
    SYNTHETIC_Q_INVPERM,
    SYNTHETIC_Q_SCALE,
    SYNTHETIC_NORM,          /* fp16 [width] */
    SYNTHETIC_BIAS,          /* fp16 [out] */
    SYNTHETIC_Q_SCALE_MAX,
    SYNTHETIC_Q_GROUPS,
};

struct synthetic_tensor {
    char name[96];
    enum synthetic_part part;
    enum dtype dtype;
    int dimension_count;
    size_t shape[2];
    size_t bytes;
    size_t in_features, out_features;    /* of the matrix it is part of; a norm has its width as out_features */
    const struct exl2_layout *layout;    /* EXL2 parts */
    double deviation;                    /* standard deviation of the matrix' weights, about */
    uint64_t stream;                     /* random stream: a hash of the name */
    uint64_t permutation_stream;         /* shared by matrices with the same input, as the quantizer does */
    size_t position;                     /* in the order of the layers */
    size_t shard;
};

struct synthetic_plan {
    struct plim_pool *pool;
    const char *preset;
    struct model_config config;
    bool has_tokenizer;
    struct synthetic_tensor *tensors;
    size_t tensor_count, tensor_capacity;
    size_t shard_count;
    uint64_t bytes;                      /* of all tensors */
};

/* Checks the options (kind input) and fills the plan. `plan` is to be released in any case. */
int synthetic_plan_init(struct synthetic_plan *plan, struct plim_pool *pool, const struct plim_synthetic *options,
                        struct plim_err *err);
void synthetic_plan_release(struct synthetic_plan *plan);

/* The name of shard `shard`, as the converter (EXL2) or transformers (dense) would give it. */
void synthetic_shard_name(const struct synthetic_plan *plan, size_t shard, char *name, size_t size);

/* ---- presets ---- */

/* The configuration of a preset; NULL-named presets end the table. -1 with the nearest name for an unknown one. */
int synthetic_preset_config(const char *preset, struct model_config *config, struct plim_err *err);

/* Whether the preset has a vocabulary of its own that a tokenizer.json can be made for (the tiny one). */
bool synthetic_preset_has_tokenizer(const char *preset);

/* ---- tokenizer ---- */

/* Special tokens of the tiny preset's vocabulary: 256 bytes and the merges come before. */
#define SYNTHETIC_TINY_VOCAB 512
#define SYNTHETIC_TINY_BOS   510
#define SYNTHETIC_TINY_EOS   511

/* The text of the tiny preset's tokenizer.json; free(). */
char *synthetic_tokenizer_text(struct plim_err *err);

#endif
