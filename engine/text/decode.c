#include "decode.h"

#include <string.h>

#include "component.h"
#include "unicode.h"

#define SUPPORTED "ByteLevel, ByteFallback, Metaspace, Replace, Fuse, Strip, Sequence"

/* What is done to each token by itself. */
enum token_step_kind {
    STEP_REPLACE,
    STEP_STRIP,
};

struct token_step {
    enum token_step_kind kind;
    struct text_pattern pattern;   /* replace: what, */
    const char *content;           /* by what; borrowed from the document */
    char character[5];             /* strip: which, */
    uint32_t start, stop;          /* at most so many at each end */
};

/* How far a decoder's list has come. */
enum phase {
    PHASE_TOKENS,   /* what comes next works on single tokens */
    PHASE_BYTES,    /* byte tokens have been joined; only Fuse may follow */
    PHASE_FUSED,    /* there is one text; only a strip of its start may follow */
    PHASE_DONE,
};

struct decoder_reader {
    struct text_decoder *decoder;
    struct text_vocab *vocab;
    const struct text_regex_context *context;
    pcre2_match_data *match_data;
    struct token_step *steps;
    size_t step_count, step_capacity;
    struct text_buffer buffers[2];
    enum phase phase;
};

/* ---- reading ---- */

static struct token_step *add_step(struct decoder_reader *r, enum token_step_kind kind, struct plim_err *err)
{
    struct token_step *steps = text_grow(r->context->pool, r->steps, &r->step_capacity, r->step_count + 1,
                                         sizeof *steps, err);
    if (!steps)
        return NULL;
    r->steps = steps;
    steps[r->step_count] = (struct token_step){ .kind = kind };
    return &steps[r->step_count++];
}

static int read_character(struct plim_json json, char out[5], struct plim_err *err)
{
    const char *text;
    size_t used = 1;
    if (plim_json_string(json, &text, err) < 0)
        return -1;
    if (*text)
        text_utf8_decode(text, &used);
    if (*text == '\0' || text[used] != '\0')
        return plim_json_err(json, err, "\"%.20s\": expected one character", text);
    memcpy(out, text, used + 1);
    return 0;
}

static int read_replace(struct decoder_reader *r, struct plim_json json, struct plim_err *err)
{
    struct token_step *step = add_step(r, STEP_REPLACE, err);
    if (!step || text_pattern_load(&step->pattern, r->context, plim_json_get(json, "pattern"), err) < 0)
        return -1;
    return plim_json_string(plim_json_get(json, "content"), &step->content, err);
}

static int read_strip(struct decoder_reader *r, struct plim_json json, struct plim_err *err)
{
    int64_t start, stop;
    char character[5];
    if (read_character(plim_json_get(json, "content"), character, err) < 0 ||
        plim_json_int(plim_json_get(json, "start"), 0, INT32_MAX, &start, err) < 0 ||
        plim_json_int(plim_json_get(json, "stop"), 0, INT32_MAX, &stop, err) < 0)
        return -1;
    if (r->phase == PHASE_FUSED) {
        if (stop != 0)
            return plim_json_err(json, err, "type Strip with stop above 0 is not supported after Fuse");
        memcpy(r->decoder->strip, character, sizeof character);
        r->decoder->strip_count = (uint32_t)start;
        r->phase = PHASE_DONE;
        return 0;
    }
    struct token_step *step = add_step(r, STEP_STRIP, err);
    if (!step)
        return -1;
    memcpy(step->character, character, sizeof character);
    step->start = (uint32_t)start;
    step->stop = (uint32_t)stop;
    return 0;
}

/* The mark becomes a space; in the first token it goes, unless none was ever put in front. */
static int read_metaspace(struct decoder_reader *r, struct plim_json json, struct plim_err *err)
{
    bool prefix_space = true;
    const char *scheme = "always";
    if (read_character(plim_json_get(json, "replacement"), r->decoder->mark, err) < 0 ||
        text_optional_bool(json, "add_prefix_space", &prefix_space, err) < 0 ||
        text_optional_string(json, "prepend_scheme", &scheme, err) < 0)
        return -1;
    r->decoder->first_mark_dropped = prefix_space && strcmp(scheme, "never") != 0;
    return 0;
}

static int set_bytes(struct decoder_reader *r, enum text_byte_mode mode, enum phase phase)
{
    r->decoder->bytes = mode;
    r->phase = phase;
    return 0;
}

static int read_step(void *context, struct plim_json json, const char *type, struct plim_err *err)
{
    static const char *const known[] = { "ByteLevel", "ByteFallback", "Metaspace", "Replace", "Fuse", "Strip" };
    struct decoder_reader *r = context;
    bool tokens = r->phase == PHASE_TOKENS;
    bool untouched = r->decoder->mark[0] == '\0';   /* what Metaspace does is only done by the stream */

    if (strcmp(type, "Fuse") == 0 && r->phase != PHASE_DONE) {
        r->phase = PHASE_FUSED;
        return 0;
    }
    if (strcmp(type, "Strip") == 0 && (r->phase == PHASE_FUSED || (tokens && untouched)))
        return read_strip(r, json, err);
    if (strcmp(type, "Replace") == 0 && tokens && untouched)
        return read_replace(r, json, err);
    if (strcmp(type, "Metaspace") == 0 && tokens && untouched && r->step_count == 0)
        return read_metaspace(r, json, err);
    if (strcmp(type, "ByteFallback") == 0 && tokens)
        return set_bytes(r, TEXT_BYTES_FALLBACK, PHASE_BYTES);
    if (strcmp(type, "ByteLevel") == 0 && tokens && untouched)
        return set_bytes(r, TEXT_BYTES_LEVEL, PHASE_FUSED);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(type, known[i]) == 0)
            return plim_json_err(json, err, "type %s is not supported after the decoders before it", type);
    }
    return text_unsupported(json, type, SUPPORTED, err);
}

