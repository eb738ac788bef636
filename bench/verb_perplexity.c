/* plimsoll perplexity MODEL --text FILE: how well a model predicts a text, and how far its predictions are from another's. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_model.h"
#include "flag_table.h"
#include "parameter_flags.h"
#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"

#define TEXT_LIMIT ((size_t)256 << 20)

struct arguments {
    const char *model, *text, *reference;
    size_t window, token_limit;
    bool json;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "text", "FILE", "The text to score", FLAG_FIELD(struct arguments, text) },
    { "reference", "DIR", "Also the KL divergence from this model, such as the dense one",
      FLAG_FIELD(struct arguments, reference) },
    { "window", "N", "Tokens that are run from an empty cache (default: 512)",
      FLAG_FIELD(struct arguments, window), .low = 2, .high = INT32_MAX },
    { "tokens", "N", "Score only the first N tokens",
      FLAG_FIELD(struct arguments, token_limit), .low = 2, .high = INT32_MAX },
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
        if (!a->model || !a->text)
            argp_error(state, "a model directory and --text FILE are needed");
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

/* What was scored: of the model alone, or with a reference beside it. */
struct score {
    struct plim_divergence d;   /* of a run without a reference only d.model is filled in */
    bool has_reference;
    uint64_t took_ns;
};

static double agreement(const struct score *s)
{
    return (double)s->d.agreement_count / (double)s->d.position_count;
}

static bool add_reference(cJSON *root, const struct score *s)
{
    return cJSON_AddNumberToObject(root, "reference_perplexity", s->d.reference.perplexity) &&
           cJSON_AddNumberToObject(root, "kl_divergence", s->d.kl_mean) &&
           cJSON_AddNumberToObject(root, "compared_tokens", (double)s->d.position_count) &&
           cJSON_AddNumberToObject(root, "top_token_agreement", agreement(s));
}

static int print_json(const struct cli_model *m, const struct score *s, struct plim_err *err)
{
    const struct plim_perplexity *p = &s->d.model;
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;

    if (root && cJSON_AddNumberToObject(root, "perplexity", p->perplexity) &&
        cJSON_AddNumberToObject(root, "nll_sum", p->nll_sum) &&
        cJSON_AddNumberToObject(root, "scored_tokens", (double)p->token_count) &&
        cJSON_AddNumberToObject(root, "perplexity_tokens_per_s", (double)p->token_count / ((double)s->took_ns / 1e9)) &&
        (!s->has_reference || add_reference(root, s)) && cli_model_add_memory(m, root, err) == 0)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

static void print_score(const struct arguments *a, const struct cli_model *m, const struct score *s)
{
    const struct plim_perplexity *p = &s->d.model;

    printf("perplexity %.4f over %llu tokens in windows of %zu; %.1f tokens/s; ", p->perplexity,
           (unsigned long long)p->token_count, a->window, (double)p->token_count / ((double)s->took_ns / 1e9));
    cli_model_print_memory(m, stdout);
    if (s->has_reference)
        printf("reference perplexity %.4f (%+.2f%%); KL divergence %.6f; the same most probable token in %.2f%% of %llu\n",
               s->d.reference.perplexity, 100 * (p->perplexity / s->d.reference.perplexity - 1), s->d.kl_mean,
               100 * agreement(s), (unsigned long long)s->d.position_count);
}

static int score_beside(const struct arguments *a, const struct cli_model *m, size_t count, struct plim_divergence *out,
                        struct plim_err *err)
{
    struct plim_session_options capacity = { .context_tokens = a->window };
    struct plim_session *session = NULL;
    struct plim_model *model = NULL;
    int rc = -1;

    if (plim_model_load(&model, m->engine, a->reference, err) == 0 &&
        plim_session_open(&session, model, &capacity, err) == 0)
        rc = plim_divergence(m->session, session, m->ids.ids, count, a->window, out, err);
    plim_session_close(session);
    plim_model_free(model);
    return rc;
}

static int score(const struct arguments *a, struct plim_err *err)
{
    struct score s = { .has_reference = a->reference != NULL };
    struct cli_model m = { 0 };
    char *text = NULL;
    size_t length, count;
    uint64_t start_ns;
    int rc = -1;

    if (plim_read_file(a->text, TEXT_LIMIT, &text, &length, err) < 0 ||
        cli_model_open(&m, a->model, &a->flags.parameters, err) < 0 ||
        plim_tokenizer_encode(m.tokenizer, text, length, true, &m.ids, err) < 0)
        goto out;
    count = a->token_limit ? plim_min(a->token_limit, m.ids.count) : m.ids.count;
    if (cli_model_open_session(&m, a->window, err) < 0)
        goto out;
    start_ns = plim_now_ns();
    if ((s.has_reference ? score_beside(a, &m, count, &s.d, err)
                         : plim_perplexity(m.session, m.ids.ids, count, a->window, &s.d.model, err)) < 0)
        goto out;
    s.took_ns = plim_now_ns() - start_ns;
    rc = 0;
    if (a->json)
        rc = print_json(&m, &s, err);
    else
        print_score(a, &m, &s);

out:
    cli_model_close(&m);
    free(text);
    return rc;
}

int verb_perplexity(int argc, char **argv)
{
    struct arguments a = { .window = 512 };
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = { flag_options(options, listed), parse_option, "MODEL",
                         "Scores a text: exp of the mean negative log-likelihood of its tokens, each given those before it "
                         "in its window. With a reference also the mean KL divergence of the model's predictions from the "
                         "reference's, in nats a token.", a.flags.children, NULL, NULL };
    struct plim_err err = PLIM_ERR_INIT;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(parameter_flags_resolve(&a.flags, argv, &err) < 0 ? -1 : score(&a, &err), &err);
}
