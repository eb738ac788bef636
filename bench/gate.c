#include "gate.h"

#include <stdlib.h>

#include "baseline.h"
#include "pareto.h"

static int read_one(struct result *baseline, const struct gate_options *options, const char *machine_class,
                    const char *suite, bool *found, struct plim_err *err)
{
    char *path = baseline_path(options->directory, machine_class, suite, err);
    int rc = path ? baseline_read(baseline, path, machine_class, suite, found, err) : -1;
    free(path);
    return rc;
}

static int compare_found(struct gate *gate, const struct result *result, const struct gate_options *options,
                         bool has_exact, bool has_machine, struct plim_err *err)
{
    const char *path = result->path ? result->path : "RESULT";
    bool wants_machine = options->policy.classes & COMPARE_MACHINE;
    if (!has_exact && !has_machine)
        return plim_err_set(err, PLIM_ERR_COMPARE,
                            "%s: suite %s has no baseline in %s; look at the result, then run: plimsoll baseline accept "
                            "%s",
                            path, result->suite_name, options->directory, path);
    if (options->demand_timings && !has_machine)
        return plim_err_set(err, PLIM_ERR_COMPARE,
                            "%s: no timings of machine class %s for suite %s in %s; run: plimsoll baseline accept "
                            "--timings %s",
                            path, result->machine_class, result->suite_name, options->directory, path);
    if (has_exact && compare_results(&gate->comparison, &gate->exact, result, &options->policy, err) < 0)
        return -1;
    if (has_machine && compare_results(&gate->comparison, &gate->machine, result, &options->policy, err) < 0)
        return -1;
    if (has_exact && has_machine &&
        pareto_compare(&gate->comparison, &gate->exact, &gate->machine, result, &options->policy, err) < 0)
        return -1;
    if (wants_machine && !has_machine)
        comparison_note(&gate->comparison,
                        "timings were not compared: no baseline of machine class %s (plimsoll baseline accept --timings "
                        "%s)",
                        result->machine_class, path);
    comparison_sort(&gate->comparison);
    return 0;
}

int gate_compare(struct gate *gate, const struct result *result, const struct gate_options *options,
                 struct plim_err *err)
{
    bool has_exact = false, has_machine = false;
    *gate = (struct gate){ .comparison = COMPARISON_INIT };
    if (!result->is_baseline && !result->complete)
        return plim_err_set(err, PLIM_ERR_COMPARE,
                            "%s: the run is incomplete; finish it with plimsoll run --resume, then gate it",
                            result->path ? result->path : "the result");
    if ((options->policy.classes & COMPARE_PORTABLE) &&
        read_one(&gate->exact, options, NULL, result->suite_name, &has_exact, err) < 0)
        return -1;
    if ((options->policy.classes & COMPARE_MACHINE) && result->machine_class &&
        read_one(&gate->machine, options, result->machine_class, result->suite_name, &has_machine, err) < 0)
        return -1;
    return compare_found(gate, result, options, has_exact, has_machine, err);
}

void gate_release(struct gate *gate)
{
    comparison_release(&gate->comparison);
    result_release(&gate->exact);
    result_release(&gate->machine);
}
