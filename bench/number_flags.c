#include "number_flags.h"

#include <math.h>
#include <stdlib.h>

#include "plimsoll/units.h"

int64_t flag_count(struct argp_state *state, const char *flag, const char *text, int64_t low, int64_t high)
{
    struct plim_err err = PLIM_ERR_INIT;
    int64_t count = 0;

    if (plim_parse_count(text, &count, &err) < 0)
        argp_error(state, "%s: %s", flag, err.message);
    if (count < low || count > high)
        argp_error(state, "%s is %s; wanted %lld to %lld", flag, text, (long long)low, (long long)high);
    return count;
}

double flag_number(struct argp_state *state, const char *flag, const char *text)
{
    char *end;
    double number = strtod(text, &end);

    if (end == text || *end || !isfinite(number))
        argp_error(state, "%s is \"%s\"; wanted a number", flag, text);
    return number;
}
