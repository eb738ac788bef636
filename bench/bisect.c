#include "bisect.h"

#include <stdbool.h>
#include <stdlib.h>

#include "heap.h"

/* The commit nearest to the middle of low .. high-1 that was not skipped; `high` when there is none. */
static size_t choose(const bool *skipped, size_t low, size_t high)
{
    size_t middle = low + (high - low) / 2;
    for (size_t distance = 0; distance < high - low; distance++) {
        if (middle >= low + distance && !skipped[middle - distance])
            return middle - distance;
        if (middle + distance < high && !skipped[middle + distance])
            return middle + distance;
    }
    return high;
}

int bisect_search(size_t count, bisect_judge *judge, void *context, struct bisect_outcome *outcome,
                  struct plim_err *err)
{
    bool *skipped = heap_calloc(count, sizeof *skipped, err);
    size_t low = 0, high = count - 1, at;   /* before low all is good, at high it is bad */
    int rc = skipped ? 0 : -1;
    *outcome = (struct bisect_outcome){ 0 };
    while (rc == 0 && low < high && (at = choose(skipped, low, high)) < high) {
        enum bisect_answer answer = BISECT_SKIP;
        rc = judge(context, at, &answer, err);
        outcome->asked++;
        if (answer == BISECT_GOOD)
            low = at + 1;
        else if (answer == BISECT_BAD)
            high = at;
        else
            skipped[at] = true;
    }
    outcome->first = low;
    outcome->last = high;
    free(skipped);
    return rc;
}
