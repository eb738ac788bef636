#include "plimsoll/parameters.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "plimsoll/cpu.h"
#include "plimsoll/json.h"
#include "plimsoll/units.h"

static const char *const switch_names[] = { "off", "on", NULL };
static const char *const dq_modes[] = { "chunked", "gated", NULL };
static const char *const cuda_loadings[] = { "lazy", "eager", "unset", NULL };
static const char *const attention_modes[] = { "flash", "plain", NULL };
static const char *const kv_caches[] = { "fp16", "fp32", "q8", "q6", "q4", NULL };

/* Core types of OpenBLAS' x86-64 builds (its dynamic.c); a name outside the list would be ignored there, silently. */
static const char *const blas_cores[] = {
    "Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Sandybridge", "Haswell", "SkylakeX", "Cooperlake",
    "SapphireRapids", "Atom", "Athlon", "Opteron", "Opteron_SSE3", "Barcelona", "Bobcat", "Bulldozer", "Piledriver",
    "Steamroller", "Excavator", "Zen", "Nano", NULL
};

#ifdef PLIMSOLL_HAVE_CUDA
#define NO_CUDA NULL
#else
#define NO_CUDA "the CUDA backend is not part of this build"
#endif
static const char *const backends[] = { "cpu", "cuda", NULL };
static const char *const backend_reasons[] = { NULL, NO_CUDA };

#define MI ((int64_t)1 << 20)
#define TI ((int64_t)1 << 40)
#define LOW_MEM_INPUT_LEN 1024
#define LOW_MEM_ATTENTION_SIZE (1024 * 1024)

static int check_split(const char *text, struct plim_err *err)
{
    struct plim_split split;
    return plim_split_parse(text, &split, err);
}

