#ifndef PLIM_NUMBER_FLAGS_H
#define PLIM_NUMBER_FLAGS_H

/* Numbers given to flags: parsed whole, checked against a range, refused through argp with the flag's name. */

#include <argp.h>
#include <stdint.h>

/* A count such as 512 or 4Ki within [low, high]. Does not return when it is not. */
int64_t flag_count(struct argp_state *state, const char *flag, const char *text, int64_t low, int64_t high);

/* A finite number; ranges are checked by whoever it is for. */
double flag_number(struct argp_state *state, const char *flag, const char *text);

#endif
