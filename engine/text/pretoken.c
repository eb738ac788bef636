#include "pretoken.h"

#include <string.h>

#include "pretoken_steps.h"
#include "unicode.h"

void text_pretoken_scratch_init(struct text_pretoken_scratch *scratch, struct plim_pool *pool)
{
    *scratch = (struct text_pretoken_scratch){ .pool = pool };
    text_buffer_init(&scratch->text[0], pool);
    text_buffer_init(&scratch->text[1], pool);
}

void text_pretoken_scratch_release(struct text_pretoken_scratch *scratch)
{
    for (int i = 0; i < 2; i++) {
        text_buffer_release(&scratch->text[i]);
        plim_pool_free(scratch->pool, scratch->pieces[i].items);
        scratch->pieces[i] = (struct text_piece_list){ 0 };
    }
}

/* ---- cutting ---- */

/* Pieces of one text that are being cut further. */
struct cutter {
    const struct text_pretoken_step *step;
    struct plim_pool *pool;
    struct text_piece_list *out;
    size_t first;           /* where in `out` the pieces of the current text begin */
    bool previous_match;    /* whether the span before was a match; false at the start */
};

static int add_piece(struct cutter *c, size_t start, size_t end, struct plim_err *err)
{
    struct text_piece *items = text_grow(c->pool, c->out->items, &c->out->capacity, c->out->count + 1, sizeof *items,
                                         err);
    if (!items)
        return -1;
    c->out->items = items;
    items[c->out->count++] = (struct text_piece){ start, end };
    return 0;
}

/* Makes the last piece longer, or adds one when there is none yet. */
static int extend_piece(struct cutter *c, size_t start, size_t end, struct plim_err *err)
{
    if (c->out->count == c->first)
        return add_piece(c, start, end, err);
    c->out->items[c->out->count - 1].end = end;
    return 0;
}

/*
 * Spans come from left to right and cover the text: matches, and what is between them. An empty match is a span too,
 * and takes part in what is merged with what.
 */
static int take_span(struct cutter *c, size_t start, size_t end, bool match, struct plim_err *err)
{
    bool previous_match = c->previous_match;
    c->previous_match = match;
    switch (c->step->behaviour) {
    case TEXT_SPLIT_REMOVED:
        return match ? 0 : add_piece(c, start, end, err);
    case TEXT_SPLIT_ISOLATED:
        return add_piece(c, start, end, err);
    case TEXT_SPLIT_MERGED_WITH_PREVIOUS:
        return match && !previous_match ? extend_piece(c, start, end, err) : add_piece(c, start, end, err);
    case TEXT_SPLIT_MERGED_WITH_NEXT:
        /* The last of adjoining matches goes with what follows. */
        return !match && previous_match ? extend_piece(c, start, end, err) : add_piece(c, start, end, err);
    case TEXT_SPLIT_CONTIGUOUS:
        return match == previous_match ? extend_piece(c, start, end, err) : add_piece(c, start, end, err);
    }
    return -1;
}

static void drop_empty_pieces(struct cutter *c)
{
    size_t kept = c->first;
    for (size_t i = c->first; i < c->out->count; i++) {
        if (c->out->items[i].start < c->out->items[i].end)
            c->out->items[kept++] = c->out->items[i];
    }
    c->out->count = kept;
}

static int cut_piece(struct cutter *c, pcre2_match_data *match_data, const char *text, struct text_piece piece,
                     struct plim_err *err)
{
    struct text_search search;
    size_t start, end, done = 0, length = piece.end - piece.start;
    bool invert = c->step->invert;
    int rc;

    c->first = c->out->count;
    c->previous_match = false;
    text_search_init(&search, &c->step->pattern, match_data, text + piece.start, length);
    while ((rc = text_search_next(&search, &start, &end, err)) > 0) {
        if (start > done && take_span(c, piece.start + done, piece.start + start, invert, err) < 0)
            return -1;
        if (take_span(c, piece.start + start, piece.start + end, !invert, err) < 0)
            return -1;
        done = end;
    }
    if (rc < 0 || (done < length && take_span(c, piece.start + done, piece.end, invert, err) < 0))
        return -1;
    drop_empty_pieces(c);
    return 0;
}

