#include "flag_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number_flags.h"

_Static_assert(sizeof(size_t) == sizeof(uint64_t), "FLAG_INT64 fills a size_t");

/* Long flags without a letter have keys beyond all characters. */
#define FIRST_KEY 2000

static int key_of(const struct flag *flags, size_t i)
{
    return flags[i].key ? flags[i].key : FIRST_KEY + (int)i;
}

const struct argp_option *flag_options(const struct flag *flags, struct argp_option options[FLAG_LIMIT])
{
    size_t i;

    for (i = 0; flags[i].name && i < FLAG_LIMIT - 1; i++)
        options[i] = (struct argp_option){ flags[i].name, key_of(flags, i), flags[i].argument, 0, flags[i].help,
                                           flags[i].group };
    options[i] = (struct argp_option){ 0 };
    return options;
}

static void fill(const struct flag *flag, void *field, char *text, struct argp_state *state)
{
    char name[48];
    int64_t count = 0;

    snprintf(name, sizeof name, "--%s", flag->name);
    if (flag->kind == FLAG_INT || flag->kind == FLAG_INT64)
        count = flag_count(state, name, text, flag->low, flag->high) * (flag->unit ? flag->unit : 1);
    switch (flag->kind) {
    case FLAG_ON: *(bool *)field = true; break;
    case FLAG_VALUE: *(unsigned *)field = flag->value; break;
    case FLAG_TEXT: *(const char **)field = text; break;
    case FLAG_INT: *(int *)field = (int)count; break;
    case FLAG_INT64: memcpy(field, &count, sizeof count); break;
    case FLAG_NUMBER: *(double *)field = flag_number(state, name, text); break;
    case FLAG_OWN: break;
    }
}

error_t flag_parse(const struct flag *flags, int key, char *text, struct argp_state *state)
{
    for (size_t i = 0; flags[i].name; i++) {
        if (key_of(flags, i) != key || flags[i].kind == FLAG_OWN)
            continue;
        fill(&flags[i], (char *)state->input + flags[i].offset, text, state);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

void flag_only_argument(struct argp_state *state, const char **argument, const char *what, const char *text)
{
    if (*argument)
        argp_error(state, "one %s at a time: \"%s\" is a second", what, text);
    *argument = text;
}

int verb_status(int status, const struct plim_err *err)
{
    if (status >= 0)
        return status;
    fprintf(stderr, "plimsoll: %s\n", err->message);
    return plim_err_exit_status(err);
}
