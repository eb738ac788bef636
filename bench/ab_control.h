#ifndef PLIM_AB_CONTROL_H
#define PLIM_AB_CONTROL_H

/* The positive controls of an A/B run: what is planted, where, and by whom. */

#include "control.h"
#include "executor.h"
#include "suite.h"

#define CONTROL_DELAY_FRACTION 0.25   /* so large that a miss is never bad luck */
#define CONTROL_EXTRA_BYTES 4096

/* An executor that plants `control` in whatever it lets the inner one run. */
struct planting {
    struct executor inner;
    struct control control;
};

struct executor planting_executor(struct planting *planting);

/* The hidden cases, indexed by enum ab_control (ab.h): two short spins. */
int control_suite(struct suite *suite, struct plim_err *err);

#endif
