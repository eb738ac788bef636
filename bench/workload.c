#include "workload.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/json.h"
#include "plimsoll/units.h"
#include "workload_run.h"

#define TOKENS_LIMIT (1 << 20)
#define SEED_LIMIT 9007199254740992.0   /* 2^53: what a JSON number holds exactly */

#define ROW_SEED { "seed", ARGUMENT_COUNT, "1", 0, SEED_LIMIT, NULL, "of the random token ids" }
#define ROW_END { NULL, ARGUMENT_COUNT, NULL, 0, 0, NULL, NULL }

static const struct argument_row no_arguments[] = { ROW_END };

static const struct argument_row prefill_arguments[] = {
    { "prompt_tokens", ARGUMENT_COUNT, "512", 1, TOKENS_LIMIT, NULL, "random ids run in one call; the last one's logits are computed" },
    { "past_tokens", ARGUMENT_COUNT, "0", 0, TOKENS_LIMIT, NULL, "ids put into the cache before, not timed" },
    { "context_tokens", ARGUMENT_COUNT, "0", 0, TOKENS_LIMIT, NULL, "capacity of the cache; 0: as many as are used" },
    { "sgemm_reference", ARGUMENT_SWITCH, "off", 0, 0, NULL, "time BLAS sgemm (cuda: cuBLAS in fp16) of the same shapes beside each repeat" },
    ROW_SEED,
    ROW_END
};

static const struct argument_row decode_arguments[] = {
    { "prompt_tokens", ARGUMENT_COUNT, "32", 1, TOKENS_LIMIT, NULL, "random ids put into the cache before, not timed" },
    { "decode_tokens", ARGUMENT_COUNT, "64", 1, 16384, NULL, "one-token steps, each fed the most probable id of the step before" },
    { "context_tokens", ARGUMENT_COUNT, "0", 0, TOKENS_LIMIT, NULL, "capacity of the cache; 0: as many as are used" },
    { "bandwidth_reference", ARGUMENT_SWITCH, "on", 0, 0, NULL, "time plain reads beside each repeat, where the weights exceed the caches" },
    ROW_SEED,
    ROW_END
};

static const struct argument_row generate_arguments[] = {
    { "prompt", ARGUMENT_TEXT, "", 0, 0, NULL, "text for the model's tokenizer; empty: prompt_tokens random ids" },
    { "prompt_tokens", ARGUMENT_COUNT, "32", 1, TOKENS_LIMIT, NULL, "random ids, when there is no prompt" },
    { "max_tokens", ARGUMENT_COUNT, "64", 1, 16384, NULL, "tokens to generate; end tokens are ignored" },
    { "temperature", ARGUMENT_NUMBER, "0", 0, 100, NULL, "0: greedy" },
    { "top_k", ARGUMENT_COUNT, "0", 0, TOKENS_LIMIT, NULL, "0: all" },
    { "top_p", ARGUMENT_NUMBER, "1", 0, 1, NULL, "1: all" },
    { "min_p", ARGUMENT_NUMBER, "0", 0, 1, NULL, "0: all" },
    { "repetition_penalty", ARGUMENT_NUMBER, "1", 0.01, 100, NULL, "1: none" },
    ROW_SEED,
    ROW_END
};

static const struct argument_row perplexity_arguments[] = {
    { "text", ARGUMENT_FILE, "", 0, 0, NULL, "file for the model's tokenizer; empty: random ids" },
    { "tokens", ARGUMENT_COUNT, "2Ki", 2, TOKENS_LIMIT, NULL, "how many tokens to take" },
    { "window", ARGUMENT_COUNT, "512", 2, TOKENS_LIMIT, NULL, "tokens run from an empty cache" },
    ROW_SEED,
    ROW_END
};

static const char *const layer_methods[] = { "gptq", "exllamav2", "rtn", "factor", NULL };
static const char *const layer_bits[] = { "2", "3", "4", "5", "6", "8", NULL };

static const struct argument_row quantize_layer_arguments[] = {
    { "in_features", ARGUMENT_COUNT, "1024", 1, 65536, NULL, "inputs, K: a multiple of 32; with method=factor any number" },
    { "out_features", ARGUMENT_COUNT, "1024", 1, 262144, NULL, "outputs, N" },
    { "rows", ARGUMENT_COUNT, "4", 1, TOKENS_LIMIT, NULL, "calibration sequences" },
    { "length", ARGUMENT_COUNT, "512", 1, TOKENS_LIMIT, NULL, "tokens of each" },
    { "bits", ARGUMENT_CHOICE, "4", 0, 0, layer_bits, "the layout of a head of so many bits" },
    { "method", ARGUMENT_CHOICE, "gptq", 0, 0, layer_methods,
      "gptq; exllamav2: GPTQ with its scales and damping; rtn: rounding to nearest; factor: Hessian, factor and inverse only" },
    { "seed", ARGUMENT_COUNT, "1", 0, SEED_LIMIT, NULL, "of weights and activations" },
    ROW_END
};

