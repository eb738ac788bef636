/* Several runs as one result, from which a baseline learns how far one build differs from itself. */

#include <stdlib.h>
#include <string.h>

#include "baseline.h"
#include "executor.h"
#include "heap.h"

static const char *name_of(const struct result *run)
{
    return run->path ? run->path : "a result";
}

static int check_alike(const struct result *runs, size_t count, struct plim_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct result *run = &runs[i], *first = &runs[0];
        if (run->is_baseline)
            return plim_err_input(err, "%s: a baseline already; results are accepted", name_of(run));
        if (count > 1 && !run->complete)
            return plim_err_input(err, "%s: the run is incomplete; finish it with plimsoll run --resume", name_of(run));
        if (strcmp(run->suite_name, first->suite_name) != 0 || strcmp(run->suite_digest, first->suite_digest) != 0)
            return plim_err_input(err, "%s and %s were not made by the same suite file", name_of(first), name_of(run));
        if (strcmp(run->machine_class, first->machine_class) != 0)
            return plim_err_set(err, PLIM_ERR_COMPARE, "%s was measured on %s, %s on %s", name_of(first),
                                first->machine_class, name_of(run), run->machine_class);
        for (size_t k = 0; k < i; k++) {
            if (strcmp(runs[k].started_utc, run->started_utc) == 0)
                return plim_err_input(err, "%s and %s are the same run, started %s", name_of(&runs[k]), name_of(run),
                                      run->started_utc);
        }
    }
    return 0;
}

static int copy_facts(struct facts *to, const struct facts *from, struct plim_err *err)
{
    for (size_t i = 0; i < from->count; i++) {
        const struct fact *fact = &from->items[i];
        if ((fact->text ? facts_set_text(to, fact->name, fact->text, err)
                        : facts_set_number(to, fact->name, fact->number, err)) < 0)
            return -1;
    }
    return 0;
}

/* What the first run says stands for all: the same suite file was run on the same machine. */
static int copy_head(struct result *pooled, const struct result *first, struct plim_err *err)
{
    pooled->complete = first->complete;
    if (result_set_string(&pooled->path, first->path, err) < 0 ||
        result_set_string(&pooled->suite_name, first->suite_name, err) < 0 ||
        result_set_string(&pooled->suite_digest, first->suite_digest, err) < 0 ||
        result_set_string(&pooled->started_utc, first->started_utc, err) < 0 ||
        result_set_string(&pooled->machine_class, first->machine_class, err) < 0 ||
        copy_facts(&pooled->recorded, &first->recorded, err) < 0)
        return -1;
    return copy_facts(&pooled->machine, &first->machine, err);
}

static int copy_case(struct result_case *to, const struct result_case *from, struct plim_err *err)
{
    to->outcome = from->outcome;
    if (result_set_string(&to->model, from->model, err) < 0 || result_set_string(&to->workload, from->workload, err) < 0 ||
        result_set_string(&to->detail, from->detail, err) < 0 || copy_facts(&to->arguments, &from->arguments, err) < 0)
        return -1;
    return copy_facts(&to->refusal, &from->refusal, err);
}

static int add_run(struct metric *metric, size_t samples, struct plim_err *err)
{
    size_t *grown = heap_room(metric->run_samples, metric->run_count, sizeof *grown, err);
    if (!grown)
        return -1;
    metric->run_samples = grown;
    grown[metric->run_count++] = samples;
    return 0;
}

static int pool_case(struct result *pooled, const struct result *run, const struct result_case *c, bool several,
                     struct plim_err *err)
{
    struct result_case *to = result_find_case(pooled, c->id);
    if (!to && (!(to = result_add_case(pooled, c->id, err)) || copy_case(to, c, err) < 0))
        return -1;
    if (to->outcome != c->outcome)
        return plim_err_input(err, "case %s ended with %s in one run and with %s in another (%s)", c->id,
                              outcome_name(to->outcome), outcome_name(c->outcome), name_of(run));
    for (size_t i = 0; i < c->metric_count; i++) {
        const struct metric *metric = &c->metrics[i];
        if (report_add_metric(to, metric, err) < 0)
            return plim_err_wrap(err, "case %s, %s", c->id, name_of(run));
        struct metric *joined = case_find_metric(to, metric->name);
        joined->gate = metric->gate;
        if (several && metric->sample_count && add_run(joined, metric->sample_count, err) < 0)
            return -1;
    }
    return report_check_exact(to, err) < 0 ? plim_err_wrap(err, "case %s, %s", c->id, name_of(run)) : 0;
}

int baseline_pool(const struct result *runs, size_t count, struct result *pooled, struct plim_err *err)
{
    *pooled = (struct result){ 0 };
    if (check_alike(runs, count, err) < 0 || copy_head(pooled, &runs[0], err) < 0)
        goto failed;
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < runs[i].case_count; k++) {
            if (pool_case(pooled, &runs[i], &runs[i].cases[k], count > 1, err) < 0)
                goto failed;
        }
    }
    return 0;

failed:
    result_release(pooled);
    return -1;
}
