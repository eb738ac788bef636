/*
 * Oniguruma's regular expressions in PCRE2's syntax. The sets were compared code point by code point: \d, \p{L}, \p{N}
 * and the other categories agree (up to the Unicode version); \s, \w and \h don't.
 */

#include "pattern.h"

#include <string.h>

/* Without brackets, so that they fit into a class. */
#define SPACE_SET "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define HEX_SET "0-9A-Fa-f"
#define WORD_SET                                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"                   \
    "\\x{1f170}-\\x{1f189}"
/* Outside of classes Oniguruma takes Latin-1's superscripts and fractions for word characters too. */
#define WORD_SET_ALONE WORD_SET "\\xb2\\xb3\\xb9\\xbc-\\xbe"

struct translator {
    struct text_buffer *out;
    const char *start, *next;   /* the whole expression; what comes next */
    bool in_class;
    struct plim_json view;
    struct plim_err *err;
};

static int emit(struct translator *t, const char *text)
{
    return text_buffer_append(t->out, text, strlen(text), t->err);
}

/* Copies `length` bytes of the expression as they are. */
static int copy(struct translator *t, size_t length)
{
    const char *from = t->next;
    t->next += length;
    return text_buffer_append(t->out, from, length, t->err);
}

static int refuse(struct translator *t, const char *what)
{
    return plim_json_err(t->view, t->err, "regular expression: %s is not supported, at \"%.30s\"", what, t->next);
}

/* A named set for the escape at t->next; `negated` when its letter is a capital. */
static int emit_set(struct translator *t, const char *set, bool negated)
{
    if (t->in_class && negated)
        return refuse(t, "a negated set inside a class");
    t->next += 2;
    if (t->in_class)
        return emit(t, set);
    return emit(t, negated ? "[^" : "[") < 0 || emit(t, set) < 0 || emit(t, "]") < 0 ? -1 : 0;
}

/* \uHHHH */
static int translate_code_point(struct translator *t)
{
    if (strspn(t->next + 2, "0123456789abcdefABCDEF") < 4)
        return refuse(t, "this escape");
    t->next += 2;
    return emit(t, "\\x{") < 0 || copy(t, 4) < 0 || emit(t, "}") < 0 ? -1 : 0;
}

static int translate_escape(struct translator *t)
{
    char c = t->next[1];
    switch (c) {
    case '\0':
        return refuse(t, "a lone backslash");
    case 's':
    case 'w':
    case 'h':
        return emit_set(t, c == 's' ? SPACE_SET : c == 'h' ? HEX_SET : t->in_class ? WORD_SET : WORD_SET_ALONE, false);
    case 'S':
        /* The one negated set that turns up inside classes ("[\\s\\S]"); the property is the same set. */
        if (t->in_class) {
            t->next += 2;
            return emit(t, "\\P{White_Space}");
        }
        return emit_set(t, SPACE_SET, true);
    case 'W':
    case 'H':
        return emit_set(t, c == 'W' ? WORD_SET_ALONE : HEX_SET, true);
    case 'u':
        return translate_code_point(t);
    case 'b':
    case 'B':
        /* Word boundaries follow \w, where the engines differ. */
        return t->in_class ? copy(t, 2) : refuse(t, "a word boundary");
    case 'p':
    case 'P': {
        const char *close = t->next[2] == '{' ? strchr(t->next, '}') : NULL;
        return close ? copy(t, (size_t)(close - t->next) + 1) : refuse(t, "a property without braces");
    }
    default:
        /* A character outside ASCII is longer than this copies; its rest is copied as ordinary text. */
        return copy(t, 2);
    }
}

static int translate_in_class(struct translator *t)
{
    if (*t->next == '[')
        return refuse(t, "a set inside a class");
    if (strncmp(t->next, "&&", 2) == 0)
        return refuse(t, "the intersection of sets");
    if (*t->next == ']')
        t->in_class = false;
    return copy(t, 1);
}

/* "(?i)" for the rest of the group: alternatives after it would be grouped differently, unless it comes first. */
static int translate_group(struct translator *t)
{
    const char *options = t->next + 2;
    size_t length = strspn(options, "imsx-");
    if (memchr(options, 'm', length) || memchr(options, 's', length))
        return refuse(t, "option m or s");
    if (length > 0 && options[length] == ')' && t->next != t->start)
        return refuse(t, "an option in the middle");
    return copy(t, 2);
}

int text_regex_translate(struct text_buffer *out, const char *regex, struct plim_json view, struct plim_err *err)
{
    struct translator t = { .out = out, .start = regex, .next = regex, .view = view, .err = err };
    int rc = 0;
    while (rc == 0 && *t.next) {
        if (*t.next == '\\') {
            rc = translate_escape(&t);
        } else if (t.in_class) {
            rc = translate_in_class(&t);
        } else if (*t.next == '[') {
            t.in_class = true;
            rc = copy(&t, t.next[1] == '^' ? 2 : 1);
        } else if (t.next[0] == '(' && t.next[1] == '?') {
            rc = translate_group(&t);
        } else if (t.next[0] == '(' && t.next[1] == '*') {
            rc = refuse(&t, "a verb");
        } else if (t.next[0] == '}' && t.next[1] == '+') {
            /* Oniguruma repeats "x{1,3}+" greedily, PCRE2 possessively. */
            rc = refuse(&t, "a repeated interval");
        } else {
            rc = copy(&t, 1);
        }
    }
    return rc < 0 ? -1 : text_buffer_append(out, "", 1, err);
}
