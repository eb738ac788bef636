#include "cli_model.h"

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "plimsoll/clock.h"
#include "plimsoll/units.h"

int cli_model_open(struct cli_model *m, const char *directory, const struct plim_parameters *parameters,
                   struct plim_err *err)
{
    uint64_t start_ns = plim_now_ns();

    *m = (struct cli_model){ 0 };
    if (plim_engine_open(&m->engine, NULL, parameters, NULL, err) < 0 ||
        plim_model_load(&m->model, m->engine, directory, err) < 0)
        return -1;
    plim_model_info(m->model, &m->info);
    m->load_ns = plim_now_ns() - start_ns;
    return plim_tokenizer_load(&m->tokenizer, plim_engine_pool(m->engine), directory, err);
}

int cli_model_open_session(struct cli_model *m, size_t context_tokens, struct plim_err *err)
{
    struct plim_session_options options = { .context_tokens = context_tokens };

    return plim_session_open(&m->session, m->model, &options, err);
}

void cli_model_close(struct cli_model *m)
{
    if (m->engine)
        plim_ids_release(&m->ids, plim_engine_pool(m->engine));
    plim_session_close(m->session);
    plim_tokenizer_free(m->tokenizer);
    plim_model_free(m->model);
    plim_engine_close(m->engine);
    *m = (struct cli_model){ 0 };
}

int cli_model_add_memory(const struct cli_model *m, struct cJSON *object, struct plim_err *err)
{
    struct plim_pool_stats s;
    cJSON *memory = cJSON_AddObjectToObject(object, "memory"), *tags;
    bool complete;

    plim_pool_stats(plim_engine_pool(m->engine), &s);
    complete = memory &&
               cJSON_AddNumberToObject(memory, "peak_requested_fast_bytes", (double)s.peak[PLIM_FAST].total_bytes) &&
               cJSON_AddNumberToObject(memory, "peak_reserved_fast_bytes", (double)s.reserved_peak_bytes[PLIM_FAST]) &&
               (tags = cJSON_AddObjectToObject(memory, "at_peak_bytes"));
    for (int tag = 0; complete && tag < PLIM_TAG_COUNT; tag++)
        if (s.peak[PLIM_FAST].bytes[tag])
            complete = cJSON_AddNumberToObject(tags, plim_tag_name((enum plim_tag)tag),
                                               (double)s.peak[PLIM_FAST].bytes[tag]);
    return complete ? 0 : plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
}

void cli_model_print_memory(const struct cli_model *m, FILE *out)
{
    struct plim_pool_stats s;
    char text[32];
    const char *separator = "";

    plim_pool_stats(plim_engine_pool(m->engine), &s);
    fprintf(out, "peak memory %s (", plim_format_bytes(text, sizeof text, s.peak[PLIM_FAST].total_bytes));
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
        if (!s.peak[PLIM_FAST].bytes[tag] || tag == PLIM_TAG_WEIGHTS_MAPPED)
            continue;
        fprintf(out, "%s%s %s", separator, plim_tag_name((enum plim_tag)tag),
                plim_format_bytes(text, sizeof text, s.peak[PLIM_FAST].bytes[tag]));
        separator = ", ";
    }
    fprintf(out, "), weights mapped %s\n",
            plim_format_bytes(text, sizeof text, s.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS_MAPPED]));
}
