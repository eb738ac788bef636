#ifndef PLIM_FLAG_TABLE_H
#define PLIM_FLAG_TABLE_H

/*
 * A verb's flags as a table: each row says what --help says, and which field of the verb's arguments the flag fills.
 *
 *     static const struct flag options[] = {
 *         { "rounds", "N", "Times that each size is run (default: 7)", FLAG_FIELD(struct arguments, rounds),
 *           .low = 3, .high = 1000 },
 *         { "json", NULL, "Print JSON", FLAG_FIELD(struct arguments, json) },
 *         { 0 }
 *     };
 *     struct argp_option listed[FLAG_LIMIT];
 *     struct argp argp = { flag_options(options, listed), parse, ... };   // default: return flag_parse(options, ...)
 *
 * What a row can't say, such as a name out of several, has a key of its own and no field, and the verb's parser takes it
 * before. The arguments are argp's input.
 */

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

#define FLAG_LIMIT 24

/* What a flag puts into its field; the field's type decides. */
enum flag_kind { FLAG_OWN, FLAG_ON, FLAG_VALUE, FLAG_TEXT, FLAG_INT, FLAG_INT64, FLAG_NUMBER };

struct flag {
    const char *name;       /* without dashes */
    const char *argument;   /* NULL: takes none */
    const char *help;
    enum flag_kind kind;
    size_t offset;
    unsigned value;         /* what an enum or a set of bits becomes */
    int64_t low, high;      /* of counts, in units */
    int64_t unit;           /* what a count is multiplied with; 0: 1 */
    int key;                /* a letter: -o; 0: none */
    int group;              /* of --help */
};

/* size_t and uint64_t are one type where this runs. */
#define FLAG_FIELD(type, field)                                                                                        \
    .kind = _Generic(((type *)NULL)->field, bool: FLAG_ON, unsigned: FLAG_VALUE, const char *: FLAG_TEXT,              \
                     int: FLAG_INT, int64_t: FLAG_INT64, uint64_t: FLAG_INT64, double: FLAG_NUMBER),                   \
    .offset = offsetof(type, field)

/* Fills `options` for argp, and returns it. */
const struct argp_option *flag_options(const struct flag *flags, struct argp_option options[FLAG_LIMIT]);

/* One flag, as argp's parser gets it. ARGP_ERR_UNKNOWN when no row has it; does not return for a bad value. */
error_t flag_parse(const struct flag *flags, int key, char *text, struct argp_state *state);

/* The verb's one positional argument, called `what`; does not return for a second one. */
void flag_only_argument(struct argp_state *state, const char **argument, const char *what, const char *text);

/* The end of a verb: says what failed when `status` is negative, and returns the program's exit status. */
int verb_status(int status, const struct plim_err *err);

#endif
