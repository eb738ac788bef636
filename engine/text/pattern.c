#include "pattern.h"

#include <string.h>

#include "unicode.h"

/* Far more than honest text needs; a hostile expression gives up with an error instead of hanging. */
#define MATCH_LIMIT 10000000u
#define HEAP_LIMIT_KIB (256u * 1024)

static void *regex_alloc(size_t bytes, void *pool)
{
    struct plim_err refused = PLIM_ERR_INIT;   /* PCRE2 reports the failure in its own way */
    return plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_TOKENIZER, bytes, &refused);
}

static void regex_free(void *block, void *pool)
{
    plim_pool_free(pool, block);
}

int text_regex_context_init(struct text_regex_context *context, struct plim_pool *pool, struct plim_err *err)
{
    *context = (struct text_regex_context){ .pool = pool };
    context->general = pcre2_general_context_create(regex_alloc, regex_free, pool);
    if (context->general) {
        context->compile = pcre2_compile_context_create(context->general);
        context->match = pcre2_match_context_create(context->general);
    }
    if (!context->compile || !context->match)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory preparing regular expressions");
    pcre2_set_newline(context->compile, PCRE2_NEWLINE_LF);
    pcre2_set_match_limit(context->match, MATCH_LIMIT);
    pcre2_set_heap_limit(context->match, HEAP_LIMIT_KIB);
    return 0;
}

void text_regex_context_release(struct text_regex_context *context)
{
    pcre2_match_context_free(context->match);
    pcre2_compile_context_free(context->compile);
    pcre2_general_context_free(context->general);
    *context = (struct text_regex_context){ .pool = context->pool };
}

pcre2_match_data *text_match_data(const struct text_regex_context *context, struct plim_err *err)
{
    pcre2_match_data *data = pcre2_match_data_create(1, context->general);
    if (!data)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for matching regular expressions");
    return data;
}

/* ---- making patterns ---- */

int text_pattern_regex(struct text_pattern *pattern, const struct text_regex_context *context, const char *regex,
                       struct plim_json view, struct plim_err *err)
{
    struct text_buffer translated;
    int rc = -1, code;
    size_t offset;

    *pattern = (struct text_pattern){ .context = context };
    text_buffer_init(&translated, context->pool);
    if (text_regex_translate(&translated, regex, view, err) < 0)
        goto out;
    /* In Ruby's syntax ^ and $ match at every line. */
    pattern->code = pcre2_compile((PCRE2_SPTR)translated.data, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset,
                                  context->compile);
    if (!pattern->code) {
        PCRE2_UCHAR message[160] = "";
        pcre2_get_error_message(code, message, sizeof message);
        if (code == PCRE2_ERROR_HEAP_FAILED)
            plim_err_set(err, PLIM_ERR_MEMORY, "out of memory compiling a regular expression");
        else
            plim_json_err(view, err, "regular expression \"%.80s\": %s", regex, (const char *)message);
        goto out;
    }
    /* Without a JIT (a hardened kernel may forbid it) matching is slower, not different. */
    pattern->jit = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
    rc = 0;

out:
    text_buffer_release(&translated);
    return rc;
}

int text_pattern_literal(struct text_pattern *pattern, const struct text_regex_context *context, const char *literal,
                         struct plim_json view, struct plim_err *err)
{
    *pattern = (struct text_pattern){ .context = context, .literal_length = strlen(literal) };
    if (pattern->literal_length == 0)
        return plim_json_err(view, err, "an empty pattern");
    pattern->literal = plim_pool_strdup(context->pool, PLIM_TAG_TOKENIZER, literal, err);
    return pattern->literal ? 0 : -1;
}