/* ---- decoding single tokens ---- */

static int replace(struct decoder_reader *r, const struct token_step *step, struct text_view in,
                   struct text_buffer *out, struct plim_err *err)
{
    struct text_search search;
    size_t start, end, done = 0;
    int rc;
    text_search_init(&search, &step->pattern, r->match_data, in.data, in.length);
    while ((rc = text_search_next(&search, &start, &end, err)) > 0) {
        if (text_buffer_append(out, in.data + done, start - done, err) < 0 ||
            text_buffer_append(out, step->content, strlen(step->content), err) < 0)
            return -1;
        done = end;
    }
    return rc < 0 ? -1 : text_buffer_append(out, in.data + done, in.length - done, err);
}

static struct text_view strip(const struct token_step *step, struct text_view in)
{
    size_t length = strlen(step->character);
    for (uint32_t i = 0; i < step->start && in.length >= length && memcmp(in.data, step->character, length) == 0; i++) {
        in.data += length;
        in.length -= length;
    }
    for (uint32_t i = 0; i < step->stop && in.length >= length &&
                         memcmp(in.data + in.length - length, step->character, length) == 0; i++)
        in.length -= length;
    return in;
}

/* A token of characters of the byte-level alphabet stands for bytes; any other stands for itself. */
static int from_byte_level(struct text_view in, struct text_buffer *out, struct plim_err *err)
{
    size_t start = out->length;
    if (text_buffer_reserve(out, in.length, err) < 0)
        return -1;
    for (size_t i = 0, used; i < in.length; i += used) {
        int byte = text_byte_level_byte(text_utf8_decode(in.data + i, &used));
        if (byte < 0) {
            out->length = start;
            return text_buffer_append(out, in.data, in.length, err);
        }
        out->data[out->length++] = (char)byte;
    }
    return 0;
}

/* The value of "<0x0A>", or -1. */
static int16_t byte_of(struct text_view text)
{
    static const char digits[] = "0123456789ABCDEFabcdef";
    int value = 0;
    if (text.length != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        const char *digit = memchr(digits, text.data[i], sizeof digits - 1);
        if (!digit)
            return -1;
        value = value * 16 + (int)(digit - digits) - (digit - digits >= 16 ? 6 : 0);
    }
    return (int16_t)value;
}

static int decode_token(struct decoder_reader *r, struct text_token *token, struct text_view text,
                        struct plim_err *err)
{
    struct text_buffer *decoded = &r->vocab->decoded;
    for (size_t i = 0; i < r->step_count; i++) {
        const struct token_step *step = &r->steps[i];
        struct text_buffer *out = &r->buffers[i % 2];
        if (step->kind == STEP_STRIP) {
            text = strip(step, text);
            continue;
        }
        out->length = 0;
        if (replace(r, step, text, out, err) < 0)
            return -1;
        text = (struct text_view){ out->data, out->length };
    }
    if (r->decoder->bytes == TEXT_BYTES_FALLBACK)
        token->byte = byte_of(text);
    size_t start = decoded->length;
    int rc = r->decoder->bytes == TEXT_BYTES_LEVEL ? from_byte_level(text, decoded, err)
                                                   : text_buffer_append(decoded, text.data, text.length, err);
    token->decoded_offset = (uint32_t)start;
    token->decoded_length = (uint32_t)(decoded->length - start);
    return rc;
}

static int decode_all(struct decoder_reader *r, const struct text_added *added, struct plim_err *err)
{
    struct text_vocab *vocab = r->vocab;
    if (text_buffer_reserve(&vocab->decoded, vocab->byte_count, err) < 0)
        return -1;
    for (size_t id = 0; id < vocab->count; id++) {
        struct text_token *token = &vocab->tokens[id];
        struct text_view text = { text_token_text(vocab, token), token->length };
        if (token->present && decode_token(r, token, text, err) < 0)
            return -1;
    }
    for (size_t i = 0; i < added->form_count; i++) {
        const struct text_normal_form *form = &added->forms[i];
        if (decode_token(r, &vocab->tokens[form->id], (struct text_view){ form->text, form->length }, err) < 0)
            return -1;
    }
    return 0;
}

int text_decoder_load(struct text_decoder *decoder, struct text_vocab *vocab, const struct text_added *added,
                      const struct text_regex_context *context, struct plim_json json, struct plim_err *err)
{
    struct decoder_reader reader = { .decoder = decoder, .vocab = vocab, .context = context };
    int rc = -1;

    *decoder = (struct text_decoder){ .spaces_between = !plim_json_has(json) };
    text_buffer_init(&reader.buffers[0], context->pool);
    text_buffer_init(&reader.buffers[1], context->pool);
    reader.match_data = text_match_data(context, err);
    if (!reader.match_data || text_each_component(json, "decoders", read_step, &reader, err) < 0)
        goto out;
    rc = decode_all(&reader, added, err);

out:
    for (size_t i = 0; i < reader.step_count; i++)
        text_pattern_release(&reader.steps[i].pattern);
    plim_pool_free(context->pool, reader.steps);
    text_buffer_release(&reader.buffers[0]);
    text_buffer_release(&reader.buffers[1]);
    pcre2_match_data_free(reader.match_data);
    return rc;
}
