#ifndef PLIM_PARAMETER_FLAGS_H
#define PLIM_PARAMETER_FLAGS_H

/*
 * Every engine parameter as a command-line flag, read from the table: max_dq_size is --max-dq-size.
 *
 *     struct parameter_flags flags;
 *     parameter_flags_init(&flags);
 *     struct argp argp = { ..., .children = flags.children };
 *     argp_parse(&argp, argc, argv, 0, NULL, &a);   // at ARGP_KEY_INIT: state->child_inputs[0] = &flags
 *     if (parameter_flags_resolve(&flags, argv, &err) < 0) ...
 */

#include <argp.h>

#include "plimsoll/parameters.h"

struct parameter_flags {
    struct plim_parameters parameters;
    struct argp_option options[PLIM_PARAMETER_COUNT + 1];
    char names[PLIM_PARAMETER_COUNT][40];
    struct argp argp;
    struct argp_child children[2];
};

void parameter_flags_init(struct parameter_flags *flags);

/*
 * Resolves the parameters. Those that must be known before the process loads its libraries are put into the environment,
 * and the program starts itself again with it: then this does not return.
 */
int parameter_flags_resolve(struct parameter_flags *flags, char **argv, struct plim_err *err);

#endif
