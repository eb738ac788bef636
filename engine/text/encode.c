/* Text to ids: added tokens are cut out, the rest is normalised, cut into pieces, and each piece merged. */

#include "tokenizer_internal.h"
#include "unicode.h"

/* Memory of one call, so that any number of threads may encode. */
struct encoder {
    const struct plim_tokenizer *tokenizer;
    struct plim_ids *out;
    pcre2_match_data *match_data;
    struct text_buffer repaired;
    struct text_segment_list original, normal;
    struct text_normal_scratch normaliser;
    struct text_pretoken_scratch pretokeniser;
    struct text_bpe_scratch bpe;
};

static int encoder_init(struct encoder *e, const struct plim_tokenizer *tokenizer, struct plim_ids *out,
                        struct plim_err *err)
{
    struct plim_pool *pool = tokenizer->pool;
    *e = (struct encoder){ .tokenizer = tokenizer, .out = out, .bpe = { .pool = pool } };
    text_buffer_init(&e->repaired, pool);
    text_normal_scratch_init(&e->normaliser, pool);
    text_pretoken_scratch_init(&e->pretokeniser, pool);
    e->match_data = text_match_data(&tokenizer->regex, err);
    return e->match_data ? 0 : -1;
}

static void encoder_release(struct encoder *e)
{
    struct plim_pool *pool = e->tokenizer->pool;
    pcre2_match_data_free(e->match_data);
    text_buffer_release(&e->repaired);
    plim_pool_free(pool, e->original.items);
    plim_pool_free(pool, e->normal.items);
    text_normal_scratch_release(&e->normaliser);
    text_pretoken_scratch_release(&e->pretokeniser);
    text_bpe_scratch_release(&e->bpe);
}

/* Normalised text without added tokens. */
static int encode_plain(struct encoder *e, struct text_view text, bool at_start, struct plim_err *err)
{
    const struct plim_tokenizer *t = e->tokenizer;
    const struct text_piece_list *pieces;
    if (text_pretokenise(&t->pretokeniser, &e->pretokeniser, e->match_data, &text, at_start, &pieces, err) < 0)
        return -1;
    for (size_t i = 0; i < pieces->count; i++) {
        struct text_piece piece = pieces->items[i];
        if (text_bpe_encode(&t->bpe, &e->bpe, text.data + piece.start, piece.end - piece.start, e->out, err) < 0)
            return -1;
    }
    return 0;
}

/* Original text between added tokens: normalised, then searched for those that are given by their normal form. */
static int encode_original(struct encoder *e, struct text_view text, bool at_start, struct plim_err *err)
{
    const struct plim_tokenizer *t = e->tokenizer;
    if (text_normalise(&t->normaliser, &e->normaliser, e->match_data, &text, &at_start, err) < 0 ||
        text_added_split(&t->added.normal, t->pool, text.data, text.length, &e->normal, err) < 0)
        return -1;
    for (size_t i = 0; i < e->normal.count; i++) {
        struct text_segment segment = e->normal.items[i];
        struct text_view part = { text.data + segment.start, segment.end - segment.start };
        int rc = segment.id >= 0 ? text_ids_append(e->out, t->pool, &segment.id, 1, err)
                                 : encode_plain(e, part, at_start && segment.start == 0, err);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int encode_text(struct encoder *e, struct text_view text, struct plim_err *err)
{
    const struct plim_tokenizer *t = e->tokenizer;
    if (text_added_split(&t->added.original, t->pool, text.data, text.length, &e->original, err) < 0)
        return -1;
    for (size_t i = 0; i < e->original.count; i++) {
        struct text_segment segment = e->original.items[i];
        struct text_view part = { text.data + segment.start, segment.end - segment.start };
        int rc = segment.id >= 0 ? text_ids_append(e->out, t->pool, &segment.id, 1, err)
                                 : encode_original(e, part, segment.start == 0, err);
        if (rc < 0)
            return -1;
    }
    return 0;
}

int plim_tokenizer_encode(const struct plim_tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                          struct plim_ids *out, struct plim_err *err)
{
    const struct text_template *template = &tokenizer->template;
    struct text_view view = { text, length };
    struct encoder encoder;
    size_t count_before = out->count;
    int rc = -1;

    if (length > TEXT_LIMIT_BYTES)
        return plim_err_input(err, "a text of %zu bytes is too long to encode at once; at most %zu", length,
                              TEXT_LIMIT_BYTES);
    if (encoder_init(&encoder, tokenizer, out, err) < 0)
        goto out;
    if (text_utf8_valid_prefix(text, length) < length) {
        if (text_utf8_repair(&encoder.repaired, text, length, err) < 0)
            goto out;
        view = (struct text_view){ encoder.repaired.data, encoder.repaired.length };
    }
    if (add_special && text_ids_append(out, tokenizer->pool, template->before.ids, template->before.count, err) < 0)
        goto out;
    if (encode_text(&encoder, view, err) < 0)
        goto out;
    if (add_special && text_ids_append(out, tokenizer->pool, template->after.ids, template->after.count, err) < 0)
        goto out;
    rc = 0;

out:
    encoder_release(&encoder);
    if (rc < 0)
        out->count = count_before;
    return rc;
}
