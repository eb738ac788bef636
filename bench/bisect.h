#ifndef PLIM_BISECT_H
#define PLIM_BISECT_H

/*
 * Which of a row of commits was the first bad one, asking about as few as possible. Commits that cannot be judged (they
 * do not build) are stepped around; what is left undecided for that is said.
 */

#include <stddef.h>

#include "plimsoll/err.h"

enum bisect_answer { BISECT_GOOD, BISECT_BAD, BISECT_SKIP };

/* Judges commit `index`. -1 with `err` ends the search. */
typedef int bisect_judge(void *context, size_t index, enum bisect_answer *answer, struct plim_err *err);

struct bisect_outcome {
    size_t first, last;    /* the change is in one of these; first == last: this one */
    size_t asked;
};

/* Commits 0 .. count-1, count >= 1, oldest first: what lies before 0 is known to be good, count-1 to be bad. */
int bisect_search(size_t count, bisect_judge *judge, void *context, struct bisect_outcome *outcome,
                  struct plim_err *err);

#endif
