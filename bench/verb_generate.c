/* plimsoll generate MODEL: continues a text. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_model.h"
#include "flag_table.h"
#include "parameter_flags.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"

#define PROMPT_LIMIT ((size_t)16 << 20)

struct arguments {
    const char *model;
    const char *prompt;                /* NULL: standard input */
    size_t max_tokens, context_tokens;
    bool ignore_eos, json, stats;
    struct plim_sampling sampling;
    struct parameter_flags flags;
};

static const struct flag options[] = {
    { "prompt", "TEXT", "What to continue (default: standard input)",
      FLAG_FIELD(struct arguments, prompt), .key = 'p' },
    { "max-tokens", "N", "Generate at most so many tokens (default: 128)",
      FLAG_FIELD(struct arguments, max_tokens), .low = 0, .high = INT32_MAX, .key = 'n' },
    { "temperature", "X", "0 (default): always the most probable token",
      FLAG_FIELD(struct arguments, sampling.temperature), .key = 't', .group = 1 },
    { "top-k", "N", "Only the N most probable tokens (0: all)",
      FLAG_FIELD(struct arguments, sampling.top_k), .low = 0, .high = INT32_MAX, .group = 1 },
    { "top-p", "P", "Only the most probable tokens that make up P (1: all)",
      FLAG_FIELD(struct arguments, sampling.top_p), .group = 1 },
    { "min-p", "P", "Only tokens at least P times as probable as the best (0: all)",
      FLAG_FIELD(struct arguments, sampling.min_p), .group = 1 },
    { "repetition-penalty", "X", "Makes tokens seen less probable (1: no)",
      FLAG_FIELD(struct arguments, sampling.repetition_penalty), .group = 1 },
    { "repetition-window", "N", "How many tokens the penalty looks back (0: all)",
      FLAG_FIELD(struct arguments, sampling.repetition_window), .low = 0, .high = INT32_MAX, .group = 1 },
    { "seed", "N", "Of the draws (default: 0)",
      FLAG_FIELD(struct arguments, sampling.seed), .low = 0, .high = INT64_MAX, .group = 1 },
    { "context", "N", "Capacity of the cache (default: what the prompt and --max-tokens need)",
      FLAG_FIELD(struct arguments, context_tokens), .low = 1, .high = INT32_MAX, .group = 2 },
    { "ignore-eos", NULL, "Go on after the model's end token", FLAG_FIELD(struct arguments, ignore_eos), .group = 2 },
    { "stats", NULL, "Print speed and memory to standard error in the end",
      FLAG_FIELD(struct arguments, stats), .group = 2 },
    { "json", NULL, "Print text, speed and memory as JSON in the end", FLAG_FIELD(struct arguments, json), .group = 2 },
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
        return 0;
    default:
        return flag_parse(options, key, text, state);
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
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = { flag_options(options, listed), parse_option, "MODEL",
                         "Continues a text with a model (a Hugging Face directory, dense or EXL2).", a.flags.children, NULL,
                         NULL };
    struct plim_err err = PLIM_ERR_INIT;

    parameter_flags_init(&a.flags);
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    return verb_status(parameter_flags_resolve(&a.flags, argv, &err) < 0 ? -1 : generate(&a, &err), &err);
}
