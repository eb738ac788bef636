/* plimsoll parameters: the table that everything follows from, printed. */

#include "verb.h"

#include <argp.h>
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "plimsoll/parameters.h"
#include "plimsoll/units.h"
#include "table.h"

enum format { FORMAT_TABLE, FORMAT_MARKDOWN, FORMAT_JSON };

enum { OPTION_MARKDOWN = 1000, OPTION_JSON };

static const struct argp_option options[] = {
    { "markdown", OPTION_MARKDOWN, NULL, 0, "Print Markdown, as in the README", 0 },
    { "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    enum format *format = state->input;

    switch (key) {
    case OPTION_MARKDOWN:
        *format = FORMAT_MARKDOWN;
        return 0;
    case OPTION_JSON:
        *format = FORMAT_JSON;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "\"%s\": no arguments are taken", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* "32 to 1 Ti", "chunked, gated", "off, on" */
static void format_range(const struct plim_parameter_row *row, char *buffer, size_t size)
{
    char low[32], high[32];
    size_t used = 0;

    buffer[0] = '\0';
    if (row->type == PLIM_TYPE_COUNT)
        snprintf(buffer, size, "%s to %s", plim_format_count(low, sizeof low, (uint64_t)row->low),
                 plim_format_count(high, sizeof high, (uint64_t)row->high));
    else if (row->type == PLIM_TYPE_SWITCH)
        snprintf(buffer, size, "off, on");
    else if (row->type == PLIM_TYPE_TEXT)
        snprintf(buffer, size, row->choices ? "a name" : "auto, sizes");
    else
        for (size_t i = 0; row->choices[i] && used < size; i++)
            used += (size_t)snprintf(buffer + used, size - used, "%s%s", i ? ", " : "", row->choices[i]);
}

static int print_table(enum format format, struct plim_err *err)
{
    struct plim_parameters defaults;
    struct table t = TABLE_INIT;
    int rc;

    plim_parameters_default(&defaults);
    table_column(&t, "parameter", TABLE_LEFT);
    table_column(&t, "default", TABLE_RIGHT);
    table_column(&t, "unit", TABLE_LEFT);
    table_column(&t, "values", TABLE_LEFT);
    table_column(&t, "what it does", TABLE_LEFT);
    for (int p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        const struct plim_parameter_row *row = plim_parameter_row((enum plim_parameter)p);
        enum text_style style = row->unavailable ? STYLE_DIM : STYLE_PLAIN;
        char value[64], range[200];

        format_range(row, range, sizeof range);
        table_cell(&t, format == FORMAT_MARKDOWN ? STYLE_CODE : style, "%s", row->name);
        table_cell(&t, style, "%s", plim_parameters_format(&defaults, (enum plim_parameter)p, value, sizeof value));
        table_cell(&t, style, "%s", row->unit);
        table_cell(&t, style, "%s", range);
        /* What this build lacks is no matter of the documentation. */
        if (row->unavailable && format != FORMAT_MARKDOWN)
            table_cell(&t, style, "%s (not yet: %s)", row->help, row->unavailable);
        else
            table_cell(&t, style, "%s", row->help);
    }
    rc = format == FORMAT_MARKDOWN ? table_print_markdown(&t, stdout, err)
                                   : table_print(&t, stdout, table_colours(stdout), err);
    table_release(&t);
    return rc;
}

static bool add_row(cJSON *list, enum plim_parameter p, const struct plim_parameters *defaults)
{
    static const char *const types[] = { "count", "switch", "choice", "text" };
    static const char *const scopes[] = { "process", "engine", "conversion" };
    const struct plim_parameter_row *row = plim_parameter_row(p);
    cJSON *object = cJSON_CreateObject();
    char value[64];

    if (!object || !cJSON_AddItemToArray(list, object))
        return false;
    plim_parameters_format(defaults, p, value, sizeof value);
    if (!cJSON_AddStringToObject(object, "name", row->name) ||
        !cJSON_AddStringToObject(object, "type", types[row->type]) ||
        !cJSON_AddStringToObject(object, "scope", scopes[row->scope]) ||
        !cJSON_AddStringToObject(object, "unit", row->unit) || !cJSON_AddStringToObject(object, "default", value) ||
        !cJSON_AddStringToObject(object, "help", row->help) || !cJSON_AddStringToObject(object, "origin", row->origin))
        return false;
    if (row->type == PLIM_TYPE_COUNT && (!cJSON_AddNumberToObject(object, "low", (double)row->low) ||
                                         !cJSON_AddNumberToObject(object, "high", (double)row->high)))
        return false;
    if (row->choices) {
        cJSON *choices = cJSON_AddArrayToObject(object, "choices");

        for (size_t i = 0; choices && row->choices[i]; i++)
            if (!cJSON_AddItemToArray(choices, cJSON_CreateString(row->choices[i])))
                return false;
    }
    return !row->unavailable || cJSON_AddStringToObject(object, "unavailable", row->unavailable);
}

static int print_json(struct plim_err *err)
{
    struct plim_parameters defaults;
    cJSON *list = cJSON_CreateArray();
    bool complete = list != NULL;
    char *text;

    plim_parameters_default(&defaults);
    for (int p = 0; complete && p < PLIM_PARAMETER_COUNT; p++)
        complete = add_row(list, (enum plim_parameter)p, &defaults);
    text = complete ? cJSON_Print(list) : NULL;
    cJSON_Delete(list);
    if (!text)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    puts(text);
    free(text);
    return 0;
}

int verb_parameters(int argc, char **argv)
{
    static const struct argp argp = {
        options, parse_option, NULL,
        "Lists the parameters: every one is a flag of `generate` and `perplexity` (--max-dq-size 64Mi), and can be fixed and "
        "swept in suites.", NULL, NULL, NULL
    };
    enum format format = FORMAT_TABLE;
    struct plim_err err = PLIM_ERR_INIT;

    argp_parse(&argp, argc, argv, 0, NULL, &format);
    if ((format == FORMAT_JSON ? print_json(&err) : print_table(format, &err)) < 0) {
        fprintf(stderr, "plimsoll: %s\n", err.message);
        return plim_err_exit_status(&err);
    }
    return 0;
}
