#ifndef PLIM_NULL_H
#define PLIM_NULL_H

/*
 * The null backend: it allocates nothing, computes nothing, and every result is zero. What is left of a run is the cost
 * of everything else, so the harness and the code above the backends can be tested in milliseconds.
 */

#include "backend.h"

extern const struct backend_ops null_backend_ops;
extern const struct backend_predict_ops null_backend_predict_ops;

#endif
