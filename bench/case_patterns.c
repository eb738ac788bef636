#include "case_patterns.h"

#include <fnmatch.h>

bool case_patterns_add(struct case_patterns *patterns, const char *pattern)
{
    if (patterns->count == CASE_PATTERN_LIMIT)
        return false;
    patterns->items[patterns->count++] = pattern;
    return true;
}

bool case_patterns_match(const struct case_patterns *patterns, const struct suite_case *c)
{
    for (size_t i = 0; i < patterns->count; i++)
        if (fnmatch(patterns->items[i], c->id, 0) == 0)
            return true;
    return patterns->count == 0;
}

size_t case_patterns_count(const struct case_patterns *patterns, const struct suite *suite)
{
    size_t count = 0;

    for (size_t i = 0; i < suite->case_count; i++)
        count += case_patterns_match(patterns, &suite->cases[i]);
    return count;
}

int case_patterns_check(const struct case_patterns *patterns, const struct suite *suite, struct plim_err *err)
{
    for (size_t i = 0; i < patterns->count; i++) {
        struct case_patterns one = { { patterns->items[i] }, 1 };

        if (case_patterns_count(&one, suite) == 0)
            return plim_err_input(err, "no case of suite %s matches \"%s\"; `plimsoll run %s --list` shows their ids",
                                  suite->name, patterns->items[i], suite->path ? suite->path : suite->name);
    }
    return 0;
}
