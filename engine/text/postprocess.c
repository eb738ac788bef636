#include "postprocess.h"

#include <string.h>

#include "bpe.h"
#include "component.h"

#define SUPPORTED "TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, Sequence"

static int append_id(struct text_template *t, struct plim_ids *out, struct plim_json json, struct plim_err *err)
{
    int64_t value;
    if (plim_json_int(json, 0, TEXT_MAX_ID, &value, err) < 0)
        return -1;
    int32_t id = (int32_t)value;
    if (!text_vocab_token(t->vocab, id))
        return plim_json_err(json, err, "id %d has no token", (int)id);
    return text_ids_append(out, t->pool, &id, 1, err);
}

/* Puts the processor's own tokens around those of the processors before it, and takes them over. */
static int wrap(struct text_template *t, struct plim_ids *before, const struct plim_ids *after, struct plim_err *err)
{
    if (text_ids_append(before, t->pool, t->before.ids, t->before.count, err) < 0)
        return -1;
    struct plim_ids old = t->before;
    t->before = *before;
    *before = old;
    return text_ids_append(&t->after, t->pool, after->ids, after->count, err);
}

/* {"SpecialToken": {"id": "<s>"}}: the ids that "special_tokens" lists for the name. */
static int append_special(struct text_template *t, struct plim_ids *out, struct plim_json special, struct plim_json map,
                          struct plim_err *err)
{
    const char *name;
    size_t index = 0;
    if (plim_json_string(plim_json_get(special, "id"), &name, err) < 0)
        return -1;
    struct plim_json entry = plim_json_get(map, name);
    if (!plim_json_has(entry))
        return plim_json_err(special, err, "\"%.60s\" is not among special_tokens", name);
    struct plim_json ids = plim_json_get(entry, "ids");
    if (plim_json_array(ids, err) < 0)
        return -1;
    for (const cJSON *node = ids.node->child; node; node = node->next) {
        if (append_id(t, out, text_item(ids, node, index++), err) < 0)
            return -1;
    }
    return 0;
}

static int read_pieces(struct text_template *t, struct plim_json json, struct plim_ids sides[2], struct plim_err *err)
{
    struct plim_json single = plim_json_get(json, "single"), map = plim_json_get(json, "special_tokens");
    size_t index = 0;
    int side = 0;
    if (plim_json_array(single, err) < 0 || plim_json_object(map, err) < 0)
        return -1;
    for (const cJSON *node = single.node->child; node; node = node->next) {
        struct plim_json piece = text_item(single, node, index++);
        struct plim_json special = plim_json_get(piece, "SpecialToken"), sequence = plim_json_get(piece, "Sequence");
        const char *name = "";
        if (plim_json_has(special)) {
            if (append_special(t, &sides[side], special, map, err) < 0)
                return -1;
            continue;
        }
        if (!plim_json_has(sequence))
            return plim_json_err(piece, err, "expected SpecialToken or Sequence");
        if (plim_json_string(plim_json_get(sequence, "id"), &name, err) < 0)
            return -1;
        if (strcmp(name, "A") != 0 || side == 1)
            return plim_json_err(sequence, err, "a template for one text must hold sequence A once");
        side = 1;
    }
    return side == 1 ? 0 : plim_json_err(single, err, "a template for one text must hold sequence A once");
}

/* RobertaProcessing and BertProcessing: "cls" and "sep", each a pair of text and id, before and after. */
static int read_pair(struct text_template *t, struct plim_json json, struct plim_ids sides[2], struct plim_err *err)
{
    const char *const names[2] = { "cls", "sep" };
    for (int side = 0; side < 2; side++) {
        struct plim_json pair = plim_json_get(json, names[side]);
        if (plim_json_array(pair, err) < 0)
            return -1;
        const cJSON *id = pair.node->child ? pair.node->child->next : NULL;
        if (!id)
            return plim_json_err(pair, err, "expected a token and its id");
        if (append_id(t, &sides[side], text_item(pair, id, 1), err) < 0)
            return -1;
    }
    return 0;
}

static int read_processor(void *context, struct plim_json json, const char *type, struct plim_err *err)
{
    struct text_template *t = context;
    struct plim_ids sides[2] = { { 0 }, { 0 } };
    int rc = -1;
    if (strcmp(type, "ByteLevel") == 0)
        return 0;   /* moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0)
        rc = read_pieces(t, json, sides, err);
    else if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        rc = read_pair(t, json, sides, err);
    else
        text_unsupported(json, type, SUPPORTED, err);
    if (rc == 0)
        rc = wrap(t, &sides[0], &sides[1], err);
    plim_ids_release(&sides[0], t->pool);
    plim_ids_release(&sides[1], t->pool);
    return rc;
}

int text_template_load(struct text_template *template, const struct text_vocab *vocab, struct plim_json json,
                       struct plim_err *err)
{
    *template = (struct text_template){ .pool = vocab->pool, .vocab = vocab };
    return text_each_component(json, "processors", read_processor, template, err);
}

void text_template_release(struct text_template *template)
{
    plim_ids_release(&template->before, template->pool);
    plim_ids_release(&template->after, template->pool);
}
