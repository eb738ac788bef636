#ifndef PLIMSOLL_TOKENIZER_H
#define PLIMSOLL_TOKENIZER_H

/*
 * Text to token ids and back, from a Hugging Face tokenizer.json: byte-level BPE (GPT-2, Llama 3, Qwen) and
 * SentencePiece-style BPE (byte fallback, normaliser), added and special tokens.
 *
 * Threads: encode and decode may be called from any thread on one tokenizer; load and free not.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

struct plim_tokenizer;

/* Growing array of ids in pool memory (tag tokenizer). Start from zero bytes; release when done. */
struct plim_ids {
    int32_t *ids;
    size_t count, capacity;
};

void plim_ids_release(struct plim_ids *ids, struct plim_pool *pool);

/*
 * Loads DIRECTORY/tokenizer.json (limit 256 MiB). Its "truncation" and "padding" are ignored; anything else that is not
 * supported is an error that names it.
 */
int plim_tokenizer_load(struct plim_tokenizer **tokenizer, struct plim_pool *pool, const char *directory,
                        struct plim_err *err);
/* The same from text in memory. */
int plim_tokenizer_parse(struct plim_tokenizer **tokenizer, struct plim_pool *pool, const char *document,
                         const char *text, size_t length, struct plim_err *err);
void plim_tokenizer_free(struct plim_tokenizer *tokenizer);

size_t plim_tokenizer_vocab_size(const struct plim_tokenizer *tokenizer);   /* highest id + 1 */

/* The id of a token's exact text ("<|im_end|>"), or -1. */
int32_t plim_tokenizer_id(const struct plim_tokenizer *tokenizer, const char *token);

/*
 * Appends the ids of `text`. Invalid UTF-8 is read as U+FFFD, one for each maximal invalid part, as Python's
 * "replace" does. `add_special` applies the post-processor (BOS and the like). Special tokens in the text are
 * recognised. On failure `out` is as before.
 */
int plim_tokenizer_encode(const struct plim_tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                          struct plim_ids *out, struct plim_err *err);

/*
 * The text of `count` ids, as Hugging Face's decode gives it (clean_up_tokenization_spaces off). Ids without a token
 * (a model's vocabulary may be padded) add nothing; negative ones are an error. The result is
 * NUL-terminated pool memory (tag tokenizer) that the caller frees with plim_pool_free.
 */
int plim_tokenizer_decode(const struct plim_tokenizer *tokenizer, const int32_t *ids, size_t count,
                          bool skip_special, char **text, size_t *length, struct plim_err *err);

/*
 * Streaming decode: push ids one by one, get whole UTF-8 characters as soon as they are complete. Allocates nothing
 * after init. The pieces joined equal plim_tokenizer_decode of all ids, with one exception: under byte fallback a run
 * of byte tokens that isn't UTF-8 as a whole decodes to one U+FFFD a byte, but a stream has by then delivered the
 * characters that were complete before the first bad byte.
 */
struct plim_text_stream {
    const struct plim_tokenizer *tokenizer;
    bool skip_special;
    bool started;              /* a token has been shown */
    bool in_byte_run;          /* the last token shown was a byte token under byte fallback, */
    bool bad_byte_run;         /* and its run isn't UTF-8 */
    uint32_t strip_left;       /* characters that may still be stripped at the start */
    char pending[4];           /* bytes of an unfinished character */
    size_t pending_count;
};

void plim_text_stream_init(struct plim_text_stream *stream, const struct plim_tokenizer *tokenizer,
                           bool skip_special);

/* Receives text; not NUL-terminated. Return 0, or -1 with `err` set. */
typedef int plim_text_callback(void *context, const char *text, size_t length, struct plim_err *err);

int plim_text_stream_push(struct plim_text_stream *stream, int32_t id, plim_text_callback *callback, void *context,
                          struct plim_err *err);
/* Flushes an unfinished character as U+FFFD, one for it or, under byte fallback, one for each byte. */
int plim_text_stream_end(struct plim_text_stream *stream, plim_text_callback *callback, void *context,
                         struct plim_err *err);

#endif
