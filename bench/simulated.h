#ifndef PLIM_SIMULATED_H
#define PLIM_SIMULATED_H

/*
 * A simulated machine on which the spin workload "runs": an executor that makes up timings from a noise model and
 * counts memory exactly. Obeys controls as a worker does.
 */

#include "executor.h"
#include "noise.h"

struct simulated {
    struct noise noise;
    uint64_t runs;           /* processes "started" */
};

/* Both builds of an A/B run, and the controls, share one machine. */
struct executor simulated_executor(struct simulated *machine);

#endif