static int cut_pieces(const struct text_pretoken_step *step, struct text_pretoken_scratch *scratch,
                      pcre2_match_data *match_data, const char *text, const struct text_piece_list *in,
                      struct text_piece_list *out, struct plim_err *err)
{
    struct cutter cutter = { .step = step, .pool = scratch->pool, .out = out };
    out->count = 0;
    for (size_t i = 0; i < in->count; i++) {
        if (cut_piece(&cutter, match_data, text, in->items[i], err) < 0)
            return -1;
    }
    return 0;
}

/* ---- rewriting ---- */

static bool starts_with(const char *text, size_t length, const char *prefix, size_t prefix_length)
{
    return length >= prefix_length && memcmp(text, prefix, prefix_length) == 0;
}

static int rewrite_prefix_space(struct text_buffer *out, const char *text, size_t length, struct plim_err *err)
{
    if (text[0] != ' ' && text_buffer_append(out, " ", 1, err) < 0)
        return -1;
    return text_buffer_append(out, text, length, err);
}

static int rewrite_byte_level(struct text_buffer *out, const char *text, size_t length, struct plim_err *err)
{
    if (text_buffer_reserve(out, 2 * length, err) < 0)
        return -1;
    char *to = out->data + out->length;
    for (size_t i = 0; i < length; i++)
        to += text_utf8_encode(text_byte_level_character((uint8_t)text[i]), to);
    out->length = (size_t)(to - out->data);
    return 0;
}

static int rewrite_metaspace(struct text_buffer *out, const struct text_pretoken_step *step, const char *text,
                             size_t length, bool first, struct plim_err *err)
{
    bool has_mark = text[0] == ' ' || starts_with(text, length, step->mark, step->mark_length);
    bool wants_mark = step->scheme == TEXT_PREPEND_ALWAYS || (step->scheme == TEXT_PREPEND_FIRST && first);
    if (wants_mark && !has_mark && text_buffer_append(out, step->mark, step->mark_length, err) < 0)
        return -1;
    for (size_t i = 0; i < length;) {
        const char *space = memchr(text + i, ' ', length - i);
        size_t end = space ? (size_t)(space - text) : length;
        if (text_buffer_append(out, text + i, end - i, err) < 0 ||
            (space && text_buffer_append(out, step->mark, step->mark_length, err) < 0))
            return -1;
        i = end + 1;
    }
    return 0;
}

/* Rewrites each piece into `out` and moves its bounds there. Pieces are never empty. */
static int rewrite_pieces(const struct text_pretoken_step *step, struct text_buffer *out, const char *text,
                          struct text_piece_list *pieces, bool at_start, struct plim_err *err)
{
    out->length = 0;
    for (size_t i = 0; i < pieces->count; i++) {
        struct text_piece *piece = &pieces->items[i];
        const char *from = text + piece->start;
        size_t length = piece->end - piece->start, start = out->length;
        int rc = -1;
        if (step->kind == TEXT_STEP_PREFIX_SPACE)
            rc = rewrite_prefix_space(out, from, length, err);
        else if (step->kind == TEXT_STEP_BYTE_LEVEL)
            rc = rewrite_byte_level(out, from, length, err);
        else
            rc = rewrite_metaspace(out, step, from, length, at_start && piece->start == 0, err);
        if (rc < 0)
            return -1;
        *piece = (struct text_piece){ start, out->length };
    }
    return 0;
}

/* ---- all steps ---- */

int text_pretokenise(const struct text_pretokeniser *pretokeniser, struct text_pretoken_scratch *scratch,
                     pcre2_match_data *match_data, struct text_view *text, bool at_start,
                     const struct text_piece_list **pieces, struct plim_err *err)
{
    struct text_piece_list *current = &scratch->pieces[0], *other = &scratch->pieces[1], *swap;
    struct text_buffer *target = &scratch->text[0];
    struct cutter whole = { .pool = scratch->pool, .out = current };

    current->count = 0;
    if (text->length > 0 && add_piece(&whole, 0, text->length, err) < 0)
        return -1;
    for (size_t i = 0; i < pretokeniser->count; i++) {
        const struct text_pretoken_step *step = &pretokeniser->steps[i];
        if (step->kind == TEXT_STEP_SPLIT) {
            if (cut_pieces(step, scratch, match_data, text->data, current, other, err) < 0)
                return -1;
            swap = current;
            current = other;
            other = swap;
            continue;
        }
        if (rewrite_pieces(step, target, text->data, current, at_start, err) < 0)
            return -1;
        *text = (struct text_view){ target->data, target->length };
        target = target == &scratch->text[0] ? &scratch->text[1] : &scratch->text[0];
    }
    *pieces = current;
    return 0;
}
