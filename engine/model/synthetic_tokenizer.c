/*
 * The tiny preset's tokenizer.json: byte-level BPE as GPT-2 has it, with few merges. Nothing in it is large, and every
 * part of a real one is there.
 */

#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "synthetic_plan.h"

/*
 * Trained on a page of plain English; '_' stands for the space's stand-in, U+0120. Ids 256 .. 509, in this order.
 */
/* clang-format off */
static const char *const merges[] = {
    "h e", "_ t", "_t he", "_ a", "_ w", "r e", "_ i", "h a", "n d", "_ l", "_ s", "a s", "i n", "o r", "_ b", "_ c",
    "_ m", "_a nd", "_ o", "e r", "_ re", "e s", "e d", "_i s", "_ T", "_ f", "_t ha", "_w h", "_i t", "o n", "_ n",
    "a c", "a y", "l d", "o u", "_ 1", "_ p", "_w as", "_b e", "_o f", "_T he", "a d", "a t", "o t", "o w", "_ d",
    "in e", "_f or", "a n", "g e", "l e", "m e", "he r", "_a s", "_w e", "_l ine", "in g", "_tha t", "a r", "g h",
    "h i", "i t", "l l", "t s", "_ \"", "_ e", "_ g", "_ ha", "_a re", "_i n", "_l o", "_tha n", "_wh y", "on g",
    "_n ot", "ac h", "0 0", "b ou", "c h", "h ing", "i d", "i r", "i gh", "k ed", "o m", "o es", "t er", "t her",
    "t hing", "_ I", "_ h", "_ he", "_t h", "_t o", "_w ha", "_l ong", "_s a", "_s e", "as on", "_b u", "_c ac",
    "_m an", "_re ason", "_it s", "_cac he", ". \"", "a k", "a nd", "a in", "g ain", "i v", "i es", "l ow", "n e",
    "n ge", "o c", "o d", "o k", "o s", "o me", "p or", "p le", "s ed", "t ter", "u n", "u es", "u ch", "_ (", "_ 2",
    "_ =", "_ W", "_ r", "he n", "_the m", "_the y", "_a ll", "_a bou", "_a gain", "re d", "re ad", "ha nge", "_l ar",
    "_s ay", "_s ome", "in t", "or y", "_c an", "_c om", "_c hange", "_m e", "_m ay", "_m uch", "_o ld", "_o ther",
    "_re ad", "_re por", "_wh i", "_wh o", "_1 2", "_1 00", "_p l", "_p r", "_p as", "_The n", "_The re", "ad ed",
    "at her", "_d oes", "_as ked", "_we igh", "_we ather", "hi s", "_e ach", "_lo ok", "_lo aded", "_I f", "_h ow",
    "_wha t", "_sa id", "_se e", "_man y", "_reason s", "_abou t", "_say s", "_some thing", "_repor t", "_weigh ts",
    "\" )", "( \"", "+ )", "+ +)", ", \"", "0 2", "3 2", "5 6", "6 4", "? \"", "I t", "M os", "O ne", "S he", "W as",
    "a l", "a v", "a w", "a me", "a it", "a ll", "a red", "b er", "c t", "d ge", "d le", "e l", "e n", "e o", "e w",
    "f f", "f o", "f u", "f ter", "g er", "i m", "i nd", "i er", "i on", "i me", "i ked", "k n", "l ts", "l oc",
    "m ory", "m ber", "n s", "n t", "n ing", "o at", "o od", "p p", "p and", "p ared", "q ues", "r n", "r as",
    "r ong", "r bou", "r ies", "r aw", "s t", "s u", "s or", "t o", "t u", "t ory",
};
/* clang-format on */

#define MERGE_COUNT (sizeof merges / sizeof *merges)
_Static_assert(256 + MERGE_COUNT == SYNTHETIC_TINY_BOS, "bytes and merges come before the special tokens");

/* ---- characters ---- */

/* UTF-8 of a code point below U+0800. */
static void put_character(char text[3], unsigned code_point)
{
    snprintf(text, 3, "%c", (char)code_point);
    if (code_point >= 0x80) {
        text[0] = (char)(0xc0 | code_point >> 6);
        text[1] = (char)(0x80 | (code_point & 0x3f));
        text[2] = '\0';
    }
}