int text_pattern_load(struct text_pattern *pattern, const struct text_regex_context *context, struct plim_json json,
                      struct plim_err *err)
{
    const char *text;
    struct plim_json regex = plim_json_get(json, "Regex"), literal = plim_json_get(json, "String");
    *pattern = (struct text_pattern){ .context = context };
    if (plim_json_object(json, err) < 0)
        return -1;
    if (plim_json_has(regex))
        return plim_json_string(regex, &text, err) < 0 ? -1 : text_pattern_regex(pattern, context, text, regex, err);
    if (plim_json_has(literal))
        return plim_json_string(literal, &text, err) < 0 ? -1
                                                         : text_pattern_literal(pattern, context, text, literal, err);
    return plim_json_err(json, err, "expected {\"Regex\": ...} or {\"String\": ...}");
}

void text_pattern_class(struct text_pattern *pattern, text_class *class)
{
    *pattern = (struct text_pattern){ .class = class };
}

void text_pattern_release(struct text_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    if (pattern->literal)
        plim_pool_free(pattern->context->pool, pattern->literal);
    *pattern = (struct text_pattern){ 0 };
}

/* ---- searching ---- */

void text_search_init(struct text_search *search, const struct text_pattern *pattern, pcre2_match_data *match_data,
                      const char *text, size_t length)
{
    *search = (struct text_search){
        .pattern = pattern,
        .match_data = match_data,
        .text = text,
        .length = length,
        .last_end = SIZE_MAX,
    };
}

static int next_literal(struct text_search *s, size_t *start, size_t *end)
{
    const struct text_pattern *p = s->pattern;
    while (s->length - s->position >= p->literal_length) {
        /* Literals are a character or two: more than this (memmem) finds nothing sooner. */
        const char *from = s->text + s->position;
        const char *found = memchr(from, p->literal[0], s->length - s->position - p->literal_length + 1);
        if (!found)
            break;
        s->position = (size_t)(found - s->text) + 1;
        if (memcmp(found, p->literal, p->literal_length) == 0) {
            *start = (size_t)(found - s->text);
            *end = s->position = *start + p->literal_length;
            return 1;
        }
    }
    return 0;
}

static int next_of_class(struct text_search *s, size_t *start, size_t *end)
{
    while (s->position < s->length) {
        size_t used, at = s->position;
        uint32_t character = text_utf8_decode(s->text + at, &used);
        s->position += used;
        if (s->pattern->class(character)) {
            *start = at;
            *end = s->position;
            return 1;
        }
    }
    return 0;
}

static int match_regex(struct text_search *s, size_t *start, size_t *end, struct plim_err *err)
{
    const struct text_pattern *p = s->pattern;
    PCRE2_SPTR subject = (PCRE2_SPTR)s->text;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (p->jit)
        rc = pcre2_jit_match(p->code, subject, s->length, s->position, 0, s->match_data, p->context->match);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, subject, s->length, s->position, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match_data,
                         p->context->match);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(s->match_data);
    if (rc >= 0 && bounds[0] >= s->position && bounds[1] >= bounds[0]) {
        *start = bounds[0];
        *end = bounds[1];
        return 1;
    }
    if (rc == PCRE2_ERROR_NOMEMORY)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory matching a regular expression");
    if (rc >= 0)
        return plim_err_input(err, "the tokenizer's regular expression matches backwards at byte %zu", s->position);
    PCRE2_UCHAR message[160] = "";
    pcre2_get_error_message(rc, message, sizeof message);
    return plim_err_input(err, "the tokenizer's regular expression fails at byte %zu of a piece of %zu: %s",
                          s->position, s->length, (const char *)message);
}

static int next_regex(struct text_search *s, size_t *start, size_t *end, struct plim_err *err)
{
    while (s->position <= s->length) {
        int rc = match_regex(s, start, end, err);
        if (rc <= 0)
            return rc;
        if (*start != *end || *end != s->last_end) {
            s->position = s->last_end = *end;
            return 1;
        }
        size_t used = 1;
        if (s->position < s->length)
            text_utf8_decode(s->text + s->position, &used);
        s->position += used;
    }
    return 0;
}

int text_search_next(struct text_search *search, size_t *start, size_t *end, struct plim_err *err)
{
    if (search->pattern->code)
        return next_regex(search, start, end, err);
    if (search->pattern->literal)
        return next_literal(search, start, end);
    return next_of_class(search, start, end);
}
