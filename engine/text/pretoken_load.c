/* From the tokenizer's "pre_tokenizer" to steps. */

#include "pretoken.h"

#include <string.h>

#include "component.h"
#include "pretoken_steps.h"
#include "unicode.h"

#define SUPPORTED                                                                                                      \
    "ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, CharDelimiterSplit, Sequence"

/* GPT-2's pattern, which ByteLevel uses by itself. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static struct text_pretoken_step *add_step(struct text_pretokeniser *p, enum text_step_kind kind,
                                           struct plim_err *err)
{
    struct text_pretoken_step *steps = text_grow(p->pool, p->steps, &p->capacity, p->count + 1, sizeof *steps, err);
    if (!steps)
        return NULL;
    p->steps = steps;
    steps[p->count] = (struct text_pretoken_step){ .kind = kind };
    return &steps[p->count++];
}

static struct text_pretoken_step *add_split(struct text_pretokeniser *p, enum text_split_behaviour behaviour,
                                            struct plim_err *err)
{
    struct text_pretoken_step *step = add_step(p, TEXT_STEP_SPLIT, err);
    if (step)
        step->behaviour = behaviour;
    return step;
}

static int add_class_split(struct text_pretokeniser *p, text_class *class, enum text_split_behaviour behaviour,
                           struct plim_err *err)
{
    struct text_pretoken_step *step = add_split(p, behaviour, err);
    if (!step)
        return -1;
    text_pattern_class(&step->pattern, class);
    return 0;
}

/* Behaviours are written "MergedWithPrevious" in files. */
static int read_behaviour(struct plim_json json, enum text_split_behaviour *out, struct plim_err *err)
{
    static const char *const names[] = {
        [TEXT_SPLIT_REMOVED] = "Removed",
        [TEXT_SPLIT_ISOLATED] = "Isolated",
        [TEXT_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TEXT_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [TEXT_SPLIT_CONTIGUOUS] = "Contiguous",
        NULL,
    };
    int choice;
    if (plim_json_choice(json, names, &choice, err) < 0)
        return -1;
    *out = (enum text_split_behaviour)choice;
    return 0;
}

static int read_split(struct text_pretokeniser *p, struct plim_json json, struct plim_err *err)
{
    struct text_pretoken_step *step = add_step(p, TEXT_STEP_SPLIT, err);
    if (!step || text_pattern_load(&step->pattern, p->context, plim_json_get(json, "pattern"), err) < 0 ||
        read_behaviour(plim_json_get(json, "behavior"), &step->behaviour, err) < 0)
        return -1;
    return plim_json_bool(plim_json_get(json, "invert"), &step->invert, err);
}

static int read_byte_level(struct text_pretokeniser *p, struct plim_json json, struct plim_err *err)
{
    bool prefix_space, use_regex = true;
    if (plim_json_bool(plim_json_get(json, "add_prefix_space"), &prefix_space, err) < 0 ||
        text_optional_bool(json, "use_regex", &use_regex, err) < 0)
        return -1;
    if (prefix_space && !add_step(p, TEXT_STEP_PREFIX_SPACE, err))
        return -1;
    if (use_regex) {
        struct text_pretoken_step *split = add_split(p, TEXT_SPLIT_ISOLATED, err);
        if (!split || text_pattern_regex(&split->pattern, p->context, GPT2_PATTERN, json, err) < 0)
            return -1;
    }
    return add_step(p, TEXT_STEP_BYTE_LEVEL, err) ? 0 : -1;
}

/* Older files have add_prefix_space, newer ones prepend_scheme and split. */
static int read_scheme(struct plim_json json, enum text_prepend_scheme *out, struct plim_err *err)
{
    static const char *const names[] = {
        [TEXT_PREPEND_ALWAYS] = "always",
        [TEXT_PREPEND_FIRST] = "first",
        [TEXT_PREPEND_NEVER] = "never",
        NULL,
    };
    struct plim_json scheme = plim_json_get(json, "prepend_scheme");
    bool prefix_space = true;
    int choice = TEXT_PREPEND_ALWAYS;
    if (text_optional_bool(json, "add_prefix_space", &prefix_space, err) < 0)
        return -1;
    if (plim_json_has(scheme)) {
        if (plim_json_choice(scheme, names, &choice, err) < 0)
            return -1;
        if (!prefix_space && choice != TEXT_PREPEND_NEVER)
            return plim_json_err(json, err, "add_prefix_space is false but prepend_scheme is %s", names[choice]);
    }
    *out = prefix_space ? (enum text_prepend_scheme)choice : TEXT_PREPEND_NEVER;
    return 0;
}

static int read_metaspace(struct text_pretokeniser *p, struct plim_json json, struct plim_err *err)
{
    struct text_pretoken_step *step = add_step(p, TEXT_STEP_METASPACE, err);
    struct plim_json replacement = plim_json_get(json, "replacement");
    const char *mark;
    bool split = true;
    if (!step || plim_json_string(replacement, &mark, err) < 0 || read_scheme(json, &step->scheme, err) < 0 ||
        text_optional_bool(json, "split", &split, err) < 0)
        return -1;
    if (*mark)
        text_utf8_decode(mark, &step->mark_length);
    if (*mark == '\0' || mark[step->mark_length] != '\0')
        return plim_json_err(replacement, err, "\"%.20s\": expected one character", mark);
    memcpy(step->mark, mark, step->mark_length);
    if (!split)
        return 0;
    step = add_split(p, TEXT_SPLIT_MERGED_WITH_NEXT, err);
    return step ? text_pattern_literal(&step->pattern, p->context, mark, replacement, err) : -1;
}

static int read_digits(struct text_pretokeniser *p, struct plim_json json, struct plim_err *err)
{
    bool individual;
    if (plim_json_bool(plim_json_get(json, "individual_digits"), &individual, err) < 0)
        return -1;
    return add_class_split(p, text_is_numeric, individual ? TEXT_SPLIT_ISOLATED : TEXT_SPLIT_CONTIGUOUS, err);
}

static int read_punctuation(struct text_pretokeniser *p, struct plim_json json, struct plim_err *err)
{
    struct plim_json member = plim_json_get(json, "behavior");
    enum text_split_behaviour behaviour = TEXT_SPLIT_ISOLATED;
    if (plim_json_has(member) && read_behaviour(member, &behaviour, err) < 0)
        return -1;
    return add_class_split(p, text_is_punctuation, behaviour, err);
}

/*
 * Whitespace keeps the matches of \w+|[^\w\s]+. Two cuts by class do the same: at the border between word characters
 * and others, then at spaces, which go.
 */
static int read_whitespace(struct text_pretokeniser *p, struct plim_err *err)
{
    if (add_class_split(p, text_is_word, TEXT_SPLIT_CONTIGUOUS, err) < 0)
        return -1;
    return add_class_split(p, text_is_space, TEXT_SPLIT_REMOVED, err);
}

static int read_delimiter(struct text_pretokeniser *p, struct plim_json json, struct plim_err *err)
{
    struct text_pretoken_step *step = add_split(p, TEXT_SPLIT_REMOVED, err);
    struct plim_json delimiter = plim_json_get(json, "delimiter");
    const char *text;
    if (!step || plim_json_string(delimiter, &text, err) < 0)
        return -1;
    return text_pattern_literal(&step->pattern, p->context, text, delimiter, err);
}

static int read_step(void *context, struct plim_json json, const char *type, struct plim_err *err)
{
    struct text_pretokeniser *p = context;
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(p, json, err);
    if (strcmp(type, "Split") == 0)
        return read_split(p, json, err);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(p, json, err);
    if (strcmp(type, "Digits") == 0)
        return read_digits(p, json, err);
    if (strcmp(type, "Punctuation") == 0)
        return read_punctuation(p, json, err);
    if (strcmp(type, "Whitespace") == 0)
        return read_whitespace(p, err);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_class_split(p, text_is_space, TEXT_SPLIT_REMOVED, err);
    if (strcmp(type, "CharDelimiterSplit") == 0)
        return read_delimiter(p, json, err);
    return text_unsupported(json, type, SUPPORTED, err);
}

int text_pretokeniser_load(struct text_pretokeniser *pretokeniser, const struct text_regex_context *context,
                           struct plim_json json, struct plim_err *err)
{
    *pretokeniser = (struct text_pretokeniser){ .pool = context->pool, .context = context };
    return text_each_component(json, "pretokenizers", read_step, pretokeniser, err);
}

void text_pretokeniser_release(struct text_pretokeniser *pretokeniser)
{
    for (size_t i = 0; i < pretokeniser->count; i++)
        text_pattern_release(&pretokeniser->steps[i].pattern);
    plim_pool_free(pretokeniser->pool, pretokeniser->steps);
    *pretokeniser = (struct text_pretokeniser){ .pool = pretokeniser->pool };
}
