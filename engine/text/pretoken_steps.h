#ifndef PLIM_TEXT_PRETOKEN_STEPS_H
#define PLIM_TEXT_PRETOKEN_STEPS_H

/* The steps that pre-tokenizers are made of. */

#include "pattern.h"

enum text_step_kind {
    TEXT_STEP_SPLIT,
    TEXT_STEP_PREFIX_SPACE,   /* a space before each piece that doesn't start with one */
    TEXT_STEP_BYTE_LEVEL,     /* each byte becomes its character of the byte-level alphabet */
    TEXT_STEP_METASPACE,      /* spaces become the mark, and one is put in front */
};

/* What becomes of the matches that pieces are cut at. */
enum text_split_behaviour {
    TEXT_SPLIT_REMOVED,
    TEXT_SPLIT_ISOLATED,
    TEXT_SPLIT_MERGED_WITH_PREVIOUS,
    TEXT_SPLIT_MERGED_WITH_NEXT,
    TEXT_SPLIT_CONTIGUOUS,
};

enum text_prepend_scheme {
    TEXT_PREPEND_ALWAYS,
    TEXT_PREPEND_FIRST,   /* only at the start of the original text */
    TEXT_PREPEND_NEVER,
};

struct text_pretoken_step {
    enum text_step_kind kind;
    struct text_pattern pattern;             /* split: where, */
    enum text_split_behaviour behaviour;
    bool invert;                             /* what is between matches counts as the match */
    enum text_prepend_scheme scheme;         /* metaspace */
    char mark[5];                            /* metaspace: one character */
    size_t mark_length;
};

#endif
