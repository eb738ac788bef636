/* The workload that does nothing. What it takes is what the harness costs. */

#include "workload_run.h"

int workload_null(struct workload_run *run, struct plim_err *err)
{
    (void)run;
    (void)err;
    return 0;
}
