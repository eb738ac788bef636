#ifndef PLIM_FINGERPRINT_H
#define PLIM_FINGERPRINT_H

/*
 * What a machine is, as far as measurements depend on it.
 *
 * The facts of fingerprint_machine are stable: the same at every run until hardware, system or build change. Their hash
 * names the machine's class, and timings are compared only within one class. What moves by itself (load, clock, time) or
 * does not matter (host name) is recorded beside them.
 */

#include "result.h"

/* Called in a worker: asks the engine's BLAS what it chose. */
int fingerprint_machine(struct facts *facts, struct plim_err *err);

int fingerprint_recorded(struct facts *facts, struct plim_err *err);

/* A readable name and a hash of the facts: "epyc-7763-2c-avx2-1a2b3c"; free(). */
char *fingerprint_class(const struct facts *machine, struct plim_err *err);

#endif
