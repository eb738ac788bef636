#include "parameter_flags.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap.h"
#include "plimsoll/process.h"

#define FIRST_KEY 5000

static error_t parse_flag(int key, char *text, struct argp_state *state)
{
    struct parameter_flags *flags = state->input;
    struct plim_err err = PLIM_ERR_INIT;
    int parameter = key - FIRST_KEY;

    if (parameter < 0 || parameter >= PLIM_PARAMETER_COUNT)
        return ARGP_ERR_UNKNOWN;
    if (plim_parameters_set(&flags->parameters, plim_parameter_row((enum plim_parameter)parameter)->name, text, &err) < 0)
        argp_error(state, "%s", err.message);
    return 0;
}

static const char *value_name(const struct plim_parameter_row *row)
{
    switch (row->type) {
    case PLIM_TYPE_COUNT:
        return "N";
    case PLIM_TYPE_SWITCH:
        return "on|off";
    case PLIM_TYPE_CHOICE:
    case PLIM_TYPE_TEXT:
        break;
    }
    return "NAME";
}

void parameter_flags_init(struct parameter_flags *flags)
{
    *flags = (struct parameter_flags){ 0 };
    plim_parameters_default(&flags->parameters);
    for (int p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        const struct plim_parameter_row *row = plim_parameter_row((enum plim_parameter)p);
        char *name = flags->names[p];

        snprintf(name, sizeof flags->names[p], "%s", row->name);
        for (char *c = name; *c; c++)
            if (*c == '_')
                *c = '-';
        flags->options[p] = (struct argp_option){ .name = name, .key = FIRST_KEY + p, .arg = value_name(row),
                                                  .doc = row->help, .group = 10 };
    }
    flags->argp = (struct argp){ .options = flags->options, .parser = parse_flag };
    flags->children[0] = (struct argp_child){ &flags->argp, 0, "Engine parameters (plimsoll parameters):", 10 };
}

/* True when `name` was not `value` in the environment and now is. */
static bool changes_environment(const char *name, const char *value)
{
    const char *before = getenv(name);

    return (!before || strcmp(before, value) != 0) && setenv(name, value, 1) == 0;
}

static int start_again(char **argv, struct plim_err *err)
{
    char *program = plim_self_path(err);
    size_t count = 0;
    char **again;

    if (!program)
        return -1;
    while (argv[count])
        count++;
    again = heap_calloc(count + 2, sizeof *again, err);
    if (again) {
        /* argv[0] is "plimsoll VERB" here. */
        again[0] = program;
        again[1] = strchr(argv[0], ' ') ? strchr(argv[0], ' ') + 1 : argv[0];
        memcpy(again + 2, argv + 1, (count - 1) * sizeof *again);
        execv(program, again);
        plim_err_errno(err, "starting %s again", program);
    }
    free(again);
    free(program);
    return -1;
}

int parameter_flags_resolve(struct parameter_flags *flags, char **argv, struct plim_err *err)
{
    const struct plim_parameters *p = &flags->parameters;
    bool again = false;

    if (plim_parameters_available(p, err) < 0 || plim_parameters_resolve(&flags->parameters, err) < 0)
        return -1;
    if (*p->text[PLIM_BLAS_CORE])
        again |= changes_environment("OPENBLAS_CORETYPE", p->text[PLIM_BLAS_CORE]);
    if (p->set[PLIM_CUDA_MODULE_LOADING] && p->count[PLIM_CUDA_MODULE_LOADING] != PLIM_CUDA_UNSET)
        again |= changes_environment("CUDA_MODULE_LOADING",
                                     p->count[PLIM_CUDA_MODULE_LOADING] == PLIM_CUDA_EAGER ? "EAGER" : "LAZY");
    return again ? start_again(argv, err) : 0;
}