static const struct plim_parameter_row table[PLIM_PARAMETER_COUNT] = {
    [PLIM_BACKEND] = {
        .name = "backend", .type = PLIM_TYPE_CHOICE, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .default_count = PLIM_BACKEND_CPU, .choices = backends, .choices_unavailable = backend_reasons,
        .help = "Where the model runs; the fast memory tier is RAM on cpu and device memory on cuda",
        .origin = "",
    },
    [PLIM_DEVICE] = {
        .name = "device", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .default_count = 0, .low = 0, .high = 63,
        .help = "The GPU that the cuda backend uses, counted from 0 as the driver does",
        .origin = "", .unavailable = NO_CUDA,
    },
    [PLIM_GPU_SPLIT] = {
        .name = "gpu_split", .type = PLIM_TYPE_TEXT, .scope = PLIM_SCOPE_ENGINE, .unit = "", .check = check_split,
        .help = "Layers on several devices, the first being device: auto shares them by free memory; 20,9.5,6000Mi: GiB of "
                "weights for each, or with a unit; empty: one device",
        .origin = "ExLlamaV2 gpu_split",
    },
    [PLIM_MAX_DQ_SIZE] = {
        .name = "max_dq_size", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "elements",
        .default_count = 512 * MI, .low = 32, .high = TI,
        .help = "Largest piece of a matrix that is dequantised at once in a matrix product of many rows",
        .origin = "ExLlamaV2 config.max_dq_size",
    },
    [PLIM_DQ_MODE] = {
        .name = "dq_mode", .type = PLIM_TYPE_CHOICE, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .default_count = PLIM_DQ_CHUNKED, .choices = dq_modes,
        .help = "What a matrix over max_dq_size does: chunked expands it piece by piece, gated takes the fused kernel",
        .origin = "gated: ExLlamaV2's behaviour",
    },
    [PLIM_DQ_ROWS] = {
        .name = "dq_rows", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "rows",
        .default_count = -1, .low = 0, .high = 4096,
        .help = "Products of up to so many rows multiply straight from packed weights, larger ones dequantise first; auto: "
                "as measured on the backend",
        .origin = "ExLlamaV2 (32); ours measured: on the CPU the fused kernel is the faster one at every count",
    },
    [PLIM_MAX_INPUT_LEN] = {
        .name = "max_input_len", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "tokens",
        .default_count = 2048, .low = 1, .high = MI,
        .help = "Longer inputs pass through the layers in chunks of at most so many tokens",
        .origin = "ExLlamaV2 config.max_input_len",
    },
    [PLIM_MAX_ATTENTION_SIZE] = {
        .name = "max_attention_size", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "elements",
        .default_count = 2048 * 2048, .low = 1, .high = TI,
        .help = "Bound on the piece of the attention matrix (queries times keys) that is held at once",
        .origin = "ExLlamaV2 config.max_attention_size",
    },
    [PLIM_LOW_MEM] = {
        .name = "low_mem", .type = PLIM_TYPE_SWITCH, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .help = "Caps max_input_len at 1024, max_attention_size at 1024^2, and the output at 1024 tokens a call",
        .origin = "ExLlamaV2 config.set_low_mem()",
    },
    [PLIM_HESSIAN_OFFLOAD_THRESHOLD] = {
        .name = "hessian_offload_threshold", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_CONVERSION,
        .unit = "elements", .default_count = 600000000, .low = 0, .high = TI,
        .help = "Hessians larger than this are permuted in the slow memory tier",
        .origin = "ExLlamaV2 quantizer",
    },
    [PLIM_RELEASE_AT_BOUNDARY] = {
        .name = "release_at_boundary", .type = PLIM_TYPE_SWITCH, .scope = PLIM_SCOPE_CONVERSION, .unit = "",
        .default_count = 1,
        .help = "Cached free memory is given back at every module boundary of a conversion",
        .origin = "ExLlamaV2 gc.collect() + empty_cache()",
    },
    [PLIM_CPU_THREADS_SMALL] = {
        .name = "cpu_threads_small", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "threads",
        .default_count = 1, .low = 1, .high = 1024,
        .help = "Threads for small host-side operations: sampling, tokenising, small matrices",
        .origin = "ExLlamaV2 torch.set_num_threads(1)",
    },
    [PLIM_CPU_THREADS] = {
        .name = "cpu_threads", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "threads",
        .default_count = -1, .low = 1, .high = 1024,
        .help = "Threads for large host-side operations; auto: every core that this process may use",
        .origin = "",
    },
    [PLIM_BLAS_CORE] = {
        .name = "blas_core", .type = PLIM_TYPE_TEXT, .scope = PLIM_SCOPE_PROCESS, .unit = "", .choices = blas_cores,
        .help = "OpenBLAS core type for the process, set before the library loads; empty: leave it alone",
        .origin = "OpenBLAS OPENBLAS_CORETYPE",
    },
    [PLIM_CUDA_MODULE_LOADING] = {
        .name = "cuda_module_loading", .type = PLIM_TYPE_CHOICE, .scope = PLIM_SCOPE_PROCESS, .unit = "",
        .default_count = PLIM_CUDA_LAZY, .choices = cuda_loadings,
        .help = "Whether CUDA kernels are loaded at first use or when the process starts; unset: as the environment says",
        .origin = "ExLlamaV2 CUDA_MODULE_LOADING=LAZY", .unavailable = NO_CUDA,
    },
    [PLIM_KV_CACHE] = {
        .name = "kv_cache", .type = PLIM_TYPE_CHOICE, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .default_count = PLIM_KV_FP16, .choices = kv_caches,
        .help = "How keys and values of the tokens seen are stored",
        .origin = "ExLlamaV2 ExLlamaV2Cache, _Q8, _Q6, _Q4",
    },
    [PLIM_ATTENTION_MODE] = {
        .name = "attention_mode", .type = PLIM_TYPE_CHOICE, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .default_count = PLIM_ATTENTION_FLASH, .choices = attention_modes,
        .help = "CUDA: flash stores no scores, plain stores pieces of max_attention_size; the CPU always works in such pieces",
        .origin = "ExLlamaV2 no_flash_attn",
    },
    [PLIM_CUDA_GRAPH] = {
        .name = "cuda_graph", .type = PLIM_TYPE_SWITCH, .scope = PLIM_SCOPE_ENGINE, .unit = "",
        .default_count = 1,
        .help = "CUDA: the operations of a decoded token are recorded once and launched together; the CPU has nothing to record",
        .origin = "ExLlamaV2 no_graphs",
    },
    [PLIM_MEMORY_BUDGET] = {
        .name = "memory_budget", .type = PLIM_TYPE_COUNT, .scope = PLIM_SCOPE_ENGINE, .unit = "bytes",
        .default_count = 0, .low = 0, .high = 64 * TI,
        .help = "The pool refuses fast memory past it: a clean, attributed out-of-memory; 0: no limit",
        .origin = "",
    },
};

