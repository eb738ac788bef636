#ifndef PLIM_TEXT_PATTERN_H
#define PLIM_TEXT_PATTERN_H

/*
 * What text is searched for: a regular expression, a literal, or a class of characters.
 *
 * tokenizer.json files hold expressions in Oniguruma's syntax (Hugging Face's engine, Ruby rules) and they are matched
 * here by PCRE2. What means the same in both is passed through; \s, \w and \h, whose sets differ, are spelled out;
 * what would mean something else is refused. Characters that are newer than PCRE2's Unicode version have no class.
 *
 *     struct text_search search;
 *     text_search_init(&search, &pattern, match_data, text, length);
 *     while ((rc = text_search_next(&search, &start, &end, err)) > 0)
 *         ...
 *
 * Threads: a compiled pattern may be used by any number of threads, each with match data of its own.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "plimsoll/json.h"
#include "buffer.h"

/* PCRE2's contexts, with its memory from the pool (the JIT's executable pages excepted, which it maps itself). */
struct text_regex_context {
    struct plim_pool *pool;
    pcre2_general_context *general;
    pcre2_compile_context *compile;
    pcre2_match_context *match;      /* limits; read only, shared by all threads */
};

typedef bool text_class(uint32_t code_point);

struct text_pattern {
    const struct text_regex_context *context;
    pcre2_code *code;       /* a regular expression, */
    bool jit;
    char *literal;          /* or a literal, not empty, */
    size_t literal_length;
    text_class *class;      /* or single characters of a class */
};

struct text_search {
    const struct text_pattern *pattern;
    pcre2_match_data *match_data;
    const char *text;
    size_t length, position;
    size_t last_end;        /* where the last match ended; SIZE_MAX before the first */
};

/* `context` stays where it is while patterns use it. On failure release does no harm. */
int text_regex_context_init(struct text_regex_context *context, struct plim_pool *pool, struct plim_err *err);
void text_regex_context_release(struct text_regex_context *context);

/* Match data for one thread; NULL with `err` set when memory is out. Free with pcre2_match_data_free. */
pcre2_match_data *text_match_data(const struct text_regex_context *context, struct plim_err *err);

/* Reads {"Regex": "..."} or {"String": "..."}. On failure release does no harm. */
int text_pattern_load(struct text_pattern *pattern, const struct text_regex_context *context, struct plim_json json,
                      struct plim_err *err);
/* `view` is for errors. */
int text_pattern_regex(struct text_pattern *pattern, const struct text_regex_context *context, const char *regex,
                       struct plim_json view, struct plim_err *err);
int text_pattern_literal(struct text_pattern *pattern, const struct text_regex_context *context, const char *literal,
                         struct plim_json view, struct plim_err *err);
void text_pattern_class(struct text_pattern *pattern, text_class *class);
void text_pattern_release(struct text_pattern *pattern);

/* `text` is valid UTF-8 and is borrowed, as is match_data. */
void text_search_init(struct text_search *search, const struct text_pattern *pattern, pcre2_match_data *match_data,
                      const char *text, size_t length);

/*
 * The next match from the left, not overlapping the last: 1, or 0 when there is none, or -1 with `err` set. A match
 * may be empty, but not at the end of the match before it.
 */
int text_search_next(struct text_search *search, size_t *start, size_t *end, struct plim_err *err);

/* Oniguruma's syntax to PCRE2's, appended with a NUL. */
int text_regex_translate(struct text_buffer *out, const char *regex, struct plim_json view, struct plim_err *err);

#endif
