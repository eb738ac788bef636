#ifndef PLIM_CASE_PATTERNS_H
#define PLIM_CASE_PATTERNS_H

/*
 * Which cases of a suite: those whose id matches one of some patterns (fnmatch), as --case gives them; all without any.
 *
 *     struct case_patterns chosen = { 0 };
 *     case_patterns_add(&chosen, "tiny-*");         // false when there are too many
 *     if (case_patterns_check(&chosen, &suite, &err) < 0)
 *         ...                                       // a pattern that matches nothing is a mistake
 */

#include <stdbool.h>
#include <stddef.h>

#include "suite.h"

#define CASE_PATTERN_LIMIT 32

struct case_patterns {
    const char *items[CASE_PATTERN_LIMIT];   /* borrowed */
    size_t count;
};

bool case_patterns_add(struct case_patterns *patterns, const char *pattern);

bool case_patterns_match(const struct case_patterns *patterns, const struct suite_case *c);
size_t case_patterns_count(const struct case_patterns *patterns, const struct suite *suite);

/* Every pattern must match some case of the suite, else an error of kind input. */
int case_patterns_check(const struct case_patterns *patterns, const struct suite *suite, struct plim_err *err);

#endif
