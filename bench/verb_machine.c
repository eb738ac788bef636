/* plimsoll machine: what this machine is and what it can do at best. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"
#include "fingerprint.h"
#include "interrupt.h"
#include "plimsoll/process.h"
#include "table.h"

enum { OPTION_JSON = 1000, OPTION_FACTS };

struct arguments {
    bool json, facts_only;
};

static const struct argp_option options[] = {
    { "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
    { "facts", OPTION_FACTS, NULL, 0, "Only the facts, without measuring yardsticks", 0 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case OPTION_JSON:
        a->json = true;
        return 0;
    case OPTION_FACTS:
        a->facts_only = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "\"%s\": no arguments are taken", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The unit that a fact's name ends with. */
static const char *unit_of(const char *name)
{
    static const char *const suffixes[][2] = { { "_flops_per_s", "flop/s" }, { "_bytes_per_s", "bytes/s" },
                                               { "_bytes", "bytes" }, { "_gib", "GiB" }, { "_mhz", "MHz" } };
    size_t length = strlen(name);

    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t n = strlen(suffixes[i][0]);

        if (length > n && strcmp(name + length - n, suffixes[i][0]) == 0)
            return suffixes[i][1];
    }
    return "";
}

static void add_facts(struct table *t, const struct facts *facts)
{
    for (size_t i = 0; i < facts->count; i++) {
        const struct fact *fact = &facts->items[i];
        char value[40];

        table_cell(t, STYLE_PLAIN, "%s", fact->name);
        table_cell(t, STYLE_PLAIN, "%s",
                   fact->text ? fact->text : format_value(value, sizeof value, fact->number, unit_of(fact->name)));
    }
}

static int print_table(const struct result *machine, struct plim_err *err)
{
    struct table t = TABLE_INIT;
    int rc;

    table_column(&t, "machine", TABLE_LEFT);
    table_column(&t, machine->machine_class, TABLE_LEFT);
    add_facts(&t, &machine->machine);
    add_facts(&t, &machine->recorded);
    add_facts(&t, &machine->yardsticks);
    rc = table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

static bool add_object(cJSON *root, const char *name, const struct facts *facts)
{
    cJSON *object = cJSON_AddObjectToObject(root, name);

    for (size_t i = 0; object && i < facts->count; i++) {
        const struct fact *fact = &facts->items[i];

        if (!(fact->text ? cJSON_AddStringToObject(object, fact->name, fact->text)
                         : cJSON_AddNumberToObject(object, fact->name, fact->number)))
            return false;
    }
    return object != NULL;
}

static int print_json(const struct result *machine, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    char *text = NULL;

    if (root && cJSON_AddStringToObject(root, "class", machine->machine_class) &&
        add_object(root, "facts", &machine->machine) && add_object(root, "recorded", &machine->recorded) &&
        add_object(root, "yardsticks", &machine->yardsticks))
        text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

static int describe(const struct arguments *a, struct plim_err *err)
{
    struct result machine = { 0 };
    struct process_executor processes = { 0 };
    struct executor executor = process_executor(&processes);
    char *program = plim_self_path(err);
    int rc = -1;

    processes.program = program;
    if (!program || interrupt_install(err) < 0 ||
        executor.describe_machine(executor.context, !a->facts_only, &machine, err) < 0 ||
        !(machine.machine_class = fingerprint_class(&machine.machine, err)))
        goto out;
    rc = a->json ? print_json(&machine, err) : print_table(&machine, err);

out:
    result_release(&machine);
    free(program);
    return rc;
}

int verb_machine(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, NULL,
        "Describes this machine as results do, and measures what it can do at best: read bandwidth, multiply-adds and sgemm, "
        "with one thread (_1_) and with all cores.", NULL, NULL, NULL
    };
    struct arguments a = { 0 };
    struct plim_err err = PLIM_ERR_INIT;

    argp_parse(&argp, argc, argv, 0, NULL, &a);
    if (describe(&a, &err) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
