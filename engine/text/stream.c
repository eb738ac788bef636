/* Ids to text: one machine for streams and for whole sequences. */

#include <string.h>

#include "tokenizer_internal.h"
#include "unicode.h"

/* Where the text goes. */
struct sink {
    struct plim_text_stream *stream;
    plim_text_callback *callback;
    void *context;
    struct plim_err *err;
};

/* ---- text that is whole characters ---- */

static int emit(struct sink *sink, const char *text, size_t length)
{
    const struct text_decoder *decoder = &sink->stream->tokenizer->decoder;
    size_t strip_length = strlen(decoder->strip);
    while (length > 0 && sink->stream->strip_left > 0) {
        if (length < strip_length || memcmp(text, decoder->strip, strip_length) != 0) {
            sink->stream->strip_left = 0;
            break;
        }
        text += strip_length;
        length -= strip_length;
        sink->stream->strip_left--;
    }
    return length > 0 ? sink->callback(sink->context, text, length, sink->err) : 0;
}

static int emit_replacements(struct sink *sink, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (emit(sink, TEXT_REPLACEMENT, 3) < 0)
            return -1;
    }
    return 0;
}

/* Metaspace: marks become spaces, or nothing. */
static int emit_marked(struct sink *sink, const char *text, size_t length, bool drop_marks)
{
    const char *mark = sink->stream->tokenizer->decoder.mark;
    size_t mark_length = strlen(mark);
    while (length > 0) {
        const char *found = memmem(text, length, mark, mark_length);
        size_t before = found ? (size_t)(found - text) : length;
        if (before > 0 && emit(sink, text, before) < 0)
            return -1;
        if (!found)
            break;
        if (!drop_marks && emit(sink, " ", 1) < 0)
            return -1;
        text += before + mark_length;
        length -= before + mark_length;
    }
    return 0;
}

/* ---- bytes ---- */

/* Byte-level text: whatever the tokens, their bytes are one stream, invalid parts of which become U+FFFD. */
static int emit_bytes(struct sink *sink, const char *bytes, size_t length)
{
    struct plim_text_stream *s = sink->stream;
    size_t used;
    while (s->pending_count > 0 && length > 0) {
        s->pending[s->pending_count] = *bytes;
        enum text_utf8 state = text_utf8_step(s->pending, s->pending_count + 1, &used);
        if (state == TEXT_UTF8_INVALID) {
            s->pending_count = 0;   /* the new byte isn't to blame: it may begin the next character */
            if (emit_replacements(sink, 1) < 0)
                return -1;
            break;
        }
        s->pending_count++;
        bytes++;
        length--;
        if (state == TEXT_UTF8_VALID) {
            s->pending_count = 0;
            if (emit(sink, s->pending, used) < 0)
                return -1;
        }
    }
    while (length > 0) {
        size_t valid = text_utf8_valid_prefix(bytes, length);
        if (valid > 0 && emit(sink, bytes, valid) < 0)
            return -1;
        bytes += valid;
        length -= valid;
        if (length == 0)
            break;
        if (text_utf8_step(bytes, length, &used) == TEXT_UTF8_UNFINISHED) {
            memcpy(s->pending, bytes, used);
            s->pending_count = used;
            break;
        }
        if (emit_replacements(sink, 1) < 0)
            return -1;
        bytes += used;
        length -= used;
    }
    return 0;
}

/* Byte fallback: if a run of byte tokens isn't UTF-8 as a whole, each of its bytes becomes U+FFFD. */
static int emit_run_byte(struct sink *sink, char byte)
{
    struct plim_text_stream *s = sink->stream;
    size_t used;
    if (!s->in_byte_run) {
        s->in_byte_run = true;
        s->bad_byte_run = false;
    }
    if (s->bad_byte_run)
        return emit_replacements(sink, 1);
    s->pending[s->pending_count++] = byte;
    switch (text_utf8_step(s->pending, s->pending_count, &used)) {
    case TEXT_UTF8_UNFINISHED:
        return 0;
    case TEXT_UTF8_VALID:
        s->pending_count = 0;
        return emit(sink, s->pending, used);
    case TEXT_UTF8_INVALID:
        break;
    }
    size_t count = s->pending_count;
    s->bad_byte_run = true;
    s->pending_count = 0;
    return emit_replacements(sink, count);
}

static int end_byte_run(struct sink *sink)
{
    size_t count = sink->stream->pending_count;
    sink->stream->in_byte_run = false;
    sink->stream->pending_count = 0;
    return emit_replacements(sink, count);
}

