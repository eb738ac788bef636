#ifndef PLIM_CLI_MODEL_H
#define PLIM_CLI_MODEL_H

/* A model opened for a person at the command line: engine, model, tokenizer, and what they used in the end. */

#include <stdio.h>

#include "plimsoll/engine.h"
#include "plimsoll/tokenizer.h"

struct cli_model {
    struct plim_engine *engine;
    struct plim_model *model;
    struct plim_tokenizer *tokenizer;
    struct plim_session *session;
    struct plim_ids ids;
    struct plim_model_info info;
    uint64_t load_ns;
};

/* On failure everything is released but still has to be closed. */
int cli_model_open(struct cli_model *m, const char *directory, const struct plim_parameters *parameters,
                   struct plim_err *err);
int cli_model_open_session(struct cli_model *m, size_t context_tokens, struct plim_err *err);
void cli_model_close(struct cli_model *m);

/* Adds "memory" (peaks by tag) to a JSON object. */
struct cJSON;
int cli_model_add_memory(const struct cli_model *m, struct cJSON *object, struct plim_err *err);

/* One line: "peak memory 123 MiB (weights 40 MiB, kv_cache 80 MiB, ...)". */
void cli_model_print_memory(const struct cli_model *m, FILE *out);

#endif
