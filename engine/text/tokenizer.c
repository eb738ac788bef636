#include "tokenizer_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "component.h"
#include "plimsoll/file.h"

#define FILE_LIMIT_BYTES ((size_t)256 << 20)

/* ---- the vocabulary ---- */

/* Views with paths are for errors: a vocabulary has too many entries to make one for each. */
static int entry_id(struct plim_json vocab, const cJSON *node, int32_t *id, struct plim_err *err)
{
    double value = node->valuedouble;
    if (!cJSON_IsNumber(node) || value != floor(value) || value < 0 || value > TEXT_MAX_ID)
        return plim_json_err(vocab, err, "id of token \"%.60s\": expected a whole number from 0 to %d", node->string,
                             TEXT_MAX_ID);
    *id = (int32_t)value;
    return 0;
}

static int read_added(struct plim_json entry, const char **content, int32_t *id, struct plim_err *err)
{
    int64_t value;
    if (plim_json_object(entry, err) < 0 || plim_json_string(plim_json_get(entry, "content"), content, err) < 0 ||
        plim_json_int(plim_json_get(entry, "id"), 0, TEXT_MAX_ID, &value, err) < 0)
        return -1;
    *id = (int32_t)value;
    return 0;
}

static void count_token(struct text_vocab_size *size, int32_t id, size_t length)
{
    if ((size_t)id >= size->ids)
        size->ids = (size_t)id + 1;
    size->tokens++;
    size->bytes += length;
}

static int measure(struct plim_json vocab, struct plim_json added, struct text_vocab_size *size, struct plim_err *err)
{
    int32_t id;
    *size = (struct text_vocab_size){ 0 };
    for (const cJSON *node = vocab.node->child; node; node = node->next) {
        if (entry_id(vocab, node, &id, err) < 0)
            return -1;
        count_token(size, id, strlen(node->string));
    }
    if (size->tokens == 0)
        return plim_json_err(vocab, err, "empty");
    if (!plim_json_has(added))
        return 0;
    size_t index = 0;
    const char *content;
    for (const cJSON *node = added.node->child; node; node = node->next) {
        if (read_added(text_item(added, node, index++), &content, &id, err) < 0)
            return -1;
        count_token(size, id, strlen(content));
    }
    return 0;
}

static int add_model_tokens(struct text_vocab *vocab, struct plim_json json, struct plim_err *err)
{
    for (const cJSON *node = json.node->child; node; node = node->next) {
        int32_t id = (int32_t)node->valuedouble;
        switch (text_vocab_add(vocab, node->string, strlen(node->string), id, true)) {
        case TEXT_VOCAB_ADDED:
            break;
        case TEXT_VOCAB_ID_TAKEN:
            return plim_json_err(json, err, "id %d is given twice, again to token \"%.60s\"", (int)id, node->string);
        case TEXT_VOCAB_TEXT_TAKEN:
            return plim_json_err(json, err, "token \"%.60s\" is listed twice", node->string);
        }
    }
    return 0;
}

/* An added token may be in the model's vocabulary too, under the same id. */
static int add_added_tokens(struct text_vocab *vocab, struct plim_json list, struct plim_err *err)
{
    size_t index = 0;
    if (!plim_json_has(list))
        return 0;
    for (const cJSON *node = list.node->child; node; node = node->next) {
        struct plim_json entry = text_item(list, node, index++);
        const char *content;
        int32_t id;
        if (read_added(entry, &content, &id, err) < 0)
            return -1;
        size_t length = strlen(content);
        int32_t known = text_vocab_find(vocab, content, length);
        if (known >= 0 && known != id)
            return plim_json_err(entry, err, "id %d, but \"%.60s\" has id %d already", (int)id, content, (int)known);
        if (known < 0 && length > 0 && text_vocab_add(vocab, content, length, id, false) != TEXT_VOCAB_ADDED)
            return plim_json_err(entry, err, "id %d is taken by another token", (int)id);
    }
    return 0;
}

static int load_vocab(struct plim_tokenizer *t, struct plim_json model, struct plim_json added, struct plim_err *err)
{
    struct plim_json vocab = plim_json_get(model, "vocab");
    struct text_vocab_size size;
    if (plim_json_object(vocab, err) < 0 || (plim_json_has(added) && plim_json_array(added, err) < 0) ||
        measure(vocab, added, &size, err) < 0)
        return -1;
    if (text_vocab_init(&t->vocab, t->pool, size, err) < 0)
        return -1;
    if (add_model_tokens(&t->vocab, vocab, err) < 0)
        return -1;
    return add_added_tokens(&t->vocab, added, err);
}