static const char *const quantize_methods[] = { "gptq", "exllamav2", "rtn", NULL };
static const char *const measurements[] = { "own", "shared", NULL };

static const struct argument_row quantize_arguments[] = {
    { "bpw", ARGUMENT_NUMBER, "4", 0.1, 16, NULL, "target bits per weight of the decoder" },
    { "head_bits", ARGUMENT_COUNT, "6", 2, 8, NULL, "bits of the output head: 2, 3, 4, 5, 6 or 8" },
    { "method", ARGUMENT_CHOICE, "gptq", 0, 0, quantize_methods,
      "gptq; exllamav2: GPTQ with its scales and damping; rtn: rounding to nearest" },
    { "calibration", ARGUMENT_FILE, "", 0, 0, NULL, ".txt, .jsonl or .safetensors; empty: the built-in mix, or random ids where there is no tokenizer" },
    { "rows", ARGUMENT_COUNT, "8", 0, TOKENS_LIMIT, NULL, "calibration rows; 0: as plimsoll quantize" },
    { "length", ARGUMENT_COUNT, "512", 0, TOKENS_LIMIT, NULL, "tokens of each; 0: as plimsoll quantize" },
    { "measurement", ARGUMENT_CHOICE, "own", 0, 0, measurements,
      "own: part of the work; shared: made by the first case of this model and rows, outside what is measured, and kept beside the model" },
    { "measurement_rows", ARGUMENT_COUNT, "4", 0, TOKENS_LIMIT, NULL, "rows of the measurement" },
    { "measurement_length", ARGUMENT_COUNT, "512", 0, TOKENS_LIMIT, NULL, "tokens of each" },
    { "sensitivity_rows", ARGUMENT_COUNT, "4", 0, TOKENS_LIMIT, NULL,
      "of them, to measure what each block's errors do to the predictions; 0: they weigh the same" },
    { "text", ARGUMENT_FILE, "", 0, 0, NULL, "to compare the result with the dense model on; empty: random ids" },
    { "tokens", ARGUMENT_COUNT, "0", 0, TOKENS_LIMIT, NULL, "of the text; 0: no comparison" },
    { "window", ARGUMENT_COUNT, "512", 2, TOKENS_LIMIT, NULL, "tokens run from an empty cache" },
    { "seed", ARGUMENT_COUNT, "1", 0, SEED_LIMIT, NULL, "of the built-in mix, and of random ids" },
    ROW_END
};

static const struct argument_row spin_arguments[] = {
    { "steps", ARGUMENT_COUNT, "20M", 1, 1e12, NULL, "multiplications, each waiting for the one before" },
    { "bytes", ARGUMENT_COUNT, "1Mi", 1, 1LL << 40, NULL, "held meanwhile" },
    ROW_END
};

static const char *const fault_names[] = { "none", "segv", "abort", "hang", "exit", "silent", "garbage", "flood",
                                           "chatter", "unequal", "over_budget", "leak", "error", NULL };

static const struct argument_row fault_arguments[] = {
    { "fault", ARGUMENT_CHOICE, "none", 0, 0, fault_names, "what goes wrong" },
    { "sleep_ms", ARGUMENT_COUNT, "0", 0, 60000, NULL, "before it does" },
    ROW_END
};

static const struct workload table[] = {
    { "null", "does nothing: what the harness itself costs", .arguments = no_arguments, .run = workload_null },
    { "spin", "multiplies numbers: what differences this machine lets one see", .arguments = spin_arguments,
      .run = workload_spin },
    { "load", "loads the model and runs one token", true, true, true, false, no_arguments, workload_load },
    { "prefill", "runs a prompt", true, true, true, false, prefill_arguments, workload_prefill },
    { "decode", "runs one-token steps after a prompt", true, true, true, false, decode_arguments, workload_decode },
    { "generate", "generates with the sampler", true, true, true, false, generate_arguments, workload_generate },
    { "perplexity", "scores a text", true, true, true, false, perplexity_arguments, workload_perplexity },
    { "quantize_layer", "quantises one made-up linear layer", false, true, true, false, quantize_layer_arguments,
      workload_quantize_layer },
    { "quantize", "converts a dense model to EXL2, and compares the two", true, true, true, false, quantize_arguments,
      workload_quantize },
    { "fault", "fails in a chosen way", .hidden = true, .arguments = fault_arguments, .run = workload_fault },
};

enum { WORKLOAD_COUNT = sizeof table / sizeof table[0] };

static bool is_known(const struct workload *workload)
{
    const char *test = getenv("PLIMSOLL_TEST");

    return !workload->hidden || (test && strcmp(test, "1") == 0);
}

const struct workload *const *workloads(void)
{
    static const struct workload *known[WORKLOAD_COUNT + 1];
    size_t count = 0;

    for (size_t i = 0; i < WORKLOAD_COUNT; i++)
        if (is_known(&table[i]))
            known[count++] = &table[i];
    known[count] = NULL;
    return known;
}