const struct plim_parameter_row *plim_parameter_row(enum plim_parameter parameter)
{
    return &table[parameter];
}

const char *const *plim_parameter_names(void)
{
    static const char *const names[PLIM_PARAMETER_COUNT + 1] = {
        [PLIM_BACKEND] = "backend",
        [PLIM_DEVICE] = "device",
        [PLIM_GPU_SPLIT] = "gpu_split",
        [PLIM_MAX_DQ_SIZE] = "max_dq_size",
        [PLIM_DQ_MODE] = "dq_mode",
        [PLIM_DQ_ROWS] = "dq_rows",
        [PLIM_MAX_INPUT_LEN] = "max_input_len",
        [PLIM_MAX_ATTENTION_SIZE] = "max_attention_size",
        [PLIM_LOW_MEM] = "low_mem",
        [PLIM_HESSIAN_OFFLOAD_THRESHOLD] = "hessian_offload_threshold",
        [PLIM_RELEASE_AT_BOUNDARY] = "release_at_boundary",
        [PLIM_CPU_THREADS_SMALL] = "cpu_threads_small",
        [PLIM_CPU_THREADS] = "cpu_threads",
        [PLIM_BLAS_CORE] = "blas_core",
        [PLIM_CUDA_MODULE_LOADING] = "cuda_module_loading",
        [PLIM_KV_CACHE] = "kv_cache",
        [PLIM_ATTENTION_MODE] = "attention_mode",
        [PLIM_CUDA_GRAPH] = "cuda_graph",
        [PLIM_MEMORY_BUDGET] = "memory_budget",
    };
    return names;
}

static bool same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        if (*a != *b && !(strchr("-_", *a) && strchr("-_", *b)))
            return false;
    }
    return *a == *b;
}

int plim_parameter_find(const char *name, enum plim_parameter *out, struct plim_err *err)
{
    for (enum plim_parameter p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        if (same_name(name, table[p].name)) {
            *out = p;
            return 0;
        }
    }
    const char *nearest = plim_nearest_name(name, plim_parameter_names());
    if (nearest)
        return plim_err_input(err, "unknown parameter %.80s; did you mean %s?", name, nearest);
    return plim_err_input(err, "unknown parameter %.80s; `plimsoll parameters` lists them", name);
}

const char *plim_parameters_backend(const struct plim_parameters *parameters)
{
    return backends[parameters->count[PLIM_BACKEND]];
}

void plim_parameters_default(struct plim_parameters *parameters)
{
    memset(parameters, 0, sizeof *parameters);
    for (enum plim_parameter p = 0; p < PLIM_PARAMETER_COUNT; p++)
        parameters->count[p] = table[p].default_count;
}

/* ---- setting ---- */

static int unknown_choice(const struct plim_parameter_row *row, const char *text, struct plim_err *err)
{
    char list[400] = "";
    size_t length = 0;
    const char *nearest = plim_nearest_name(text, row->choices);
    for (size_t i = 0; row->choices[i] && length < sizeof list; i++)
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%s", i ? ", " : "", row->choices[i]);
    if (nearest)
        return plim_err_input(err, "unknown value \"%.60s\"; did you mean %s?", text, nearest);
    return plim_err_input(err, "unknown value \"%.60s\"; one of: %s", text, list);
}

