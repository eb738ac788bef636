#ifndef WORKLOAD_SUPPORT_H
#define WORKLOAD_SUPPORT_H

/* What the tests of workloads share: one case in a real worker, and its metrics. */

#include <criterion/criterion.h>

#include "executor.h"
#include "result.h"

#define EXL2 PLIMSOLL_MODELS_DATA "/exl2-4.0"
#define DENSE PLIMSOLL_MODELS_DATA "/dense"

struct wanted {
    const char *workload, *model;      /* model NULL: none */
    const char *settings[12][2];       /* parameters and arguments */
};

/* Two repeats and a warm-up. */
void run_wanted(const struct wanted *wanted, struct result_case *out);
/* The same, and it must end well. */
void run_ok(const struct wanted *wanted, struct result_case *out);
/* Well, and once only: for what takes long. */
void run_once(const struct wanted *wanted, struct result_case *out);

/* The first sample; the text of the only digest. The metric must be there. */
double value(const struct result_case *c, const char *name);
const char *digest(const struct result_case *c, const char *name);

#endif