const struct workload *workload_find(const char *name, struct plim_err *err)
{
    const char *names[WORKLOAD_COUNT + 1] = { NULL };
    const char *nearest;
    size_t count = 0;

    for (const struct workload *const *w = workloads(); *w; w++) {
        if (strcmp((*w)->name, name) == 0)
            return *w;
        names[count++] = (*w)->name;
    }
    nearest = plim_nearest_name(name, names);
    if (nearest)
        plim_err_input(err, "unknown workload \"%s\"; did you mean %s?", name, nearest);
    else
        plim_err_input(err, "unknown workload \"%s\"; known: null, spin, load, prefill, decode, generate, perplexity, "
                            "quantize_layer, quantize", name);
    return NULL;
}

const struct argument_row *workload_argument(const struct workload *workload, const char *name)
{
    for (const struct argument_row *row = workload->arguments; row->name; row++)
        if (strcmp(row->name, name) == 0)
            return row;
    return NULL;
}

static int refuse_unknown(const struct workload *workload, const char *name, struct plim_err *err)
{
    const char *names[32] = { NULL };
    const char *nearest;
    size_t count = 0;

    for (const struct argument_row *row = workload->arguments; row->name && count < 31; row++)
        names[count++] = row->name;
    nearest = plim_nearest_name(name, names);
    if (nearest)
        return plim_err_input(err, "workload %s has no argument \"%s\"; did you mean %s?", workload->name, name, nearest);
    return plim_err_input(err, "workload %s has no argument \"%s\"", workload->name, name);
}

static int refuse_range(const struct argument_row *row, const char *text, struct plim_err *err)
{
    return plim_err_input(err, "%s is \"%s\"; wanted %.17g to %.17g", row->name, text, row->low, row->high);
}

static int set_number(const struct argument_row *row, struct facts *arguments, const char *text, struct plim_err *err)
{
    double number;

    if (row->type == ARGUMENT_COUNT) {
        int64_t count;

        if (plim_parse_count(text, &count, err) < 0)
            return plim_err_wrap(err, "%s", row->name);
        number = (double)count;
    } else {
        char *end;

        number = strtod(text, &end);
        if (end == text || *end || !isfinite(number))
            return plim_err_input(err, "%s is \"%s\"; wanted a number", row->name, text);
    }
    if (number < row->low || number > row->high)
        return refuse_range(row, text, err);
    return facts_set_number(arguments, row->name, number, err);
}

int argument_set(const struct workload *workload, struct facts *arguments, const char *name, const char *text,
                 struct plim_err *err)
{
    static const char *const switch_names[] = { "off", "on", NULL };
    const struct argument_row *row = workload_argument(workload, name);
    const char *const *choices;

    if (!row)
        return refuse_unknown(workload, name, err);
    if (row->type == ARGUMENT_COUNT || row->type == ARGUMENT_NUMBER)
        return set_number(row, arguments, text, err);
    if (row->type == ARGUMENT_TEXT || row->type == ARGUMENT_FILE)
        return facts_set_text(arguments, row->name, text, err);

    choices = row->type == ARGUMENT_SWITCH ? switch_names : row->choices;
    for (size_t i = 0; choices[i]; i++)
        if (strcmp(choices[i], text) == 0)
            return facts_set_text(arguments, row->name, text, err);
    if (plim_nearest_name(text, choices))
        return plim_err_input(err, "%s is \"%s\"; did you mean %s?", row->name, text, plim_nearest_name(text, choices));
    return plim_err_input(err, "%s is \"%s\"; wanted %s, %s%s", row->name, text, choices[0], choices[1],
                          choices[2] ? ", ..." : "");
}

int arguments_default(const struct workload *workload, struct facts *arguments, struct plim_err *err)
{
    for (const struct argument_row *row = workload->arguments; row->name; row++)
        if (argument_set(workload, arguments, row->name, row->value, err) < 0)
            return -1;
    return 0;
}

char *argument_format(const struct facts *arguments, const char *name, char *buffer, size_t size)
{
    const struct fact *fact = facts_find(arguments, name);

    if (!fact)
        snprintf(buffer, size, "%s", "");
    else if (fact->text)
        snprintf(buffer, size, "%s", fact->text);
    else
        format_number(buffer, size, fact->number);
    return buffer;
}

int64_t argument_count(const struct facts *arguments, const char *name)
{
    const struct fact *fact = facts_find(arguments, name);

    return fact ? (int64_t)fact->number : 0;
}

void references_close(struct references *references)
{
    read_yardstick_close(&references->read);
    gemm_yardstick_close(&references->gemm);
    *references = (struct references){ 0 };
}

double argument_number(const struct facts *arguments, const char *name)
{
    const struct fact *fact = facts_find(arguments, name);

    return fact ? fact->number : 0;
}

bool argument_is_on(const struct facts *arguments, const char *name)
{
    return strcmp(argument_text(arguments, name), "on") == 0;
}

const char *argument_text(const struct facts *arguments, const char *name)
{
    const struct fact *fact = facts_find(arguments, name);

    return fact && fact->text ? fact->text : "";
}
