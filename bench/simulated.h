#ifndef PLIM_SIMULATED_H
#define PLIM_SIMULATED_H

/*
 * A simulated machine on which the spin workload "runs": an executor that makes up timings from a noise model and
 * counts memory exactly. Obeys controls as a worker does. Time passes there, on a clock of its own, while processes run.
 */

#include <stdint.h>

#include "executor.h"
#include "noise.h"

struct simulated {
    struct noise noise;
    uint64_t runs;           /* processes "started" */
    uint64_t process_ns;     /* how long each takes */
};

/* Both builds of an A/B run, and the controls, share one machine. */
struct executor simulated_executor(struct simulated *machine);

/* For plim_clock_replace, with the machine as its context. */
uint64_t simulated_now_ns(void *machine);

#endif