static int find_choice(const struct plim_parameter_row *row, const char *const *names, const char *text)
{
    for (int i = 0; names[i]; i++) {
        /* OpenBLAS doesn't look at the case of core types either. */
        if (strcmp(names[i], text) == 0 || (row->type == PLIM_TYPE_TEXT && strcasecmp(names[i], text) == 0))
            return i;
    }
    return -1;
}

static int set_count(const struct plim_parameter_row *row, const char *text, int64_t *count, struct plim_err *err)
{
    char low[24], high[24];
    int64_t value;
    if (row->default_count == -1 && strcmp(text, "auto") == 0) {
        *count = -1;
        return 0;
    }
    if (plim_parse_count(text, &value, err) < 0)
        return -1;
    if (value < row->low || value > row->high)
        return plim_err_input(err, "%s is out of range; expected %s to %s%s%s", text,
                              plim_format_count(low, sizeof low, (uint64_t)row->low),
                              plim_format_count(high, sizeof high, (uint64_t)row->high), *row->unit ? " " : "",
                              row->unit);
    *count = value;
    return 0;
}

static int set_value(struct plim_parameters *parameters, enum plim_parameter p, const char *text,
                     struct plim_err *err)
{
    const struct plim_parameter_row *row = &table[p];
    const char *const *names = row->type == PLIM_TYPE_SWITCH ? switch_names : row->choices;
    if (row->type == PLIM_TYPE_COUNT)
        return set_count(row, text, &parameters->count[p], err);
    if (row->type == PLIM_TYPE_TEXT && !*text) {
        parameters->text[p][0] = '\0';
        return 0;
    }
    if (row->check) {
        if (strlen(text) >= sizeof parameters->text[p])
            return plim_err_input(err, "\"%.60s\" is longer than %zu characters", text, sizeof parameters->text[p] - 1);
        if (row->check(text, err) < 0)
            return -1;
        snprintf(parameters->text[p], sizeof parameters->text[p], "%s", text);
        return 0;
    }
    int choice = find_choice(row, names, text);
    if (choice < 0 && row->type == PLIM_TYPE_SWITCH)
        return plim_err_input(err, "\"%.60s\" is neither on nor off", text);
    if (choice < 0)
        return unknown_choice(row, text, err);
    if (row->type == PLIM_TYPE_TEXT)
        snprintf(parameters->text[p], sizeof parameters->text[p], "%s", names[choice]);
    else
        parameters->count[p] = choice;
    return 0;
}

int plim_parameters_set(struct plim_parameters *parameters, const char *name, const char *text, struct plim_err *err)
{
    enum plim_parameter p;
    if (plim_parameter_find(name, &p, err) < 0)
        return -1;
    if (set_value(parameters, p, text, err) < 0)
        return plim_err_wrap(err, "%s", table[p].name);
    parameters->set[p] = true;
    return 0;
}

int plim_parameters_resolve(struct plim_parameters *parameters, struct plim_err *err)
{
    int64_t *count = parameters->count;
    for (enum plim_parameter p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        bool open = count[p] == -1 && table[p].default_count == -1;
        if (table[p].type == PLIM_TYPE_COUNT && !open && (count[p] < table[p].low || count[p] > table[p].high))
            return plim_err_set(err, PLIM_ERR_INTERNAL, "parameter %s holds %" PRId64 ", out of range",
                                table[p].name, count[p]);
    }
    if (count[PLIM_CPU_THREADS] == -1)
        count[PLIM_CPU_THREADS] = plim_cpu_core_count();
    if (count[PLIM_LOW_MEM]) {
        if (count[PLIM_MAX_INPUT_LEN] > LOW_MEM_INPUT_LEN)
            count[PLIM_MAX_INPUT_LEN] = LOW_MEM_INPUT_LEN;
        if (count[PLIM_MAX_ATTENTION_SIZE] > LOW_MEM_ATTENTION_SIZE)
            count[PLIM_MAX_ATTENTION_SIZE] = LOW_MEM_ATTENTION_SIZE;
    }
    return 0;
}