/* Bytes that stand for themselves in a byte-level vocabulary; the others are U+0100 and up, in order. */
static int is_printable(unsigned byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* ---- parts ---- */

/* cJSON's calls fail only for want of memory; each adder says whether it worked. */
static bool put(cJSON *object, const char *key, cJSON *value)
{
    if (value && cJSON_AddItemToObject(object, key, value))
        return true;
    cJSON_Delete(value);
    return false;
}

static bool append(cJSON *array, cJSON *value)
{
    if (value && cJSON_AddItemToArray(array, value))
        return true;
    cJSON_Delete(value);
    return false;
}

/* Bytes in the order of their characters, as trainers number them. */
static bool add_bytes(cJSON *vocab)
{
    bool ok = true;
    int id = 0;
    char text[3];
    for (unsigned byte = 0; byte < 256 && ok; byte++) {
        if (!is_printable(byte))
            continue;
        put_character(text, byte);
        ok = put(vocab, text, cJSON_CreateNumber(id++));
    }
    for (unsigned code_point = 0x100; id < 256 && ok; code_point++) {
        put_character(text, code_point);
        ok = put(vocab, text, cJSON_CreateNumber(id++));
    }
    return ok;
}

/* "_t he" as the file has it: "\u0120t he", and without its blank, the merged token. */
static void expand_merge(const char *merge, char pair[64], char token[64])
{
    size_t p = 0, t = 0;
    for (const char *c = merge; *c; c++) {
        if (*c == ' ') {
            pair[p++] = ' ';
            continue;
        }
        char text[3];
        put_character(text, *c == '_' ? 0x120 : (unsigned char)*c);
        for (const char *u = text; *u; u++)
            pair[p++] = token[t++] = *u;
    }
    pair[p] = token[t] = '\0';
}

static bool add_merges(cJSON *vocab, cJSON *list)
{
    bool ok = true;
    for (size_t i = 0; i < MERGE_COUNT && ok; i++) {
        char pair[64], token[64];
        expand_merge(merges[i], pair, token);
        ok = append(list, cJSON_CreateString(pair)) && put(vocab, token, cJSON_CreateNumber(256 + (double)i));
    }
    return ok;
}

static cJSON *byte_level(void)
{
    cJSON *part = cJSON_CreateObject();
    if (!part || !put(part, "type", cJSON_CreateString("ByteLevel")) ||
        !put(part, "add_prefix_space", cJSON_CreateFalse()) || !put(part, "trim_offsets", cJSON_CreateTrue()) ||
        !put(part, "use_regex", cJSON_CreateTrue())) {
        cJSON_Delete(part);
        return NULL;
    }
    return part;
}

/* The sequence begins with the first special token. */
static cJSON *post_processor(void)
{
    return cJSON_Parse("{\"type\": \"TemplateProcessing\","
                       " \"single\": [{\"SpecialToken\": {\"id\": \"<|bos|>\", \"type_id\": 0}},"
                       " {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],"
                       " \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}},"
                       " {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}],"
                       " \"special_tokens\": {\"<|bos|>\": {\"id\": \"<|bos|>\", \"ids\": [510],"
                       " \"tokens\": [\"<|bos|>\"]}}}");
}

static cJSON *special_token(const char *content, int id)
{
    cJSON *token = cJSON_CreateObject();
    if (!token || !put(token, "id", cJSON_CreateNumber(id)) || !put(token, "content", cJSON_CreateString(content)) ||
        !put(token, "single_word", cJSON_CreateFalse()) || !put(token, "lstrip", cJSON_CreateFalse()) ||
        !put(token, "rstrip", cJSON_CreateFalse()) || !put(token, "normalized", cJSON_CreateFalse()) ||
        !put(token, "special", cJSON_CreateTrue())) {
        cJSON_Delete(token);
        return NULL;
    }
    return token;
}

static bool add_model(cJSON *root)
{
    cJSON *model = cJSON_AddObjectToObject(root, "model");
    if (!model || !put(model, "type", cJSON_CreateString("BPE")) || !put(model, "dropout", cJSON_CreateNull()) ||
        !put(model, "unk_token", cJSON_CreateNull()) || !put(model, "continuing_subword_prefix", cJSON_CreateNull()) ||
        !put(model, "end_of_word_suffix", cJSON_CreateNull()) || !put(model, "fuse_unk", cJSON_CreateFalse()) ||
        !put(model, "byte_fallback", cJSON_CreateFalse()))
        return false;
    cJSON *vocab = cJSON_AddObjectToObject(model, "vocab"), *list = cJSON_AddArrayToObject(model, "merges");
    return vocab && list && add_bytes(vocab) && add_merges(vocab, list);
}

char *synthetic_tokenizer_text(struct plim_err *err)
{
    char *text = NULL;
    cJSON *root = cJSON_CreateObject();
    bool ok = root && put(root, "version", cJSON_CreateString("1.0")) && put(root, "truncation", cJSON_CreateNull()) &&
              put(root, "padding", cJSON_CreateNull());
    cJSON *added = ok ? cJSON_AddArrayToObject(root, "added_tokens") : NULL;
    ok = added && append(added, special_token("<|bos|>", SYNTHETIC_TINY_BOS)) &&
         append(added, special_token("<|eos|>", SYNTHETIC_TINY_EOS)) && put(root, "normalizer", cJSON_CreateNull()) &&
         put(root, "pre_tokenizer", byte_level()) && put(root, "post_processor", post_processor()) &&
         put(root, "decoder", byte_level()) && add_model(root);
    if (ok)
        text = cJSON_Print(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory writing a tokenizer.json");
    cJSON_Delete(root);
    return text;
}
