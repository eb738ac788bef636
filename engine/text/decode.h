#ifndef PLIM_TEXT_DECODE_H
#define PLIM_TEXT_DECODE_H

/*
 * From tokens to text: the tokenizer's "decoder".
 *
 * What a decoder does to each token by itself (Replace, Strip, the byte-level alphabet) is done once, at load: each
 * token gets its decoded bytes. What depends on the tokens before it is left for the stream (stream.c): joining bytes
 * to characters, Metaspace's first token, and stripping at the start of the text.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "added.h"
#include "pattern.h"
#include "vocab.h"

enum text_byte_mode {
    TEXT_BYTES_NONE,       /* decoded bytes are whole characters */
    TEXT_BYTES_LEVEL,      /* decoded bytes of all tokens together are UTF-8, possibly invalid */
    TEXT_BYTES_FALLBACK,   /* runs of byte tokens ("<0xE2>") are UTF-8; other tokens whole characters */
};

struct text_decoder {
    enum text_byte_mode bytes;
    bool spaces_between;       /* no decoder: tokens are joined with spaces */
    char mark[5];              /* metaspace: this character becomes a space; "" when none does */
    bool first_mark_dropped;   /* metaspace: and nothing in the first token */
    char strip[5];             /* a character to strip at the start of the whole text, */
    uint32_t strip_count;      /* at most so many times */
};

/*
 * Reads "decoder", which may be absent, and fills in the decoded bytes of all tokens. On failure there is nothing to
 * release.
 */
int text_decoder_load(struct text_decoder *decoder, struct text_vocab *vocab, const struct text_added *added,
                      const struct text_regex_context *context, struct plim_json json, struct plim_err *err);

#endif
