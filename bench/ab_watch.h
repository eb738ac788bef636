#ifndef PLIM_AB_WATCH_H
#define PLIM_AB_WATCH_H

/*
 * Whether the machine was ours while a pair was measured: other programs, a hypervisor that took the processor away,
 * throttling by heat. Such pairs are measured again, up to a cap. Being slow is no disturbance.
 */

#include <stdbool.h>
#include <stddef.h>

struct ab_watch {
    void (*begin)(void *context);
    /* Whether there was a disturbance since begin; `why` says which. */
    bool (*end)(void *context, char *why, size_t size);
    void *context;
};

/* ---- this machine ---- */

struct machine_use {
    double wall_s;
    double busy_s, stolen_s;      /* of all cores */
    double ours_s;                /* processor time of this process and its ended children */
    long throttled;               /* times that a core was throttled by heat; 0 where unknown */
};

struct machine_watch {
    struct machine_use before;
    int cores;
};

/* Looks at /proc/stat, our own usage, and the thermal counters. */
struct machine_use machine_use_now(int cores);

struct ab_watch machine_watch(struct machine_watch *state);

/* The rule itself. */
bool machine_was_disturbed(const struct machine_use *before, const struct machine_use *after, int cores, char *why,
                           size_t size);

#endif
