#include "added.h"

#include <stdlib.h>
#include <string.h>

#include "component.h"
#include "unicode.h"

/* ---- loading ---- */

struct added_reader {
    struct text_added *added;
    struct text_vocab *vocab;
    const struct text_normaliser *normaliser;
    struct text_normal_scratch scratch;
    pcre2_match_data *match_data;
};

static int add_to_set(struct added_reader *r, struct text_added_set *set, struct text_added_token token,
                      struct plim_err *err)
{
    if (token.length == 0)
        return 0;
    struct text_added_token *tokens = text_grow(r->added->pool, set->tokens, &set->capacity, set->count + 1,
                                                sizeof *tokens, err);
    if (!tokens)
        return -1;
    set->tokens = tokens;
    tokens[set->count++] = token;
    return 0;
}

/* Lets the token be looked for by its normal form. */
static int take_normal_form(struct added_reader *r, struct text_added_token *token, struct plim_err *err)
{
    struct text_added *added = r->added;
    struct text_view text = { token->content, token->length };
    bool at_start = true;
    if (text_normalise(r->normaliser, &r->scratch, r->match_data, &text, &at_start, err) < 0)
        return -1;
    if (text.length == token->length && memcmp(text.data, token->content, text.length) == 0)
        return 0;

    struct text_normal_form *forms = text_grow(added->pool, added->forms, &added->form_capacity, added->form_count + 1,
                                               sizeof *forms, err);
    if (!forms)
        return -1;
    added->forms = forms;
    char *copy = plim_pool_alloc(added->pool, PLIM_HOST, PLIM_TAG_TOKENIZER, text.length, err);
    if (!copy)
        return -1;
    memcpy(copy, text.data, text.length);
    forms[added->form_count++] = (struct text_normal_form){ token->id, copy, text.length };
    token->content = copy;
    token->length = text.length;
    return 0;
}

static int read_token(struct added_reader *r, struct plim_json json, struct plim_err *err)
{
    struct text_added_token token = { .id = -1 };
    bool normalized, special;
    if (plim_json_string(plim_json_get(json, "content"), &token.content, err) < 0 ||
        plim_json_bool(plim_json_get(json, "single_word"), &token.single_word, err) < 0 ||
        plim_json_bool(plim_json_get(json, "lstrip"), &token.lstrip, err) < 0 ||
        plim_json_bool(plim_json_get(json, "rstrip"), &token.rstrip, err) < 0 ||
        plim_json_bool(plim_json_get(json, "normalized"), &normalized, err) < 0 ||
        plim_json_bool(plim_json_get(json, "special"), &special, err) < 0)
        return -1;

    token.length = strlen(token.content);
    if (token.length == 0)
        return 0;   /* can't be found in a text */
    token.id = text_vocab_find(r->vocab, token.content, token.length);
    if (token.id < 0)
        return plim_json_err(json, err, "not in the vocabulary");
    token.content = text_token_text(r->vocab, &r->vocab->tokens[token.id]);
    r->vocab->tokens[token.id].special = special;
    if (!normalized)
        return add_to_set(r, &r->added->original, token, err);
    if (take_normal_form(r, &token, err) < 0)
        return -1;
    return add_to_set(r, &r->added->normal, token, err);
}

static int compare_contents(const void *a, const void *b)
{
    const struct text_added_token *x = a, *y = b;
    size_t shorter = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->content, y->content, shorter);
    if (order != 0)
        return order;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void sort_set(struct text_added_set *set)
{
    if (set->count > 0)
        qsort(set->tokens, set->count, sizeof *set->tokens, compare_contents);
    for (size_t i = 0; i < set->count; i++)
        set->first[(unsigned char)set->tokens[i].content[0] + 1]++;
    for (size_t byte = 0; byte < 256; byte++)
        set->first[byte + 1] += set->first[byte];
}

/*
 * Hugging Face (0.23) decodes an added token to its normal form, and asks of that form whether it is special. So a
 * special token that the normaliser changes is not left out of decoded text.
 */
static void judge_forms(struct text_added *added, struct text_vocab *vocab)
{
    for (size_t i = 0; i < added->form_count; i++) {
        const struct text_normal_form *form = &added->forms[i];
        int32_t same = text_vocab_find(vocab, form->text, form->length);
        vocab->tokens[form->id].special = same >= 0 && vocab->tokens[same].special;
    }
}

int text_added_load(struct text_added *added, struct text_vocab *vocab, const struct text_normaliser *normaliser,
                    struct plim_json list, struct plim_err *err)
{
    struct added_reader reader = { .added = added, .vocab = vocab, .normaliser = normaliser };
    size_t index = 0;
    int rc = -1;

