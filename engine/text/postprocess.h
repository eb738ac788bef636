#ifndef PLIM_TEXT_POSTPROCESS_H
#define PLIM_TEXT_POSTPROCESS_H

/* The special tokens around a text: the tokenizer's "post_processor", as far as it concerns one text. */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/json.h"
#include "plimsoll/tokenizer.h"
#include "vocab.h"

struct text_template {
    struct plim_pool *pool;
    const struct text_vocab *vocab;
    struct plim_ids before, after;
};

/* Reads "post_processor", which may be absent. On failure release does no harm. */
int text_template_load(struct text_template *template, const struct text_vocab *vocab, struct plim_json json,
                       struct plim_err *err);
void text_template_release(struct text_template *template);

#endif
