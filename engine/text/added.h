#ifndef PLIM_TEXT_ADDED_H
#define PLIM_TEXT_ADDED_H

/*
 * Added tokens: texts such as "<|im_end|>" that are cut out before anything else happens.
 *
 * There are two sets: tokens looked for in the original text, and tokens (normalized: true) whose normal form is
 * looked for in normalised text. From the left, the longest token that matches wins.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "normalise.h"
#include "vocab.h"

struct text_added_token {
    const char *content;     /* what is looked for; borrowed */
    size_t length;
    int32_t id;
    bool lstrip, rstrip;     /* takes the white space on that side with it */
    bool single_word;        /* only where no word character adjoins */
};

struct text_added_set {
    struct text_added_token *tokens;   /* sorted by content */
    size_t count, capacity;
    uint32_t first[257];               /* tokens that begin with byte b are first[b] to first[b + 1] - 1 */
};

/* The normal form of an added token, where it differs from its content. */
struct text_normal_form {
    int32_t id;
    char *text;              /* owned */
    size_t length;
};

struct text_added {
    struct plim_pool *pool;
    struct text_added_set original, normal;
    struct text_normal_form *forms;
    size_t form_count, form_capacity;
};

/* A part of a text: a token, or (id -1) text in between. */
struct text_segment {
    size_t start, end;
    int32_t id;
};

struct text_segment_list {
    struct text_segment *items;
    size_t count, capacity;
};

/*
 * Reads "added_tokens", whose texts are in the vocabulary already; marks the special ones there. On failure release
 * does no harm.
 */
int text_added_load(struct text_added *added, struct text_vocab *vocab, const struct text_normaliser *normaliser,
                    struct plim_json list, struct plim_err *err);
void text_added_release(struct text_added *added);

/* Cuts a text into segments, which cover it and are not empty; `out` is overwritten. */
int text_added_split(const struct text_added_set *set, struct plim_pool *pool, const char *text, size_t length,
                     struct text_segment_list *out, struct plim_err *err);

#endif