/* ---- loading ---- */

/* Files from before 2020 have no "type" in the model. */
static int check_model(struct plim_json model, struct plim_err *err)
{
    const char *type = "BPE";
    if (plim_json_object(model, err) < 0 || text_optional_string(model, "type", &type, err) < 0)
        return -1;
    return strcmp(type, "BPE") == 0 ? 0 : text_unsupported(model, type, "BPE", err);
}

static int load_parts(struct plim_tokenizer *t, struct plim_json root, struct plim_err *err)
{
    struct plim_json model = plim_json_get(root, "model"), added = plim_json_get(root, "added_tokens");
    if (plim_json_object(root, err) < 0 || check_model(model, err) < 0 || load_vocab(t, model, added, err) < 0 ||
        text_bpe_load(&t->bpe, &t->vocab, model, err) < 0 ||
        text_regex_context_init(&t->regex, t->pool, err) < 0 ||
        text_normaliser_load(&t->normaliser, &t->regex, plim_json_get(root, "normalizer"), err) < 0 ||
        text_added_load(&t->added, &t->vocab, &t->normaliser, added, err) < 0 ||
        text_pretokeniser_load(&t->pretokeniser, &t->regex, plim_json_get(root, "pre_tokenizer"), err) < 0 ||
        text_template_load(&t->template, &t->vocab, plim_json_get(root, "post_processor"), err) < 0)
        return -1;
    return text_decoder_load(&t->decoder, &t->vocab, &t->added, &t->regex, plim_json_get(root, "decoder"), err);
}

static int load_tree(struct plim_tokenizer **tokenizer, struct plim_pool *pool, struct plim_json root,
                     struct plim_err *err)
{
    *tokenizer = NULL;
    struct plim_tokenizer *t = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_TOKENIZER, 1, sizeof *t, err);
    if (!t)
        return -1;
    t->pool = pool;
    if (load_parts(t, root, err) < 0) {
        plim_tokenizer_free(t);
        return -1;
    }
    *tokenizer = t;
    return 0;
}

int plim_tokenizer_parse(struct plim_tokenizer **tokenizer, struct plim_pool *pool, const char *document,
                         const char *text, size_t length, struct plim_err *err)
{
    cJSON *root;
    *tokenizer = NULL;
    if (plim_json_parse(document, text, length, &root, err) < 0)
        return -1;
    int rc = load_tree(tokenizer, pool, plim_json_root(root, document), err);
    cJSON_Delete(root);
    return rc;
}

int plim_tokenizer_load(struct plim_tokenizer **tokenizer, struct plim_pool *pool, const char *directory,
                        struct plim_err *err)
{
    cJSON *root;
    int rc = -1;
    *tokenizer = NULL;
    char *path = plim_path_join(directory, "tokenizer.json", err);
    if (path && plim_json_read(path, FILE_LIMIT_BYTES, &root, err) == 0) {
        rc = load_tree(tokenizer, pool, plim_json_root(root, path), err);
        cJSON_Delete(root);
    }
    free(path);
    return rc;
}

/* Any part may be unread: released parts are all zeros. */
void plim_tokenizer_free(struct plim_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    text_template_release(&tokenizer->template);
    text_pretokeniser_release(&tokenizer->pretokeniser);
    text_added_release(&tokenizer->added);
    text_normaliser_release(&tokenizer->normaliser);
    text_bpe_release(&tokenizer->bpe);
    text_vocab_release(&tokenizer->vocab);
    text_regex_context_release(&tokenizer->regex);
    plim_pool_free(tokenizer->pool, tokenizer);
}

/* ---- asking ---- */

void plim_ids_release(struct plim_ids *ids, struct plim_pool *pool)
{
    plim_pool_free(pool, ids->ids);
    *ids = (struct plim_ids){ 0 };
}

size_t plim_tokenizer_vocab_size(const struct plim_tokenizer *tokenizer)
{
    return tokenizer->vocab.count;
}

int32_t plim_tokenizer_id(const struct plim_tokenizer *tokenizer, const char *token)
{
    return text_vocab_find(&tokenizer->vocab, token, strlen(token));
}
