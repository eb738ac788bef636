#ifndef PLIM_REPLAY_H
#define PLIM_REPLAY_H

/*
 * A recorded machine's pairs once more, in blocks of neighbours from anywhere in the record, drawn with replacement: the moving
 * block bootstrap (Kuensch, "The Jackknife and the Bootstrap for General Stationary Observations", 1989). Pairs are never
 * taken apart.
 */

#include <stdbool.h>
#include <stdint.h>

#include "plimsoll/random.h"
#include "recording.h"

#define REPLAY_BLOCK 32   /* pairs: many times as long as one remembers the one before */

struct replay {
    const struct recording *recording;   /* borrowed */
    struct plim_random random;
    size_t pair, left;                   /* the one that is being replayed, and how many more of its block */
    bool between;                        /* its first process is over, and not its second */
};

void replay_start(struct replay *replay, const struct recording *recording, uint64_t seed, uint64_t session);

/* The logarithm of the next process's time, and how long it took with all around it: half of its pair. */
double replay_next(struct replay *replay, uint64_t *process_ns);

/* Whether the machine was disturbed during the pair that ended last, by the rule of real runs. */
bool replay_was_disturbed(const struct replay *replay, char *why, size_t size);

#endif