    *added = (struct text_added){ .pool = vocab->pool };
    if (!plim_json_has(list))
        return 0;
    text_normal_scratch_init(&reader.scratch, added->pool);
    reader.match_data = text_match_data(normaliser->context, err);
    if (!reader.match_data)
        goto out;
    for (const cJSON *node = list.node->child; node; node = node->next) {
        if (read_token(&reader, text_item(list, node, index++), err) < 0)
            goto out;
    }
    sort_set(&added->original);
    sort_set(&added->normal);
    judge_forms(added, vocab);
    rc = 0;

out:
    pcre2_match_data_free(reader.match_data);
    text_normal_scratch_release(&reader.scratch);
    return rc;
}

void text_added_release(struct text_added *added)
{
    for (size_t i = 0; i < added->form_count; i++)
        plim_pool_free(added->pool, added->forms[i].text);
    plim_pool_free(added->pool, added->forms);
    plim_pool_free(added->pool, added->original.tokens);
    plim_pool_free(added->pool, added->normal.tokens);
    *added = (struct text_added){ .pool = added->pool };
}

/* ---- finding ---- */

/* The first of tokens[low] to tokens[high - 1], which agree before `depth`, whose byte there is at least `byte`. */
static size_t first_from(const struct text_added_token *tokens, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)tokens[middle].content[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/*
 * The longest token at the start of `text`, or NULL. Of the sorted tokens those that share the first `depth` bytes with
 * the text are a range, and one that is exactly these bytes comes first in it.
 */
static const struct text_added_token *longest_match(const struct text_added_set *set, const char *text, size_t length)
{
    const struct text_added_token *tokens = set->tokens, *best = NULL;
    unsigned char byte = (unsigned char)text[0];
    size_t low = set->first[byte], high = set->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (tokens[low].length == depth)
            best = &tokens[low];
        while (low < high && tokens[low].length == depth)
            low++;
        if (depth == length)
            break;
        byte = (unsigned char)text[depth];
        low = first_from(tokens, low, high, depth, byte);
        high = first_from(tokens, low, high, depth, byte + 1u);
    }
    return best;
}

/* Where the character before `end` starts. */
static size_t previous_character(const char *text, size_t end)
{
    do
        end--;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80);
    return end;
}

static bool stands_alone(const char *text, size_t length, size_t start, size_t end)
{
    size_t used;
    if (start > 0 && text_is_word(text_utf8_decode(text + previous_character(text, start), &used)))
        return false;
    return end == length || !text_is_word(text_utf8_decode(text + end, &used));
}

static size_t spaces_before(const char *text, size_t start, size_t limit)
{
    size_t used;
    while (start > limit) {
        size_t previous = previous_character(text, start);
        if (!text_is_space(text_utf8_decode(text + previous, &used)))
            break;
        start = previous;
    }
    return start;
}

static size_t spaces_after(const char *text, size_t length, size_t end)
{
    size_t used;
    while (end < length && text_is_space(text_utf8_decode(text + end, &used)))
        end += used;
    return end;
}

static int add_segment(struct text_segment_list *out, struct plim_pool *pool, struct text_segment segment,
                       struct plim_err *err)
{
    struct text_segment *items = text_grow(pool, out->items, &out->capacity, out->count + 1, sizeof *items, err);
    if (!items)
        return -1;
    out->items = items;
    items[out->count++] = segment;
    return 0;
}

int text_added_split(const struct text_added_set *set, struct plim_pool *pool, const char *text, size_t length,
                     struct text_segment_list *out, struct plim_err *err)
{
    size_t done = 0;
    out->count = 0;
    for (size_t i = set->count > 0 ? 0 : length; i < length;) {
        const struct text_added_token *token = longest_match(set, text + i, length - i);
        if (!token) {
            i++;
            continue;
        }
        size_t start = i, end = i + token->length;
        i = end;   /* the search goes on here, whatever becomes of this match */
        if (token->single_word && !stands_alone(text, length, start, end))
            continue;
        if (token->lstrip)
            start = spaces_before(text, start, done);
        if (token->rstrip)
            end = spaces_after(text, length, end);
        if (start > done && add_segment(out, pool, (struct text_segment){ done, start, -1 }, err) < 0)
            return -1;
        if (add_segment(out, pool, (struct text_segment){ start, end, token->id }, err) < 0)
            return -1;
        done = end;
    }
    if (done < length)
        return add_segment(out, pool, (struct text_segment){ done, length, -1 }, err);
    return 0;
}
