#include "plimsoll/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"

#define MAX_DEPTH 64

/* ---- text that cJSON should never see ---- */

/* Length of the UTF-8 character at `s` (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF), 0 if invalid. */
static size_t utf8_length(const unsigned char *s, size_t left)
{
    unsigned char lead = s[0];
    if (lead < 0x80)
        return 1;
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || left < length)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((lead == 0xe0 && s[1] < 0xa0) || (lead == 0xed && s[1] > 0x9f) || (lead == 0xf0 && s[1] < 0x90) ||
        (lead == 0xf4 && s[1] > 0x8f))
        return 0;
    return length;
}

static int line_err(struct plim_err *err, const char *document, const char *text, size_t offset, const char *what)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < offset; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n';
    }
    return plim_err_input(err, "%s: line %zu, column %zu: %s", document, line, column, what);
}

/*
 * One pass before parsing: valid UTF-8, no NUL (also not as \u0000, which cJSON would take for the end of the string),
 * and a depth that bounds cJSON's recursion. *unfinished: a string or bracket is still open at the end, or there is nothing.
 */
static int scan_text(const char *document, const char *text, size_t length, bool *unfinished, struct plim_err *err)
{
    bool in_string = false, blank = true;
    int depth = 0;
    for (size_t i = 0; i < length;) {
        size_t step = utf8_length((const unsigned char *)text + i, length - i);
        if (step == 0)
            return line_err(err, document, text, i, "invalid UTF-8");
        char c = text[i];
        if (c == '\0')
            return line_err(err, document, text, i, "a NUL byte");
        if (in_string && c == '\\') {
            if (length - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
                return line_err(err, document, text, i, "a NUL character in a string");
            i += length - i >= 2 && (unsigned char)text[i + 1] < 0x80 ? 2 : 1;
            continue;
        }
        blank = blank && strchr(" \t\r\n", c);
        if (c == '"')
            in_string = !in_string;
        if (!in_string && (c == '{' || c == '[') && ++depth > MAX_DEPTH)
            return line_err(err, document, text, i, "nested deeper than 64 levels");
        if (!in_string && (c == '}' || c == ']'))
            depth--;
        i += step;
    }
    *unfinished = in_string || depth > 0 || blank;
    return 0;
}

/* ---- duplicate keys, numbers ---- */

/* A key with its first bytes up front, so that sorting a vocabulary of 100 000 keys seldom follows the pointer. */
struct sort_key {
    uint64_t prefix;
    const char *key;
};

static int compare_keys(const void *a, const void *b)
{
    const struct sort_key *x = a, *y = b;
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix ? -1 : 1;
    return strcmp(x->key, y->key);
}

static struct sort_key sort_key_of(const char *key)
{
    struct sort_key out = { 0, key };
    size_t length = strnlen(key, 8);
    for (size_t i = 0; i < 8; i++)
        out.prefix = out.prefix << 8 | (i < length ? (unsigned char)key[i] : 0);
    return out;
}

static int check_keys(struct plim_json object, struct plim_err *err)
{
    size_t count = plim_json_length(object);
    if (count < 2)
        return 0;
    struct sort_key *keys = malloc(count * sizeof *keys);
    if (!keys)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory checking %s", object.document);
    size_t n = 0;
    for (const cJSON *item = object.node->child; item; item = item->next)
        keys[n++] = sort_key_of(item->string);
    qsort(keys, n, sizeof *keys, compare_keys);
    int rc = 0;
    for (size_t i = 1; i < n && rc == 0; i++) {
        if (compare_keys(&keys[i - 1], &keys[i]) == 0)
            rc = plim_json_err(object, err, "duplicate key \"%.80s\"", keys[i].key);
    }
    free(keys);
    return rc;
}

/* Depth is bounded by scan_text. Paths are only built on the way to an error: a vocabulary has too many values. */
static int check_values(const cJSON *node, const char *document, struct plim_err *err)
{
    if (cJSON_IsObject(node) && check_keys(plim_json_root(node, document), err) < 0)
        return -1;
    if (cJSON_IsNumber(node) && !isfinite(node->valuedouble))
        return plim_err_input(err, "%s: %s%sa number is out of range", document, node->string ? node->string : "",
                              node->string ? ": " : "");
    for (const cJSON *item = node->child; item; item = item->next) {
        if (check_values(item, document, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- reading ---- */

int plim_json_parse(const char *document, const char *text, size_t length, cJSON **root, struct plim_err *err)
{
    const char *end = NULL;
    bool unfinished = true;
    *root = NULL;
    if (scan_text(document, text, length, &unfinished, err) < 0)
        return -1;
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, length, &end, 0);
    size_t offset = end && end >= text ? (size_t)(end - text) : 0;
    /* At the end of the text cJSON points to the last byte. */
    if (!parsed && unfinished && offset + 1 >= length)
        return line_err(err, document, text, length, "the text ends too early");
    if (!parsed)
        return line_err(err, document, text, offset, "not valid JSON");
    while (offset < length && strchr(" \t\r\n", text[offset]))
        offset++;
    if (offset < length)
        line_err(err, document, text, offset, "text after the end of the document");
    else
        check_values(parsed, document, err);
    if (err->kind != PLIM_ERR_NONE) {
        cJSON_Delete(parsed);
        return -1;
    }
    *root = parsed;
    return 0;
}

int plim_json_read(const char *path, size_t limit_bytes, cJSON **root, struct plim_err *err)
{
    char *text = NULL;
    size_t length = 0;
    *root = NULL;
    if (plim_read_file(path, limit_bytes, &text, &length, err) < 0)
        return -1;
    int rc = plim_json_parse(path, text, length, root, err);
    free(text);
    return rc;
}

/* ---- views ---- */

struct plim_json plim_json_root(const cJSON *root, const char *document)
{
    return (struct plim_json){ .node = root, .document = document };
}

bool plim_json_has(struct plim_json value)
{
    return value.node != NULL && !cJSON_IsNull(value.node);
}

/* Sets path = parent + separator + step; when it's too long the front goes, since the end says where one is. */
static void extend_path(struct plim_json *value, const char *separator, const char *step)
{
    char joined[sizeof value->path * 2 + 8];
    snprintf(joined, sizeof joined, "%s%s%.160s", value->path, *value->path ? separator : "", step);
    size_t length = strlen(joined), room = sizeof value->path - 1;
    if (length <= room) {
        memcpy(value->path, joined, length + 1);
        return;
    }
    const char *tail = joined + length - (room - 2);
    while (((unsigned char)*tail & 0xc0) == 0x80)
        tail++;
    snprintf(value->path, sizeof value->path, "..%s", tail);
}

struct plim_json plim_json_get(struct plim_json object, const char *key)
{
    struct plim_json member = object;
    member.node = cJSON_IsObject(object.node) ? cJSON_GetObjectItemCaseSensitive(object.node, key) : NULL;
    if (cJSON_IsNull(member.node))
        member.node = NULL;
    extend_path(&member, ".", key);
    return member;
}

struct plim_json plim_json_at(struct plim_json array, size_t index)
{
    char step[24];
    struct plim_json item = array;
    item.node = cJSON_GetArrayItem(array.node, (int)index);
    snprintf(step, sizeof step, "[%zu]", index);
    extend_path(&item, "", step);
    return item;
}

size_t plim_json_length(struct plim_json array_or_object)
{
    size_t count = 0;
    if (cJSON_IsArray(array_or_object.node) || cJSON_IsObject(array_or_object.node)) {
        for (const cJSON *item = array_or_object.node->child; item; item = item->next)
            count++;
    }
    return count;
}

/* ---- checked values ---- */

int plim_json_err(struct plim_json value, struct plim_err *err, const char *format, ...)
{
    char message[800];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (*value.path)
        return plim_err_input(err, "%s: %s: %s", value.document, value.path, message);
    return plim_err_input(err, "%s: %s", value.document, message);
}

static const char *type_name(const cJSON *node)
{
    if (cJSON_IsObject(node))
        return "an object";
    if (cJSON_IsArray(node))
        return "a list";
    if (cJSON_IsString(node))
        return "a string";
    if (cJSON_IsNumber(node))
        return "a number";
    if (cJSON_IsBool(node))
        return cJSON_IsTrue(node) ? "true" : "false";
    return "null";
}

static int type_err(struct plim_json value, const char *wanted, struct plim_err *err)
{
    if (!plim_json_has(value))
        return plim_json_err(value, err, "missing; expected %s", wanted);
    return plim_json_err(value, err, "found %s, expected %s", type_name(value.node), wanted);
}

int plim_json_object(struct plim_json value, struct plim_err *err)
{
    return cJSON_IsObject(value.node) ? 0 : type_err(value, "an object", err);
}

int plim_json_array(struct plim_json value, struct plim_err *err)
{
    return cJSON_IsArray(value.node) ? 0 : type_err(value, "a list", err);
}

int plim_json_string(struct plim_json value, const char **out, struct plim_err *err)
{
    if (!cJSON_IsString(value.node))
        return type_err(value, "a string", err);
    *out = value.node->valuestring;
    return 0;
}

int plim_json_bool(struct plim_json value, bool *out, struct plim_err *err)
{
    if (!cJSON_IsBool(value.node))
        return type_err(value, "true or false", err);
    *out = cJSON_IsTrue(value.node);
    return 0;
}

int plim_json_double(struct plim_json value, double *out, struct plim_err *err)
{
    if (!cJSON_IsNumber(value.node))
        return type_err(value, "a number", err);
    *out = value.node->valuedouble;
    return 0;
}

int plim_json_int(struct plim_json value, int64_t low, int64_t high, int64_t *out, struct plim_err *err)
{
    if (!cJSON_IsNumber(value.node))
        return type_err(value, "a whole number", err);
    double number = value.node->valuedouble;
    if (number != floor(number) || fabs(number) > 0x1p53)
        return plim_json_err(value, err, "%.17g is not a whole number", number);
    if ((int64_t)number < low || (int64_t)number > high)
        return plim_json_err(value, err, "%lld is out of range; expected %lld to %lld", (long long)number,
                             (long long)low, (long long)high);
    *out = (int64_t)number;
    return 0;
}

/* "a, b or c" into `buffer`. */
static const char *join_names(const char *const *names, char *buffer, size_t size)
{
    size_t length = 0;
    buffer[0] = '\0';
    for (size_t i = 0; names[i] && length < size; i++) {
        const char *separator = i == 0 ? "" : names[i + 1] ? ", " : " or ";
        length += (size_t)snprintf(buffer + length, size - length, "%s%s", separator, names[i]);
    }
    return buffer;
}

int plim_json_choice(struct plim_json value, const char *const *names, int *out, struct plim_err *err)
{
    char list[400];
    const char *text;
    if (!cJSON_IsString(value.node)) {
        char wanted[430];
        snprintf(wanted, sizeof wanted, "one of %s", join_names(names, list, sizeof list));
        return type_err(value, wanted, err);
    }
    text = value.node->valuestring;
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            *out = i;
            return 0;
        }
    }
    const char *nearest = plim_nearest_name(text, names);
    if (nearest)
        return plim_json_err(value, err, "unknown \"%.80s\"; did you mean \"%s\"?", text, nearest);
    return plim_json_err(value, err, "unknown \"%.80s\"; expected %s", text, join_names(names, list, sizeof list));
}

int plim_json_only_keys(struct plim_json object, const char *const *names, struct plim_err *err)
{
    char list[400];
    if (plim_json_object(object, err) < 0)
        return -1;
    for (const cJSON *item = object.node->child; item; item = item->next) {
        bool known = false;
        for (size_t i = 0; names[i] && !known; i++)
            known = strcmp(names[i], item->string) == 0;
        if (known)
            continue;
        struct plim_json member = object;
        extend_path(&member, ".", item->string);
        const char *nearest = plim_nearest_name(item->string, names);
        if (nearest)
            return plim_json_err(member, err, "unknown key; did you mean %s?", nearest);
        return plim_json_err(member, err, "unknown key; expected %s", join_names(names, list, sizeof list));
    }
    return 0;
}

/* ---- nearest name ---- */

#define MAX_NAME 64

/* '-' and '_' and the case of letters don't make two names differ. */
static int fold(char c)
{
    if (c == '-')
        return '_';
    return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : (unsigned char)c;
}

/* Damerau-Levenshtein distance (optimal string alignment); both at most MAX_NAME long. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][MAX_NAME + 1];
    size_t *before = rows[0], *previous = rows[1], *current = rows[2];
    for (size_t j = 0; j <= b_length; j++)
        previous[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        current[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t cost = fold(a[i - 1]) != fold(b[j - 1]);
            size_t best = previous[j - 1] + cost;
            if (previous[j] + 1 < best)
                best = previous[j] + 1;
            if (current[j - 1] + 1 < best)
                best = current[j - 1] + 1;
            bool swapped = i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]);
            if (swapped && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            current[j] = best;
        }
        size_t *oldest = before;
        before = previous;
        previous = current;
        current = oldest;
    }
    return previous[b_length];
}

const char *plim_nearest_name(const char *text, const char *const *names)
{
    size_t length = strlen(text);
    size_t best_distance = 1 + length / 3;   /* a third of the letters may be wrong, and at least one */
    const char *best = NULL;
    if (length > MAX_NAME)
        return NULL;
    for (size_t i = 0; names[i]; i++) {
        size_t name_length = strlen(names[i]);
        if (name_length > MAX_NAME)
            continue;
        size_t distance = edit_distance(text, length, names[i], name_length);
        if (distance < best_distance || (distance == best_distance && !best && distance < name_length)) {
            best_distance = distance;
            best = names[i];
        }
    }
    return best;
}