/* ---- the stream ---- */

/* The token that an id adds to the text, or NULL. */
static const struct text_token *shown_token(const struct plim_tokenizer *tokenizer, int32_t id, bool skip_special)
{
    const struct text_token *token = text_vocab_token(&tokenizer->vocab, id);
    return token && !(skip_special && token->special) ? token : NULL;
}

void plim_text_stream_init(struct plim_text_stream *stream, const struct plim_tokenizer *tokenizer, bool skip_special)
{
    *stream = (struct plim_text_stream){
        .tokenizer = tokenizer,
        .skip_special = skip_special,
        .strip_left = tokenizer->decoder.strip_count,
    };
}

int plim_text_stream_push(struct plim_text_stream *stream, int32_t id, plim_text_callback *callback, void *context,
                          struct plim_err *err)
{
    const struct plim_tokenizer *t = stream->tokenizer;
    const struct text_token *token = shown_token(t, id, stream->skip_special);
    struct sink sink = { stream, callback, context, err };
    if (id < 0)
        return plim_err_input(err, "token id %d is negative", (int)id);
    if (!token)
        return 0;

    const char *text = t->vocab.decoded.data + token->decoded_offset;
    bool first = !stream->started;
    stream->started = true;
    if (!first && t->decoder.spaces_between && emit(&sink, " ", 1) < 0)
        return -1;
    if (t->decoder.bytes == TEXT_BYTES_LEVEL)
        return emit_bytes(&sink, text, token->decoded_length);
    if (token->byte >= 0)
        return emit_run_byte(&sink, (char)token->byte);
    if (stream->in_byte_run && end_byte_run(&sink) < 0)
        return -1;
    if (t->decoder.mark[0])
        return emit_marked(&sink, text, token->decoded_length, first && t->decoder.first_mark_dropped);
    return emit(&sink, text, token->decoded_length);
}

int plim_text_stream_end(struct plim_text_stream *stream, plim_text_callback *callback, void *context,
                         struct plim_err *err)
{
    struct sink sink = { stream, callback, context, err };
    if (stream->in_byte_run)
        return end_byte_run(&sink);
    size_t unfinished = stream->pending_count > 0;
    stream->pending_count = 0;
    return emit_replacements(&sink, unfinished);
}

/* ---- whole sequences ---- */

static int append_text(void *context, const char *text, size_t length, struct plim_err *err)
{
    return text_buffer_append(context, text, length, err);
}

/* Whether the run of byte tokens that ids[0] begins is UTF-8. Tokens that aren't shown don't end it. */
static bool byte_run_is_valid(const struct plim_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              bool skip_special)
{
    enum text_utf8 state = TEXT_UTF8_VALID;
    char pending[4];
    size_t pending_count = 0, used;
    for (size_t i = 0; i < count && state != TEXT_UTF8_INVALID; i++) {
        const struct text_token *token = shown_token(tokenizer, ids[i], skip_special);
        if (!token)
            continue;
        if (token->byte < 0)
            break;
        pending[pending_count++] = (char)token->byte;
        state = text_utf8_step(pending, pending_count, &used);
        if (state == TEXT_UTF8_VALID)
            pending_count = 0;
    }
    return state == TEXT_UTF8_VALID;
}

int plim_tokenizer_decode(const struct plim_tokenizer *tokenizer, const int32_t *ids, size_t count,
                          bool skip_special, char **text, size_t *length, struct plim_err *err)
{
    struct plim_text_stream stream;
    struct text_buffer buffer;
    text_buffer_init(&buffer, tokenizer->pool);
    plim_text_stream_init(&stream, tokenizer, skip_special);
    for (size_t i = 0; i < count; i++) {
        const struct text_token *token = shown_token(tokenizer, ids[i], skip_special);
        /* A stream can't look ahead; here it is told at once that a run is bad. */
        if (token && token->byte >= 0 && !stream.in_byte_run) {
            stream.in_byte_run = true;
            stream.bad_byte_run = !byte_run_is_valid(tokenizer, ids + i, count - i, skip_special);
        }
        if (plim_text_stream_push(&stream, ids[i], append_text, &buffer, err) < 0)
            goto fail;
    }
    if (plim_text_stream_end(&stream, append_text, &buffer, err) < 0 || text_buffer_reserve(&buffer, 1, err) < 0)
        goto fail;
    buffer.data[buffer.length] = '\0';
    *text = buffer.data;
    *length = buffer.length;
    return 0;

fail:
    text_buffer_release(&buffer);
    return -1;
}
