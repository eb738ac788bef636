/* plimsoll generate MODEL: continues a text. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_model.h"
#include "number_flags.h"
#include "parameter_flags.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"

#define PROMPT_LIMIT ((size_t)16 << 20)

enum { OPTION_TOP_K = 1000, OPTION_TOP_P, OPTION_MIN_P, OPTION_PENALTY, OPTION_WINDOW, OPTION_SEED, OPTION_CONTEXT,
       OPTION_IGNORE_EOS, OPTION_JSON, OPTION_STATS };

struct arguments {
    const char *model;
    const char *prompt;                /* NULL: standard input */
    size_t max_tokens, context_tokens;
    bool ignore_eos, json, stats;
    struct plim_sampling sampling;
    struct parameter_flags flags;
};

static const struct argp_option options[] = {
    { "prompt", 'p', "TEXT", 0, "What to continue (default: standard input)", 0 },
    { "max-tokens", 'n', "N", 0, "Generate at most so many tokens (default: 128)", 0 },
    { "temperature", 't', "X", 0, "0 (default): always the most probable token", 1 },
    { "top-k", OPTION_TOP_K, "N", 0, "Only the N most probable tokens (0: all)", 1 },
    { "top-p", OPTION_TOP_P, "P", 0, "Only the most probable tokens that make up P (1: all)", 1 },
    { "min-p", OPTION_MIN_P, "P", 0, "Only tokens at least P times as probable as the best (0: all)", 1 },
    { "repetition-penalty", OPTION_PENALTY, "X", 0, "Makes tokens seen less probable (1: no)", 1 },
    { "repetition-window", OPTION_WINDOW, "N", 0, "How many tokens the penalty looks back (0: all)", 1 },
    { "seed", OPTION_SEED, "N", 0, "Of the draws (default: 0)", 1 },
    { "context", OPTION_CONTEXT, "N", 0, "Capacity of the cache (default: what the prompt and --max-tokens need)", 2 },
    { "ignore-eos", OPTION_IGNORE_EOS, NULL, 0, "Go on after the model's end token", 2 },
    { "stats", OPTION_STATS, NULL, 0, "Print speed and memory to standard error in the end", 2 },
    { "json", OPTION_JSON, NULL, 0, "Print text, speed and memory as JSON in the end", 2 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;
    struct plim_sampling *s = &a->sampling;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->flags;
        return 0;
    case 'p':
        a->prompt = text;
        return 0;
    case 'n':
        a->max_tokens = (size_t)flag_count(state, "--max-tokens", text, 0, INT32_MAX);
        return 0;
    case 't':
        s->temperature = flag_number(state, "--temperature", text);
        return 0;
    case OPTION_TOP_K:
        s->top_k = flag_count(state, "--top-k", text, 0, INT32_MAX);
        return 0;
    case OPTION_TOP_P:
        s->top_p = flag_number(state, "--top-p", text);
        return 0;
    case OPTION_MIN_P:
        s->min_p = flag_number(state, "--min-p", text);
        return 0;
    case OPTION_PENALTY:
        s->repetition_penalty = flag_number(state, "--repetition-penalty", text);
        return 0;
    case OPTION_WINDOW:
        s->repetition_window = flag_count(state, "--repetition-window", text, 0, INT32_MAX);
        return 0;
    case OPTION_SEED:
        s->seed = (uint64_t)flag_count(state, "--seed", text, 0, INT64_MAX);
        return 0;
    case OPTION_CONTEXT:
        a->context_tokens = (size_t)flag_count(state, "--context", text, 1, INT32_MAX);
        return 0;
    case OPTION_IGNORE_EOS:
        a->ignore_eos = true;
        return 0;
    case OPTION_STATS:
        a->stats = true;
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
        if (!a->model)
            argp_error(state, "a model directory is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- output ---- */

struct output {
    struct plim_text_stream stream;
    char *text;               /* everything, for --json */
    size_t length;
    bool keep;
    uint64_t prompt_ns, decode_ns;
    size_t count;
};

static int take_text(void *context, const char *text, size_t length, struct plim_err *err)
{
    struct output *out = context;

    if (!out->keep) {
        if (fwrite(text, 1, length, stdout) != length || fflush(stdout) != 0)
            return plim_err_errno(err, "writing the text");
        return 0;
    }
    char *grown = realloc(out->text, out->length + length + 1);
    if (!grown)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    out->text = grown;
    memcpy(grown + out->length, text, length);
    out->length += length;
    grown[out->length] = '\0';
    return 0;
}

static int take_token(void *context, int32_t id, uint64_t elapsed_ns, struct plim_err *err)
{
    struct output *out = context;

    if (out->count++ == 0)
        out->prompt_ns = elapsed_ns;
    else
        out->decode_ns += elapsed_ns;
    return plim_text_stream_push(&out->stream, id, take_text, out, err);
}

static double per_second(size_t count, uint64_t ns)
{
    return ns ? (double)count / ((double)ns / 1e9) : 0;
}

static void print_stats(const struct cli_model *m, const struct output *out)
{
    char load[32], prompt[32];

    fprintf(stderr, "\nloaded in %s; prompt %zu tokens in %s (%.1f tokens/s)", plim_format_duration(load, sizeof load, m->load_ns),
            m->ids.count, plim_format_duration(prompt, sizeof prompt, out->prompt_ns),
            per_second(m->ids.count, out->prompt_ns));
    if (out->count > 1)
        fprintf(stderr, "; %zu tokens, %.1f tokens/s", out->count, per_second(out->count - 1, out->decode_ns));
    fputs("; ", stderr);
    cli_model_print_memory(m, stderr);
}

static int print_json(const struct cli_model *m, const struct output *out, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;

    if (root && cJSON_AddStringToObject(root, "text", out->text ? out->text : "") &&
        cJSON_AddNumberToObject(root, "prompt_tokens", (double)m->ids.count) &&
        cJSON_AddNumberToObject(root, "generated_tokens", (double)out->count) &&
        cJSON_AddNumberToObject(root, "load_time_ns", (double)m->load_ns) &&
        cJSON_AddNumberToObject(root, "first_token_time_ns", (double)out->prompt_ns) &&
        cJSON_AddNumberToObject(root, "prefill_tokens_per_s", per_second(m->ids.count, out->prompt_ns)) &&
        cJSON_AddNumberToObject(root, "generate_tokens_per_s",
                                out->count > 1 ? per_second(out->count - 1, out->decode_ns) : 0) &&
        cli_model_add_memory(m, root, err) == 0)
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

/* ---- work ---- */

/* The prompt from the flag or standard input; free(). */
static char *read_prompt(const struct arguments *a, size_t *length, struct plim_err *err)
{
    size_t capacity = 65536, used = 0, got;
    char *text;

    if (a->prompt) {
        *length = strlen(a->prompt);
        text = strdup(a->prompt);
        if (!text)
            plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
        return text;
    }
    text = malloc(capacity);
    while (text && (got = fread(text + used, 1, capacity - used, stdin)) > 0) {
        char *grown;

        used += got;
        if (used < capacity)
            continue;
        grown = capacity < PROMPT_LIMIT ? realloc(text, capacity * 2) : NULL;
        if (!grown) {
            free(text);
            plim_err_input(err, "the prompt is longer than %zu bytes", capacity);
            return NULL;
        }
        text = grown;
        capacity *= 2;
    }
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    *length = used;
    return text;
}

static size_t context_for(const struct arguments *a, const struct cli_model *m)
{
    size_t needed = m->ids.count + a->max_tokens;

    return a->context_tokens ? a->context_tokens : plim_min(plim_max(needed, 1), m->info.max_positions);
}

static int generate(struct arguments *a, struct plim_err *err)
{
    struct plim_generation generation = { .sampling = a->sampling, .max_tokens = a->max_tokens,
                                          .stop_at_eos = !a->ignore_eos };
    struct output out = { .keep = a->json };
    struct cli_model m = { 0 };
    size_t length, count;
    char *prompt = NULL;
    int rc = -1;

    if (plim_sampling_check(&a->sampling, err) < 0 || !(prompt = read_prompt(a, &length, err)) ||
        cli_model_open(&m, a->model, &a->flags.parameters, err) < 0 ||
        plim_tokenizer_encode(m.tokenizer, prompt, length, true, &m.ids, err) < 0)
        goto out;
    if (m.ids.count == 0) {
        plim_err_input(err, "the prompt is empty");
        goto out;
    }
    if (cli_model_open_session(&m, context_for(a, &m), err) < 0)
        goto out;
    plim_text_stream_init(&out.stream, m.tokenizer, true);
    if (plim_generate(m.session, m.ids.ids, m.ids.count, &generation, take_token, &out, &count, err) < 0 ||
        plim_text_stream_end(&out.stream, take_text, &out, err) < 0)
        goto out;
    if (!a->json)
        putchar('\n');
    if (a->stats)
        print_stats(&m, &out);
    rc = a->json ? print_json(&m, &out, err) : 0;

out:
    cli_model_close(&m);
    free(prompt);
    free(out.text);
    return rc;
}

int verb_generate(int argc, char **argv)
{
    struct arguments a = { .max_tokens = 128, .sampling = PLIM_SAMPLING_GREEDY };
    struct argp argp = { options, parse_option, "MODEL",
                         "Continues a text with a model (a Hugging Face directory, dense or EXL2).", a.flags.children, NULL,
                         NULL };
    struct plim_err err = PLIM_ERR_INIT;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (parameter_flags_resolve(&a.flags, argv, &err) < 0 || generate(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
