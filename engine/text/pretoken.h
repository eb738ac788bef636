#ifndef PLIM_TEXT_PRETOKEN_H
#define PLIM_TEXT_PRETOKEN_H

/*
 * Cutting normalised text into the pieces that merging never crosses: the tokenizer's "pre_tokenizer".
 *
 * A pre-tokenizer is a list of steps. A step either cuts each piece further, or rewrites the text of each piece (bytes
 * to the byte-level alphabet, spaces to U+2581).
 */

#include <stdbool.h>
#include <stddef.h>

#include "normalise.h"
#include "pattern.h"

struct text_piece {
    size_t start, end;
};

struct text_piece_list {
    struct text_piece *items;
    size_t count, capacity;
};

struct text_pretokeniser {
    struct plim_pool *pool;
    const struct text_regex_context *context;
    struct text_pretoken_step *steps;
    size_t count, capacity;
};

struct text_pretoken_scratch {
    struct plim_pool *pool;
    struct text_buffer text[2];
    struct text_piece_list pieces[2];
};

/* Reads the tokenizer's "pre_tokenizer", which may be absent. On failure release does no harm. */
int text_pretokeniser_load(struct text_pretokeniser *pretokeniser, const struct text_regex_context *context,
                           struct plim_json json, struct plim_err *err);
void text_pretokeniser_release(struct text_pretokeniser *pretokeniser);

void text_pretoken_scratch_init(struct text_pretoken_scratch *scratch, struct plim_pool *pool);
void text_pretoken_scratch_release(struct text_pretoken_scratch *scratch);

/*
 * Cuts *text. Afterwards *text is what *pieces index; both live in the scratch (or *text is unchanged) until the next
 * call. `at_start`: the text begins where the original text begins.
 */
int text_pretokenise(const struct text_pretokeniser *pretokeniser, struct text_pretoken_scratch *scratch,
                     pcre2_match_data *match_data, struct text_view *text, bool at_start,
                     const struct text_piece_list **pieces, struct plim_err *err);

#endif
