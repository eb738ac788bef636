/* plimsoll plan MODEL: the peak of a run, predicted; and, on demand, the run that proves it. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "flag_table.h"
#include "heap.h"
#include "parameter_flags.h"
#include "plimsoll/engine.h"
#include "plimsoll/units.h"
#include "table.h"


struct arguments {
    const char *model;
    size_t prompt_tokens, context_tokens, decode_tokens, past_tokens;
    bool all_logits, verify, json;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "prompt-tokens", "N", "Tokens of the prompt (default: 512)",
      FLAG_FIELD(struct arguments, prompt_tokens), .low = 1, .high = INT32_MAX },
    { "past-tokens", "N", "Tokens that are in the cache before it (default: 0)",
      FLAG_FIELD(struct arguments, past_tokens), .low = 0, .high = INT32_MAX },
    { "decode-tokens", "N", "Tokens generated after it, one by one (default: 0)",
      FLAG_FIELD(struct arguments, decode_tokens), .low = 0, .high = INT32_MAX },
    { "context-tokens", "N", "Capacity of the cache (default: as many as are used)",
      FLAG_FIELD(struct arguments, context_tokens), .low = 1, .high = INT32_MAX },
    { "all-logits", NULL, "Logits of every prompt token, as for a perplexity",
      FLAG_FIELD(struct arguments, all_logits) },
    { "verify", NULL, "Run it too, and compare; exit status 1 if a byte differs",
      FLAG_FIELD(struct arguments, verify) },
    { "json", NULL, "Print JSON", FLAG_FIELD(struct arguments, json) },
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
        if (!a->model)
            argp_error(state, "a model directory is needed");
        if (!a->context_tokens)
            a->context_tokens = a->past_tokens + a->prompt_tokens + a->decode_tokens;
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

/* ---- the run ---- */

struct measured {
    bool done;
    struct plim_pool_stats stats;
};

static int ignore_logits(void *context, size_t first_position, size_t rows, size_t vocab_size, const float *logits,
                         struct plim_err *err)
{
    (void)context, (void)first_position, (void)rows, (void)vocab_size, (void)logits, (void)err;
    return 0;
}

static int run_calls(struct plim_session *session, const struct arguments *a, const int32_t *ids, struct plim_err *err)
{
    struct plim_forward past = { .rows = PLIM_LOGITS_NONE };
    struct plim_forward prompt = { .rows = a->all_logits ? PLIM_LOGITS_ALL : PLIM_LOGITS_LAST, .callback = ignore_logits };
    struct plim_forward step = { .rows = PLIM_LOGITS_LAST, .callback = ignore_logits };

    if (a->past_tokens && plim_session_forward(session, ids, a->past_tokens, &past, err) < 0)
        return -1;
    if (plim_session_forward(session, ids, a->prompt_tokens, &prompt, err) < 0)
        return -1;
    for (size_t i = 0; i < a->decode_tokens; i++)
        if (plim_session_forward(session, ids, 1, &step, err) < 0)
            return -1;
    return 0;
}

/* What a run of these sizes takes does not depend on its tokens: all of them are the first one of the vocabulary. */
static int measure(const struct arguments *a, struct measured *out, struct plim_err *err)
{
    struct plim_session_options session_options = { .context_tokens = a->context_tokens };
    struct plim_engine *engine = NULL;
    struct plim_model *model = NULL;
    struct plim_session *session = NULL;
    int32_t *ids = heap_calloc(a->past_tokens + a->prompt_tokens, sizeof *ids, err);
    int rc = -1;

    if (!ids || plim_engine_open(&engine, NULL, &a->flags.parameters, NULL, err) < 0 ||
        plim_model_load(&model, engine, a->model, err) < 0 ||
        plim_session_open(&session, model, &session_options, err) < 0 || run_calls(session, a, ids, err) < 0)
        goto out;
    plim_pool_stats(plim_engine_pool(engine), &out->stats);
    out->done = true;
    rc = 0;

out:
    plim_session_close(session);
    plim_model_free(model);
    plim_engine_close(engine);
    free(ids);
    return rc;
}

/* ---- the prediction ---- */

