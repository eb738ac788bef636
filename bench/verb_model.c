/* plimsoll model make|info: synthetic models, and what a model is. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number_flags.h"
#include "plimsoll/engine.h"
#include "plimsoll/json.h"
#include "plimsoll/synthetic.h"
#include "plimsoll/units.h"
#include "table.h"

enum { OPTION_PRESET = 1000, OPTION_LAYERS, OPTION_FORMAT, OPTION_BPW, OPTION_HEAD_BITS, OPTION_SEED, OPTION_LIST,
       OPTION_QUIET, OPTION_JSON };

/* ---- make ---- */

struct make_arguments {
    const char *directory;
    bool list, quiet;
    struct plim_synthetic make;
};

static const struct argp_option make_options[] = {
    { "preset", OPTION_PRESET, "NAME", 0, "The public model whose shape it has (--list)", 0 },
    { "layers", OPTION_LAYERS, "N", 0, "Decoder layers (default: the preset's own)", 0 },
    { "format", OPTION_FORMAT, "FORMAT", 0, "exl2 (default) or dense", 0 },
    { "bpw", OPTION_BPW, "B", 0, "EXL2: bits per weight, 2.3 to 8.1 (default: 4.0)", 0 },
    { "head-bits", OPTION_HEAD_BITS, "B", 0, "EXL2: bits of the output head: 2, 3, 4, 5, 6 or 8 (default: 6)", 0 },
    { "seed", OPTION_SEED, "N", 0, "The same seed gives the same bytes on every machine (default: 1)", 0 },
    { "list", OPTION_LIST, NULL, 0, "List the presets", 0 },
    { "quiet", 'q', NULL, 0, "No progress", 0 },
    { 0 }
};

static const char *find_preset(struct argp_state *state, const char *name)
{
    const struct plim_synthetic_preset *presets = plim_synthetic_presets();
    const char *names[64] = { NULL };
    const char *nearest;

    for (size_t i = 0; presets[i].name && i < 63; i++) {
        if (strcmp(presets[i].name, name) == 0)
            return presets[i].name;
        names[i] = presets[i].name;
    }
    nearest = plim_nearest_name(name, names);
    if (nearest)
        argp_error(state, "unknown preset \"%s\"; did you mean %s?", name, nearest);
    else
        argp_error(state, "unknown preset \"%s\"; --list shows them", name);
    return NULL;
}

