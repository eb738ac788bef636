#ifndef PLIM_SIMULATED_H
#define PLIM_SIMULATED_H

/*
 * A simulated machine on which the spin workload "runs": an executor that makes up timings from a noise model, or takes
 * them from the record of a real machine, and counts memory exactly. Obeys controls as a worker does. Time passes there, on
 * a clock of its own, while processes run.
 */

#include <stdint.h>

#include "ab_watch.h"
#include "executor.h"
#include "noise.h"
#include "replay.h"

struct simulated {
    struct noise noise;
    struct replay replay;    /* without a recording the model makes noise */
    uint64_t process_ns;     /* how long each takes; replayed ones take as long as they did */
    uint64_t now_ns;
};

/* Both builds of an A/B run, and the controls, share one machine. */
struct executor simulated_executor(struct simulated *machine);

/* The watch of real runs, looking at what was recorded with each pair. Nothing disturbs a machine that is made up. */
struct ab_watch simulated_watch(struct simulated *machine);

/* For plim_clock_replace, with the machine as its context. */
uint64_t simulated_now_ns(void *machine);

#endif
