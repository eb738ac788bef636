#include "normalise.h"

#include <string.h>

#include <utf8proc.h>

#include "component.h"
#include "unicode.h"

#define SUPPORTED "NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend, Sequence"

enum step_kind {
    STEP_UNICODE,
    STEP_LOWERCASE,
    STEP_STRIP,
    STEP_REPLACE,
    STEP_PREPEND,
};

struct text_normal_step {
    enum step_kind kind;
    utf8proc_option_t form;        /* unicode: which normal form */
    struct text_pattern pattern;   /* replace: what */
    char *content;                 /* replace, prepend: by what, owned */
    size_t content_length;
    bool left, right;              /* strip: which ends */
};

/* One step's work: from `in` to `out`. */
struct rewrite {
    const struct text_normal_step *step;
    struct text_normal_scratch *scratch;
    pcre2_match_data *match_data;
    struct text_view in;
    struct text_buffer *out;
    bool *at_start;
};

/* ---- loading ---- */

static struct text_normal_step *add_step(struct text_normaliser *n, enum step_kind kind, struct plim_err *err)
{
    struct text_normal_step *steps = text_grow(n->pool, n->steps, &n->capacity, n->count + 1, sizeof *steps, err);
    if (!steps)
        return NULL;
    n->steps = steps;
    steps[n->count] = (struct text_normal_step){ .kind = kind };
    return &steps[n->count++];
}

static int set_content(struct text_normaliser *n, struct text_normal_step *step, struct plim_json content,
                       struct plim_err *err)
{
    const char *text;
    if (plim_json_string(content, &text, err) < 0)
        return -1;
    step->content_length = strlen(text);
    step->content = plim_pool_strdup(n->pool, PLIM_TAG_TOKENIZER, text, err);
    return step->content ? 0 : -1;
}

static int read_unicode(struct text_normaliser *n, int form, struct plim_err *err)
{
    struct text_normal_step *step = add_step(n, STEP_UNICODE, err);
    if (!step)
        return -1;
    step->form = (utf8proc_option_t)(UTF8PROC_STABLE | form);
    return 0;
}

static int read_strip(struct text_normaliser *n, struct plim_json json, struct plim_err *err)
{
    struct text_normal_step *step = add_step(n, STEP_STRIP, err);
    if (!step || plim_json_bool(plim_json_get(json, "strip_left"), &step->left, err) < 0)
        return -1;
    return plim_json_bool(plim_json_get(json, "strip_right"), &step->right, err);
}

static int read_replace(struct text_normaliser *n, struct plim_json json, struct plim_err *err)
{
    struct text_normal_step *step = add_step(n, STEP_REPLACE, err);
    if (!step || text_pattern_load(&step->pattern, n->context, plim_json_get(json, "pattern"), err) < 0)
        return -1;
    return set_content(n, step, plim_json_get(json, "content"), err);
}

static int read_prepend(struct text_normaliser *n, struct plim_json json, struct plim_err *err)
{
    struct text_normal_step *step = add_step(n, STEP_PREPEND, err);
    return step ? set_content(n, step, plim_json_get(json, "prepend"), err) : -1;
}

static int read_step(void *context, struct plim_json json, const char *type, struct plim_err *err)
{
    struct text_normaliser *n = context;
    if (strcmp(type, "NFC") == 0)
        return read_unicode(n, UTF8PROC_COMPOSE, err);
    if (strcmp(type, "NFD") == 0)
        return read_unicode(n, UTF8PROC_DECOMPOSE, err);
    if (strcmp(type, "NFKC") == 0)
        return read_unicode(n, UTF8PROC_COMPOSE | UTF8PROC_COMPAT, err);
    if (strcmp(type, "NFKD") == 0)
        return read_unicode(n, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, err);
    if (strcmp(type, "Lowercase") == 0)
        return add_step(n, STEP_LOWERCASE, err) ? 0 : -1;
    if (strcmp(type, "Strip") == 0)
        return read_strip(n, json, err);
    if (strcmp(type, "Replace") == 0)
        return read_replace(n, json, err);
    if (strcmp(type, "Prepend") == 0)
        return read_prepend(n, json, err);
    return text_unsupported(json, type, SUPPORTED, err);
}

int text_normaliser_load(struct text_normaliser *normaliser, const struct text_regex_context *context,
                         struct plim_json json, struct plim_err *err)
{
    *normaliser = (struct text_normaliser){ .pool = context->pool, .context = context };
    return text_each_component(json, "normalizers", read_step, normaliser, err);
}

void text_normaliser_release(struct text_normaliser *normaliser)
{
    for (size_t i = 0; i < normaliser->count; i++) {
        text_pattern_release(&normaliser->steps[i].pattern);
        plim_pool_free(normaliser->pool, normaliser->steps[i].content);
    }
    plim_pool_free(normaliser->pool, normaliser->steps);
    *normaliser = (struct text_normaliser){ .pool = normaliser->pool };
}

void text_normal_scratch_init(struct text_normal_scratch *scratch, struct plim_pool *pool)
{
    *scratch = (struct text_normal_scratch){ 0 };
    text_buffer_init(&scratch->buffers[0], pool);
    text_buffer_init(&scratch->buffers[1], pool);
}

void text_normal_scratch_release(struct text_normal_scratch *scratch)
{
    plim_pool_free(scratch->buffers[0].pool, scratch->code_points);
    text_buffer_release(&scratch->buffers[0]);
    text_buffer_release(&scratch->buffers[1]);
    scratch->code_points = NULL;
    scratch->code_point_capacity = 0;
}

