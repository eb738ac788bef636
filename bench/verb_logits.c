/* plimsoll logits MODEL --ids LIST: the logits of given tokens as a file, to compare with another engine's. */

#include "verb.h"

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flag_table.h"
#include "heap.h"
#include "parameter_flags.h"
#include "plimsoll/engine.h"
#include "plimsoll/file.h"

#define ID_LIMIT 65536

struct arguments {
    const char *model, *ids, *output;
    bool token_by_token;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "ids", "LIST", "The tokens, such as 1,345,17", FLAG_FIELD(struct arguments, ids) },
    { "token-by-token", NULL, "One token a call, as in decoding; default: all in one call",
      FLAG_FIELD(struct arguments, token_by_token) },
    { "output", "FILE", "Where the logits go: safetensors, \"logits\" F32 [tokens, vocabulary]",
      FLAG_FIELD(struct arguments, output), .key = 'o' },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case ARGP_KEY_ARG:
        flag_only_argument(state, &a->model, "model", text);
        return 0;
    case ARGP_KEY_END:
        if (!a->model || !a->ids || !a->output)
            argp_error(state, "a model directory, --ids LIST and --output FILE are needed");
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

/* "1,345,17"; free(). Whether the model has such tokens, the engine checks. */
static int32_t *parse_ids(const char *text, size_t *count, struct plim_err *err)
{
    int32_t *ids = NULL;

    *count = 0;
    for (const char *at = text; ; at++) {
        char *end;
        long id = strtol(at, &end, 10);
        int32_t *grown;

        if (end == at || (*end && *end != ',') || id < 0 || id > INT32_MAX || *count == ID_LIMIT) {
            plim_err_input(err, "--ids: wanted up to %d token ids such as 1,345,17, found \"%.20s\"", ID_LIMIT, at);
            goto fail;
        }
        if (!(grown = heap_room(ids, *count, sizeof *ids, err)))
            goto fail;
        ids = grown;
        ids[(*count)++] = (int32_t)id;
        at = end;
        if (!*end)
            return ids;
    }

fail:
    free(ids);
    return NULL;
}

static int write_rows(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                      struct plim_err *err)
{
    (void)first_position;   /* they come in order */
    return plim_atomic_write(context, logits, rows * vocab_size * sizeof *logits, err);
}

/* safetensors: the header's length, the header, the numbers. */
static int write_header(struct plim_atomic_file *file, size_t tokens, size_t vocab_size, struct plim_err *err)
{
    char *header = heap_printf(err, "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}}", tokens,
                               vocab_size, tokens * vocab_size * sizeof(float));
    uint64_t header_bytes = header ? strlen(header) : 0;
    int rc = -1;

    if (header && plim_atomic_write(file, &header_bytes, sizeof header_bytes, err) == 0)
        rc = plim_atomic_write(file, header, header_bytes, err);
    free(header);
    return rc;
}

static int run_tokens(struct plim_session *session, const int32_t *ids, size_t count, size_t count_a_call,
                      struct plim_atomic_file *file, struct plim_err *err)
{
    struct plim_forward forward = { .rows = PLIM_LOGITS_ALL, .callback = write_rows, .context = file };

    for (size_t done = 0; done < count; done += count_a_call)
        if (plim_session_forward(session, ids + done, count_a_call, &forward, err) < 0)
            return -1;
    return 0;
}

static int write_logits(const struct arguments *a, struct plim_err *err)
{
    struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
    struct plim_engine *engine = NULL;
    struct plim_model *model = NULL;
    struct plim_session *session = NULL;
    struct plim_model_info info;
    size_t count;
    int32_t *ids = parse_ids(a->ids, &count, err);
    struct plim_session_options capacity = { .context_tokens = count };
    int rc = -1;

    if (!ids || plim_engine_open(&engine, NULL, &a->flags.parameters, NULL, err) < 0 ||
        plim_model_load(&model, engine, a->model, err) < 0 || plim_session_open(&session, model, &capacity, err) < 0)
        goto out;
    plim_model_info(model, &info);
    if (plim_atomic_open(&file, a->output, err) == 0 && write_header(&file, count, info.vocab_size, err) == 0 &&
        run_tokens(session, ids, count, a->token_by_token ? 1 : count, &file, err) == 0)
        rc = plim_atomic_commit(&file, err);

out:
    plim_atomic_release(&file);
    plim_session_close(session);
    plim_model_free(model);
    plim_engine_close(engine);
    free(ids);
    return rc;
}

int verb_logits(int argc, char **argv)
{
    struct arguments a = { 0 };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = { flag_options(options, listed), parse_option, "MODEL",
                         "Writes the logits of every one of the given tokens. tools/peer-exllamav2 --logits compares them with "
                         "ExLlamaV2's.", a.flags.children, NULL, NULL };
    struct plim_err err = PLIM_ERR_INIT;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(parameter_flags_resolve(&a.flags, argv, &err) < 0 ? -1 : write_logits(&a, &err), &err);
}
