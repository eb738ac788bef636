#ifndef PLIM_TEXT_NORMALISE_H
#define PLIM_TEXT_NORMALISE_H

/*
 * What happens to text before it is split: the tokenizer's "normalizer", a list of steps that rewrite the text.
 *
 * Normal forms are utf8proc's. Its Unicode version is newer than that of Hugging Face's tables (9), so the two differ
 * for some 50 combining marks and 70 compatibility characters that came with Unicode 10 to 14, and for no others.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pattern.h"

struct text_view {
    const char *data;
    size_t length;
};

struct text_normaliser {
    struct plim_pool *pool;
    const struct text_regex_context *context;
    struct text_normal_step *steps;
    size_t count, capacity;
};

struct text_normal_scratch {
    struct text_buffer buffers[2];
    int32_t *code_points;
    size_t code_point_capacity;
};

/* Reads the tokenizer's "normalizer", which may be absent. On failure release does no harm. */
int text_normaliser_load(struct text_normaliser *normaliser, const struct text_regex_context *context,
                         struct plim_json json, struct plim_err *err);
void text_normaliser_release(struct text_normaliser *normaliser);

void text_normal_scratch_init(struct text_normal_scratch *scratch, struct plim_pool *pool);
void text_normal_scratch_release(struct text_normal_scratch *scratch);

/*
 * Replaces *text (valid UTF-8) by its normal form, which lives in the scratch or is the text itself. *at_start says
 * whether the first character comes from the first character of the original text; it is cleared when that one goes.
 */
int text_normalise(const struct text_normaliser *normaliser, struct text_normal_scratch *scratch,
                   pcre2_match_data *match_data, struct text_view *text, bool *at_start, struct plim_err *err);

#endif
