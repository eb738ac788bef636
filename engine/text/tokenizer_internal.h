#ifndef PLIM_TEXT_TOKENIZER_INTERNAL_H
#define PLIM_TEXT_TOKENIZER_INTERNAL_H

/* The parts of a tokenizer. All are read-only once it is loaded. */

#include "plimsoll/tokenizer.h"
#include "added.h"
#include "bpe.h"
#include "decode.h"
#include "normalise.h"
#include "pattern.h"
#include "postprocess.h"
#include "pretoken.h"
#include "vocab.h"

struct plim_tokenizer {
    struct plim_pool *pool;
    struct text_regex_context regex;
    struct text_vocab vocab;
    struct text_bpe bpe;
    struct text_normaliser normaliser;
    struct text_added added;
    struct text_pretokeniser pretokeniser;
    struct text_template template;
    struct text_decoder decoder;
};

#endif
