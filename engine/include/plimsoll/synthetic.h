#ifndef PLIMSOLL_SYNTHETIC_H
#define PLIMSOLL_SYNTHETIC_H

/*
 * Synthetic models: directories of any public shape, with weights that have the statistics of real ones (heavy tails,
 * outlier channels), the same bytes on every machine for one seed. Made in a stream: memory use does not depend on
 * the model's size.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/progress.h"

/* Raised by whoever changes what bytes come out for the same options, so that models made before are not taken for new. */
#define PLIM_SYNTHETIC_VERSION 1

struct plim_synthetic {
    const char *preset;        /* see plim_synthetic_presets */
    int64_t layers;            /* 0: the preset's own number */
    bool exl2;                 /* false: dense fp16 */
    double bits_per_weight;    /* EXL2: 2.3 to 8.1, the nearest uniform choice of layouts at or below */
    int head_bits;             /* EXL2: 2, 3, 4, 5, 6 or 8 */
    uint64_t seed;
    struct plim_progress *progress;   /* NULL: silent */
};

struct plim_synthetic_preset {
    const char *name;          /* "llama-3-8b" */
    const char *description;   /* one line: the public model whose shape it has */
};

/* NULL-name-terminated. */
const struct plim_synthetic_preset *plim_synthetic_presets(void);

/*
 * Writes config.json, tokenizer.json (byte-level, synthetic vocabulary for the tiny preset; none for the others) and
 * safetensors into `directory`, which must not exist or be empty. A failure or kill leaves no directory that loads.
 */
int plim_synthetic_make(const struct plim_synthetic *options, const char *directory, struct plim_err *err);

#endif
