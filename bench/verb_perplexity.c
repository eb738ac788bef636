/* plimsoll perplexity MODEL --text FILE: how well a model predicts a text. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_model.h"
#include "number_flags.h"
#include "parameter_flags.h"
#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"

#define TEXT_LIMIT ((size_t)256 << 20)

enum { OPTION_TEXT = 1000, OPTION_WINDOW, OPTION_TOKENS, OPTION_JSON };

struct arguments {
    const char *model, *text;
    size_t window, token_limit;
    bool json;
    struct parameter_flags flags;
};

static const struct argp_option options[] = {
    { "text", OPTION_TEXT, "FILE", 0, "The text to score", 0 },
    { "window", OPTION_WINDOW, "N", 0, "Tokens that are run from an empty cache (default: 512)", 0 },
    { "tokens", OPTION_TOKENS, "N", 0, "Score only the first N tokens", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case OPTION_TEXT:
        a->text = text;
        return 0;
    case OPTION_WINDOW:
        a->window = (size_t)flag_count(state, "--window", text, 2, INT32_MAX);
        return 0;
    case OPTION_TOKENS:
        a->token_limit = (size_t)flag_count(state, "--tokens", text, 2, INT32_MAX);
        return 0;
    case OPTION_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->model)
            argp_error(state, "one model at a time: \"%s\" is a second", text);
        a->model = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->model || !a->text)
            argp_error(state, "a model directory and --text FILE are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int print_json(const struct cli_model *m, const struct plim_perplexity *p, uint64_t took_ns,
                      struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;

    if (root && cJSON_AddNumberToObject(root, "perplexity", p->perplexity) &&
        cJSON_AddNumberToObject(root, "nll_sum", p->nll_sum) &&
        cJSON_AddNumberToObject(root, "scored_tokens", (double)p->token_count) &&
        cJSON_AddNumberToObject(root, "perplexity_tokens_per_s", (double)p->token_count / ((double)took_ns / 1e9)) &&
        cli_model_add_memory(m, root, err) == 0)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

static int score(const struct arguments *a, struct plim_err *err)
{
    struct plim_perplexity p;
    struct cli_model m = { 0 };
    char *text = NULL;
    size_t length, count;
    uint64_t start_ns, took_ns;
    int rc = -1;

    if (plim_read_file(a->text, TEXT_LIMIT, &text, &length, err) < 0 ||
        cli_model_open(&m, a->model, &a->flags.parameters, err) < 0 ||
        plim_tokenizer_encode(m.tokenizer, text, length, true, &m.ids, err) < 0)
        goto out;
    count = a->token_limit ? plim_min(a->token_limit, m.ids.count) : m.ids.count;
    if (cli_model_open_session(&m, a->window, err) < 0)
        goto out;
    start_ns = plim_now_ns();
    if (plim_perplexity(m.session, m.ids.ids, count, a->window, &p, err) < 0)
        goto out;
    took_ns = plim_now_ns() - start_ns;
    if (a->json) {
        rc = print_json(&m, &p, took_ns, err);
        goto out;
    }
    printf("perplexity %.4f over %llu tokens in windows of %zu; %.1f tokens/s; ", p.perplexity,
           (unsigned long long)p.token_count, a->window, (double)p.token_count / ((double)took_ns / 1e9));
    cli_model_print_memory(&m, stdout);
    rc = 0;

out:
    cli_model_close(&m);
    free(text);
    return rc;
}

int verb_perplexity(int argc, char **argv)
{
    struct arguments a = { .window = 512 };
    struct argp argp = { options, parse_option, "MODEL",
                         "Scores a text: exp of the mean negative log-likelihood of its tokens, each given those before it "
                         "in its window.", a.flags.children, NULL, NULL };
    struct plim_err err = PLIM_ERR_INIT;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (parameter_flags_resolve(&a.flags, argv, &err) < 0 || score(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
