#include "replay.h"

#include "plimsoll/units.h"

void replay_start(struct replay *replay, const struct recording *recording, uint64_t seed, uint64_t session)
{
    *replay = (struct replay){ .recording = recording };
    plim_random_seed(&replay->random, seed, session);
}

static void next_pair(struct replay *replay)
{
    size_t block = plim_min(REPLAY_BLOCK, replay->recording->count);

    if (replay->left == 0) {
        replay->pair = (size_t)plim_random_below(&replay->random, replay->recording->count - block + 1);
        replay->left = block;
    } else {
        replay->pair++;
    }
    replay->left--;
}

double replay_next(struct replay *replay, uint64_t *process_ns)
{
    const struct recorded_pair *pair;

    if (!replay->between)
        next_pair(replay);
    pair = &replay->recording->pairs[replay->pair];
    *process_ns = (uint64_t)(0.5e9 * (pair->after.wall_s - pair->before.wall_s));
    replay->between = !replay->between;
    return pair->values[replay->between ? 0 : 1];
}

bool replay_was_disturbed(const struct replay *replay, char *why, size_t size)
{
    return recording_disturbed(replay->recording, replay->pair, why, size);
}
