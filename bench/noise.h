#ifndef PLIM_NOISE_H
#define PLIM_NOISE_H

/*
 * Simulated noise of timings, for testing a gate: the logarithm of a time is the sum of
 *
 *     a session's offset          one for all measurements of a session: which machine, which neighbours
 *     drift                       AR(1) over the measurements: temperature, load that comes and goes
 *     independent noise
 *     a process's offset          where its memory came to lie
 *     now and then a slow spike   exponentially distributed, never fast
 *
 * Drift goes on from measurement to measurement, whatever case they are of.
 */

#include <stddef.h>

#include "plimsoll/random.h"

struct noise_model {
    const char *name;
    double independent;                          /* standard deviations of the logarithm: 0.01 for 1% */
    double drift, drift_correlation;             /* stationary deviation; correlation of neighbours */
    double spike_probability, spike_mean;
    double session, process;
};

/* "quiet" (a desk at night), "shared" (a cloud runner), "hostile" (an overbooked one); ended by a NULL name. */
extern const struct noise_model noise_models[];

struct noise {
    const struct noise_model *model;
    struct plim_random random;
    double session, drift;
};

/* A new session. */
void noise_start(struct noise *noise, const struct noise_model *model, uint64_t seed, uint64_t session);

/* The logarithm of the factor by which the next process's time is off. */
double noise_next(struct noise *noise);

#endif