/* ---- the steps ---- */

static int append_character(struct text_buffer *out, uint32_t character, struct plim_err *err)
{
    if (text_buffer_reserve(out, 4, err) < 0)
        return -1;
    out->length += text_utf8_encode(character, out->data + out->length);
    return 0;
}

static int unicode_form(struct rewrite *r, struct plim_err *err)
{
    struct text_normal_scratch *s = r->scratch;
    const utf8proc_uint8_t *in = (const utf8proc_uint8_t *)r->in.data;
    utf8proc_option_t form = r->step->form;
    utf8proc_ssize_t count = 0;

    /* No character of ASCII decomposes or combines with what stands before it; the last one may with what follows. */
    size_t plain = text_ascii_prefix(r->in.data, r->in.length);
    plain -= plain > 0 && plain < r->in.length;
    if (text_buffer_append(r->out, r->in.data, plain, err) < 0)
        return -1;
    if (plain == r->in.length)
        return 0;

    /* The first call may find too little room, and says how much is needed. */
    for (int tries = 0; tries < 2; tries++) {
        count = utf8proc_decompose(in + plain, (utf8proc_ssize_t)(r->in.length - plain), s->code_points,
                                   (utf8proc_ssize_t)s->code_point_capacity, form);
        if (count < 0 || (size_t)count <= s->code_point_capacity)
            break;
        int32_t *grown = text_grow(r->out->pool, s->code_points, &s->code_point_capacity, (size_t)count,
                                   sizeof *grown, err);
        if (!grown)
            return -1;
        s->code_points = grown;
    }
    if (count >= 0)
        count = utf8proc_normalize_utf32(s->code_points, count, form);
    if (count < 0)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "normalising text: %s", utf8proc_errmsg(count));
    for (utf8proc_ssize_t i = 0; i < count; i++) {
        if (append_character(r->out, (uint32_t)s->code_points[i], err) < 0)
            return -1;
    }
    return 0;
}

static int lowercase(struct rewrite *r, struct plim_err *err)
{
    for (size_t i = 0, used; i < r->in.length; i += used) {
        uint32_t character = text_utf8_decode(r->in.data + i, &used);
        /* The one character whose lower case is two: I with a dot, U+0130. */
        uint32_t lower = character == 0x130 ? 'i' : (uint32_t)utf8proc_tolower((utf8proc_int32_t)character);
        if (append_character(r->out, lower, err) < 0 ||
            (character == 0x130 && append_character(r->out, 0x307, err) < 0))
            return -1;
    }
    return 0;
}

static int strip(struct rewrite *r, struct plim_err *err)
{
    const char *text = r->in.data;
    size_t first = 0, end = r->in.length, used;
    while (r->step->left && first < end && text_is_space(text_utf8_decode(text + first, &used)))
        first += used;
    while (r->step->right && end > first) {
        size_t last = end - 1;
        while (((unsigned char)text[last] & 0xc0) == 0x80)
            last--;
        if (!text_is_space(text_utf8_decode(text + last, &used)))
            break;
        end = last;
    }
    if (first > 0)
        *r->at_start = false;
    return text_buffer_append(r->out, text + first, end - first, err);
}

static int replace(struct rewrite *r, struct plim_err *err)
{
    struct text_search search;
    size_t start, end, done = 0;
    int rc;
    text_search_init(&search, &r->step->pattern, r->match_data, r->in.data, r->in.length);
    while ((rc = text_search_next(&search, &start, &end, err)) > 0) {
        size_t used = 0;
        if (start < end)
            text_utf8_decode(r->in.data, &used);
        /* What replaces several characters counts as coming from the last of them. */
        if (start == 0 && end > 0 && (r->step->content_length == 0 || end > used))
            *r->at_start = false;
        if (text_buffer_append(r->out, r->in.data + done, start - done, err) < 0 ||
            text_buffer_append(r->out, r->step->content, r->step->content_length, err) < 0)
            return -1;
        done = end;
    }
    return rc < 0 ? -1 : text_buffer_append(r->out, r->in.data + done, r->in.length - done, err);
}

static int prepend(struct rewrite *r, struct plim_err *err)
{
    if (r->in.length > 0 && text_buffer_append(r->out, r->step->content, r->step->content_length, err) < 0)
        return -1;
    return text_buffer_append(r->out, r->in.data, r->in.length, err);
}

static int run_step(struct rewrite *r, struct plim_err *err)
{
    switch (r->step->kind) {
    case STEP_UNICODE:
        return unicode_form(r, err);
    case STEP_LOWERCASE:
        return lowercase(r, err);
    case STEP_STRIP:
        return strip(r, err);
    case STEP_REPLACE:
        return replace(r, err);
    case STEP_PREPEND:
        return prepend(r, err);
    }
    return -1;
}

int text_normalise(const struct text_normaliser *normaliser, struct text_normal_scratch *scratch,
                   pcre2_match_data *match_data, struct text_view *text, bool *at_start, struct plim_err *err)
{
    for (size_t i = 0; i < normaliser->count; i++) {
        struct rewrite rewrite = {
            .step = &normaliser->steps[i],
            .scratch = scratch,
            .match_data = match_data,
            .in = *text,
            .out = &scratch->buffers[i % 2],
            .at_start = at_start,
        };
        rewrite.out->length = 0;
        if (run_step(&rewrite, err) < 0)
            return -1;
        *text = (struct text_view){ rewrite.out->data, rewrite.out->length };
    }
    return 0;
}
