#ifndef PLIM_CALIBRATION_H
#define PLIM_CALIBRATION_H

/*
 * Calibration tokens: from a text, from ids in a safetensors file, or from the built-in mix.
 *
 * The mix, for any number of rows: text that the project ships, rows beginning at evenly spaced places; and every 50th row
 * of ids drawn uniformly from the vocabulary (ExLlamaV2 has 2 such rows in 115), by a seeded generator.
 *
 * The text (calibration_text.txt) is 22 KB of our own, prose, code, tables and several languages; then 95 KB each of the
 * proceedings of the Library of Congress' workshop on electronic texts (1992) and of Alice's Adventures in Wonderland,
 * both in the public domain, lines unwrapped: some 50000 tokens in all. 24 KB alone, repeated, is too little for Hessians of
 * thousands of inputs.
 */

#include <stddef.h>
#include <stdint.h>

#include "model.h"
#include "plimsoll/quantize.h"

struct calibration_rows {
    int32_t *ids;              /* [rows, length], pool memory tagged calibration */
    size_t rows, length;
};

struct calibration {
    struct plim_pool *pool;
    struct calibration_rows measurement, quantisation;
    char dataset[128];         /* base name of the file, or "(default)": for config.json */
    char digest[33];           /* of all ids and shapes */
};

/*
 * Reads what `options` asks for; lengths are clipped to the model's positions. Too few tokens, ids outside the
 * vocabulary and files of the wrong kind are errors (kind input).
 */
int calibration_open(struct calibration *calibration, const struct plim_model *model,
                     const struct plim_quantize_options *options, struct plim_err *err);
/* Also on zero bytes. */
void calibration_close(struct calibration *calibration);

/* The text of the built-in mix (calibration_text.txt). */
extern const unsigned char calibration_text[];
extern const size_t calibration_text_bytes;

#endif