/* The past is filled by a call of its own, which may need more than the prompt does. */
static int predict(const struct arguments *a, struct plim_plan *plan, struct plim_err *err)
{
    struct plim_plan_request request = {
        .context_tokens = a->context_tokens, .prompt_tokens = a->prompt_tokens, .past = a->past_tokens,
        .decode_tokens = a->decode_tokens, .rows = a->all_logits ? PLIM_LOGITS_ALL : PLIM_LOGITS_LAST,
    };
    struct plim_plan_request filling = {
        .context_tokens = a->context_tokens, .prompt_tokens = a->past_tokens, .rows = PLIM_LOGITS_NONE,
    };
    struct plim_plan other;

    if (plim_predict(a->model, NULL, &a->flags.parameters, &request, plan, err) < 0)
        return -1;
    if (!a->past_tokens)
        return 0;
    if (plim_predict(a->model, NULL, &a->flags.parameters, &filling, &other, err) < 0)
        return -1;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        if (other.tag_peak_bytes[tag] > plan->tag_peak_bytes[tag])
            plan->tag_peak_bytes[tag] = other.tag_peak_bytes[tag];
    if (other.peak_bytes >= plan->peak_bytes) {   /* it comes first, so it keeps a tie */
        plan->peak_bytes = other.peak_bytes;
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            plan->peak_tag_bytes[tag] = other.peak_tag_bytes[tag];
    }
    return 0;
}

static bool is_as_predicted(const struct plim_plan *plan, const struct measured *measured)
{
    const struct plim_pool_stats *s = &measured->stats;

    if (plan->peak_bytes != s->peak[PLIM_FAST].total_bytes)
        return false;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        if (plan->tag_peak_bytes[tag] != s->tag_peak_bytes[PLIM_FAST][tag])
            return false;
    return true;
}

/* ---- printing ---- */

/* Tags by what they hold at the peak, the largest first; weights_mapped, which is no part of it, last. */
static int order_tags(const struct plim_plan *plan, int *order)
{
    bool taken[PLIM_TAG_COUNT] = { [PLIM_TAG_WEIGHTS_MAPPED] = true };
    int count = 0;

    for (;;) {
        int most = -1;

        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            if (!taken[tag] && plan->tag_peak_bytes[tag] &&
                (most < 0 || plan->peak_tag_bytes[tag] > plan->peak_tag_bytes[most]))
                most = tag;
        if (most < 0)
            break;
        taken[most] = true;
        order[count++] = most;
    }
    if (plan->tag_peak_bytes[PLIM_TAG_WEIGHTS_MAPPED])
        order[count++] = PLIM_TAG_WEIGHTS_MAPPED;
    return count;
}

static void bytes_cell(struct table *t, enum text_style style, uint64_t bytes)
{
    char text[40];

    table_cell(t, style, "%s", format_value(text, sizeof text, (double)bytes, "bytes"));
}

static void row_cells(struct table *t, const char *name, uint64_t at_peak, uint64_t own, uint64_t share_of,
                      const uint64_t *measured_own)
{
    table_cell(t, STYLE_PLAIN, "%s", name);
    bytes_cell(t, STYLE_PLAIN, at_peak);
    if (share_of)
        table_cell(t, STYLE_DIM, "%.0f%%", 100.0 * (double)at_peak / (double)share_of);
    else
        table_cell(t, STYLE_DIM, "%s", "");
    bytes_cell(t, STYLE_PLAIN, own);
    if (!measured_own)
        return;
    bytes_cell(t, STYLE_PLAIN, *measured_own);
    if (*measured_own == own)
        table_cell(t, STYLE_GOOD, "equal");
    else
        table_cell(t, STYLE_BAD, "%+" PRId64 " B", (int64_t)(*measured_own - own));
}

static int print_table(const struct arguments *a, const struct plim_plan *plan, const struct measured *measured,
                       struct plim_err *err)
{
    struct table t = TABLE_INIT;
    int order[PLIM_TAG_COUNT], count = order_tags(plan, order), rc;
    const struct plim_pool_stats *s = measured->done ? &measured->stats : NULL;