static error_t parse_make(int key, char *text, struct argp_state *state)
{
    struct make_arguments *a = state->input;

    switch (key) {
    case OPTION_PRESET:
        a->make.preset = find_preset(state, text);
        return 0;
    case OPTION_LAYERS:
        a->make.layers = flag_count(state, "--layers", text, 1, 1000);
        return 0;
    case OPTION_FORMAT:
        if (strcmp(text, "exl2") != 0 && strcmp(text, "dense") != 0)
            argp_error(state, "--format is \"%s\"; wanted exl2 or dense", text);
        a->make.exl2 = text[0] == 'e';
        return 0;
    case OPTION_BPW:
        a->make.bits_per_weight = flag_number(state, "--bpw", text);
        if (!(a->make.bits_per_weight >= 2.3 && a->make.bits_per_weight <= 8.1))
            argp_error(state, "--bpw is %s; wanted 2.3 to 8.1", text);
        return 0;
    case OPTION_HEAD_BITS:
        a->make.head_bits = (int)flag_count(state, "--head-bits", text, 2, 8);
        if (a->make.head_bits == 7)
            argp_error(state, "--head-bits is 7; wanted 2, 3, 4, 5, 6 or 8");
        return 0;
    case OPTION_SEED:
        a->make.seed = (uint64_t)flag_count(state, "--seed", text, 0, (int64_t)1 << 53);
        return 0;
    case OPTION_LIST:
        a->list = true;
        return 0;
    case 'q':
        a->quiet = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->directory)
            argp_error(state, "one directory at a time: \"%s\" is a second", text);
        a->directory = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->list && (!a->directory || !a->make.preset))
            argp_error(state, "--preset NAME and a directory are needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int list_presets(struct plim_err *err)
{
    const struct plim_synthetic_preset *presets = plim_synthetic_presets();
    struct table t = TABLE_INIT;
    int rc;

    table_column(&t, "preset", TABLE_LEFT);
    table_column(&t, "shape of", TABLE_LEFT);
    for (size_t i = 0; presets[i].name; i++) {
        table_cell(&t, STYLE_PLAIN, "%s", presets[i].name);
        table_cell(&t, STYLE_PLAIN, "%s", presets[i].description);
    }
    rc = table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

static int make(int argc, char **argv, struct plim_err *err)
{
    static const struct argp argp = {
        make_options, parse_make, "DIRECTORY",
        "Makes a synthetic model: the shape of a public one, weights with the statistics of real ones.", NULL, NULL, NULL
    };
    struct make_arguments a = { .make = { .exl2 = true, .bits_per_weight = 4.0, .head_bits = 6, .seed = 1 } };
    struct plim_progress progress;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (a.list)
        return list_presets(err);
    if (!a.quiet) {
        plim_progress_start(&progress, stderr, a.make.preset, "tensors", 0);
        a.make.progress = &progress;
    }
    return plim_synthetic_make(&a.make, a.directory, err);
}

/* ---- info ---- */

struct info_arguments {
    const char *directory;
    bool json;
};

static const struct argp_option info_options[] = {
    { "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
    { 0 }
};

static error_t parse_info(int key, char *text, struct argp_state *state)
{
    struct info_arguments *a = state->input;

    switch (key) {
    case OPTION_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        if (a->directory)
            argp_error(state, "one directory at a time: \"%s\" is a second", text);
        a->directory = text;
        return 0;
    case ARGP_KEY_END:
        if (!a->directory)
            argp_error(state, "a model directory is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* What is printed, in order: numbers with their unit. */
struct property {
    const char *name, *unit;
    double value;
};

enum { PROPERTY_COUNT = 15 };

static void list_properties(const struct plim_model_info *i, struct property properties[PROPERTY_COUNT])
{
    const struct property list[PROPERTY_COUNT] = {
        { "layers", "", (double)i->layer_count },
        { "hidden_size", "", (double)i->hidden_size },
        { "intermediate_size", "", (double)i->intermediate_size },
        { "heads", "", (double)i->head_count },
        { "kv_heads", "", (double)i->kv_head_count },
        { "head_dim", "", (double)i->head_dim },
        { "vocab_size", "", (double)i->vocab_size },
        { "max_positions", "", (double)i->max_positions },
        { "layer_parameters", "", (double)i->layer_parameters },
        { "head_parameters", "", (double)i->head_parameters },
        { "layer_bits_per_weight", "", i->layer_bits_per_weight },
        { "head_bits_per_weight", "", i->head_bits_per_weight },
        { "layer_weight_bytes", "bytes", (double)i->layer_weight_bytes },
        { "head_weight_bytes", "bytes", (double)i->head_weight_bytes },
        { "file_bytes", "bytes", (double)i->file_bytes },
    };

    memcpy(properties, list, sizeof list);
}

static int print_info(const struct plim_model_info *info, struct plim_err *err)
{
    struct property properties[PROPERTY_COUNT];
    struct table t = TABLE_INIT;
    int rc;

    list_properties(info, properties);
    table_column(&t, "architecture", TABLE_LEFT);
    table_column(&t, info->architecture, TABLE_RIGHT);
    table_cell(&t, STYLE_PLAIN, "format");
    table_cell(&t, STYLE_PLAIN, "%s", info->is_exl2 ? "EXL2" : "dense");
    for (size_t i = 0; i < PROPERTY_COUNT; i++) {
        char text[40];

        table_cell(&t, STYLE_PLAIN, "%s", properties[i].name);
        table_cell(&t, STYLE_PLAIN, "%s", format_value(text, sizeof text, properties[i].value, properties[i].unit));
    }
    rc = table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

static int print_info_json(const struct plim_model_info *info, struct plim_err *err)
{
    struct property properties[PROPERTY_COUNT];
    cJSON *root = cJSON_CreateObject();
    bool complete = root && cJSON_AddStringToObject(root, "architecture", info->architecture) &&
                    cJSON_AddStringToObject(root, "format", info->is_exl2 ? "exl2" : "dense");
    char *text;

    list_properties(info, properties);
    for (size_t i = 0; complete && i < PROPERTY_COUNT; i++)
        complete = cJSON_AddNumberToObject(root, properties[i].name, properties[i].value) != NULL;
    text = complete ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

static int info(int argc, char **argv, struct plim_err *err)
{
    static const struct argp argp = { info_options, parse_info, "DIRECTORY",
                                      "Shows shapes, bits and sizes of a model, from its files' headers.", NULL, NULL, NULL };
    struct info_arguments a = { 0 };
    struct plim_model_info model;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (plim_model_inspect(a.directory, &model, err) < 0)
        return -1;
    return a.json ? print_info_json(&model, err) : print_info(&model, err);
}

/* ---- which ---- */

static const char help[] =
    "Usage: plimsoll model make --preset NAME [--layers N] [--format exl2|dense] [--bpw B] [--seed S] DIRECTORY\n"
    "  or:  plimsoll model info DIRECTORY\n"
    "Makes synthetic models, and shows what a model is. `plimsoll model make --help` tells more; tools/fetch-model gets a "
    "real one.\n";

int verb_model(int argc, char **argv)
{
    static const char *const names[] = { "make", "info", NULL };
    struct plim_err err = PLIM_ERR_INIT;
    const char *name = argc > 1 ? argv[1] : "--help";
    char title[64];
    int rc;

    if (strcmp(name, "--help") == 0 || strcmp(name, "-?") == 0) {
        fputs(help, argc > 1 ? stdout : stderr);
        return argc > 1 ? 0 : 2;
    }
    if (strcmp(name, "make") != 0 && strcmp(name, "info") != 0) {
        const char *nearest = plim_nearest_name(name, names);

        fprintf(stderr, "plimsoll: unknown verb \"model %s\"; did you mean model %s?\n", name, nearest ? nearest : "info");
        return 2;
    }
    snprintf(title, sizeof title, "plimsoll model %s", name);
    argv[1] = title;
    rc = strcmp(name, "make") == 0 ? make(argc - 1, argv + 1, &err) : info(argc - 1, argv + 1, &err);
    if (rc < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