int plim_parameters_available(const struct plim_parameters *parameters, struct plim_err *err)
{
    for (enum plim_parameter p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        const struct plim_parameter_row *row = &table[p];
        const char *const *reasons = row->choices_unavailable;
        int64_t choice = parameters->count[p];
        if (parameters->set[p] && row->unavailable)
            return plim_err_input(err, "%s: cannot be set: %s", row->name, row->unavailable);
        if (reasons && reasons[choice])
            return plim_err_input(err, "%s: %s cannot be had: %s", row->name, row->choices[choice], reasons[choice]);
    }
    return 0;
}

/* ---- gpu_split ---- */

/* One size: plain numbers are GiB. */
static int parse_share(const char *text, uint64_t *bytes, struct plim_err *err)
{
    char *end;
    double number = strtod(text, &end);
    int64_t count;

    if (end != text && *end == '\0' && number > 0 && number <= 1 << 20) {
        *bytes = (uint64_t)(number * (double)(1 << 30));
        return 0;
    }
    if (plim_parse_count(text, &count, err) < 0)
        return -1;
    if (count == 0)
        return plim_err_input(err, "a device with no memory in it");
    *bytes = (uint64_t)count;
    return 0;
}

int plim_split_parse(const char *text, struct plim_split *out, struct plim_err *err)
{
    char piece[32];

    *out = (struct plim_split){ .automatic = strcmp(text, "auto") == 0 };
    if (out->automatic)
        return 0;
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, ",");
        bool open_end = at[length] == ',' && at[length + 1] == '\0';
        if (length == 0 || length >= sizeof piece || open_end)
            return plim_err_input(err, "\"%.60s\" is neither auto nor sizes with commas between them", text);
        if (out->count == PLIM_MOST_DEVICES)
            return plim_err_input(err, "\"%.60s\" has more than %d devices", text, PLIM_MOST_DEVICES);
        snprintf(piece, sizeof piece, "%.*s", (int)length, at);
        if (parse_share(piece, &out->bytes[out->count++], err) < 0)
            return -1;
        at += length + (at[length] == ',');
    }
    if (out->count == 0)
        out->count = 1;
    return 0;
}

/* ---- printing ---- */

/* Elements and bytes with a binary suffix where that is exact; tokens, rows and threads are plain numbers. */
static void format_count(const struct plim_parameter_row *row, int64_t count, char *buffer, size_t size)
{
    static const char *const suffixes[] = { "", "Ki", "Mi", "Gi", "Ti" };
    bool binary = strcmp(row->unit, "elements") == 0 || strcmp(row->unit, "bytes") == 0;
    size_t suffix = 0;
    while (binary && count != 0 && count % 1024 == 0 && suffix < 4) {
        count /= 1024;
        suffix++;
    }
    snprintf(buffer, size, "%" PRId64 "%s", count, suffixes[suffix]);
}

char *plim_parameters_format(const struct plim_parameters *parameters, enum plim_parameter parameter, char *buffer,
                             size_t size)
{
    const struct plim_parameter_row *row = &table[parameter];
    int64_t count = parameters->count[parameter];
    switch (row->type) {
    case PLIM_TYPE_COUNT:
        if (count < 0)
            snprintf(buffer, size, "auto");
        else
            format_count(row, count, buffer, size);
        break;
    case PLIM_TYPE_SWITCH:
        snprintf(buffer, size, "%s", switch_names[count != 0]);
        break;
    case PLIM_TYPE_CHOICE:
        snprintf(buffer, size, "%s", row->choices[count]);
        break;
    case PLIM_TYPE_TEXT:
        snprintf(buffer, size, "%s", parameters->text[parameter]);
        break;
    }
    return buffer;
}