    table_column(&t, "tag", TABLE_LEFT);
    table_column(&t, "at the peak", TABLE_RIGHT);
    table_column(&t, "", TABLE_RIGHT);
    table_column(&t, "its own peak", TABLE_RIGHT);
    if (s) {
        table_column(&t, "measured", TABLE_RIGHT);
        table_column(&t, "", TABLE_RIGHT);
    }
    for (int i = 0; i < count; i++) {
        int tag = order[i];
        bool is_mapped = tag == PLIM_TAG_WEIGHTS_MAPPED;

        row_cells(&t, is_mapped ? "weights_mapped (not counted)" : plim_tag_name((enum plim_tag)tag),
                  is_mapped ? plan->tag_peak_bytes[tag] : plan->peak_tag_bytes[tag], plan->tag_peak_bytes[tag],
                  is_mapped ? 0 : plan->peak_bytes, s ? &s->tag_peak_bytes[PLIM_FAST][tag] : NULL);
    }
    row_cells(&t, "peak", plan->peak_bytes, plan->peak_bytes, plan->peak_bytes,
              s ? &s->peak[PLIM_FAST].total_bytes : NULL);
    printf("%s: a prompt of %zu tokens%s, %zu decoded, context %zu\n", a->model, a->prompt_tokens,
           a->all_logits ? " with all logits" : "", a->decode_tokens, a->context_tokens);
    rc = table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

static bool add_tags(cJSON *parent, const char *name, const uint64_t *bytes)
{
    cJSON *object = cJSON_AddObjectToObject(parent, name);

    for (int tag = 0; object && tag < PLIM_TAG_COUNT; tag++)
        if (bytes[tag] && !cJSON_AddNumberToObject(object, plim_tag_name((enum plim_tag)tag), (double)bytes[tag]))
            return false;
    return object != NULL;
}

static int print_json(const struct plim_plan *plan, const struct measured *measured, struct plim_err *err)
{
    const struct plim_pool_stats *s = &measured->stats;
    cJSON *root = cJSON_CreateObject(), *predicted = NULL, *real = NULL;
    char *text = NULL;
    bool complete = root && (predicted = cJSON_AddObjectToObject(root, "predicted")) &&
                    cJSON_AddNumberToObject(predicted, "peak_bytes", (double)plan->peak_bytes) &&
                    add_tags(predicted, "at_peak_bytes", plan->peak_tag_bytes) &&
                    add_tags(predicted, "tag_peak_bytes", plan->tag_peak_bytes);

    if (complete && measured->done)
        complete = (real = cJSON_AddObjectToObject(root, "measured")) &&
                   cJSON_AddNumberToObject(real, "peak_bytes", (double)s->peak[PLIM_FAST].total_bytes) &&
                   add_tags(real, "at_peak_bytes", s->peak[PLIM_FAST].bytes) &&
                   add_tags(real, "tag_peak_bytes", s->tag_peak_bytes[PLIM_FAST]) &&
                   cJSON_AddBoolToObject(root, "equal", is_as_predicted(plan, measured));
    if (complete)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

static int run(const struct arguments *a, struct plim_err *err)
{
    struct measured measured = { .done = false };
    struct plim_plan plan;

    if (predict(a, &plan, err) < 0 || (a->verify && measure(a, &measured, err) < 0))
        return -1;
    if ((a->json ? print_json(&plan, &measured, err) : print_table(a, &plan, &measured, err)) < 0)
        return -1;
    return measured.done && !is_as_predicted(&plan, &measured);
}

int verb_plan(int argc, char **argv)
{
    struct arguments a = { .prompt_tokens = 512 };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = {
        flag_options(options, listed), parse_option, "MODEL",
        "Predicts the peak of requested memory by tag, from the model's headers and the parameters, without loading it.\v"
        "Exit status: 0 fine, 1 --verify measured something else or the run failed, 2 bad usage, model or parameters.",
        a.flags.children, NULL, NULL
    };
    struct plim_err err = PLIM_ERR_INIT;
    int status;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    status = parameter_flags_resolve(&a.flags, argv, &err) < 0 ? -1 : run(&a, &err);
    return verb_status(status, &err);
}
