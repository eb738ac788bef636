#include "baseline.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "table.h"

/* ---- files ---- */

char *baseline_path(const char *directory, const char *machine_class, const char *suite, struct plim_err *err)
{
    /* Both come from result files, and reading those refused names that lead elsewhere. */
    if (machine_class && strcmp(machine_class, "exact") == 0) {
        plim_err_input(err, "machine class \"exact\": this name is that of the baselines for all machines");
        return NULL;
    }
    return heap_printf(err, "%s/%s/%s.json", directory, machine_class ? machine_class : "exact", suite);
}

int baseline_read(struct result *baseline, const char *path, const char *machine_class, const char *suite, bool *found,
                  struct plim_err *err)
{
    *baseline = (struct result){ 0 };
    *found = plim_path_exists(path);
    if (!*found)
        return 0;
    if (result_read(baseline, path, err) < 0)
        return -1;
    const char *has = baseline->machine_class ? baseline->machine_class : "all machines";
    const char *wanted = machine_class ? machine_class : "all machines";
    int rc = -1;
    if (!baseline->is_baseline)
        plim_err_set(err, PLIM_ERR_COMPARE, "%s: a result, expected a baseline", path);
    else if (strcmp(baseline->suite_name, suite) != 0)
        plim_err_set(err, PLIM_ERR_COMPARE, "%s: a baseline of suite %s, expected %s", path, baseline->suite_name, suite);
    else if (strcmp(has, wanted) != 0)
        plim_err_set(err, PLIM_ERR_COMPARE, "%s: a baseline for %s, expected %s", path, has, wanted);
    else
        rc = 0;
    if (rc < 0)
        result_release(baseline);
    return rc;
}

/* ---- accepting one metric ---- */

struct accepter {
    const struct baseline_accept_options *options;
    unsigned classes;                    /* of this file */
    struct result *baseline;             /* being changed */
    struct baseline_file_report *file;
    struct baseline_report *report;
    size_t matched;                      /* metrics that the patterns let through */
    struct plim_err *err;
};

static bool matches(const char *pattern, const char *name)
{
    return !pattern || fnmatch(pattern, name, 0) == 0;
}

static bool is_wanted(const struct accepter *a, const struct metric *metric)
{
    if (!(a->classes & (1u << metric->class)) || !matches(a->options->metric_pattern, metric->name))
        return false;
    return metric->gate.level != GATE_OFF || (metric->class == METRIC_EXACT && strncmp(metric->name, "at_peak_", 8) == 0);
}

/* "12.3 MiB" or "9f3c..." */
static void describe(const struct metric *metric, const char *key, char *out, size_t size)
{
    const struct fact *text = key ? facts_find(&metric->texts, key) : NULL;
    out[0] = '\0';
    if (text)
        snprintf(out, size, "%s", text->text);
    else if (metric->sample_count && strcmp(metric->unit, "bytes") == 0)
        snprintf(out, size, "%.0f", metric->samples[0]);
    else if (metric->sample_count)
        format_value(out, size, metric_median(metric), metric->unit);
}

static int note_change(struct accepter *a, const char *case_id, const char *metric, const char *before,
                       const char *after)
{
    struct baseline_report *report = a->report;
    struct baseline_change *items = heap_room(report->changes, report->change_count, sizeof *items, a->err);
    if (!items)
        return -1;
    report->changes = items;
    struct baseline_change *change = &items[report->change_count++];
    snprintf(change->before, sizeof change->before, "%s", before);
    snprintf(change->after, sizeof change->after, "%s", after);
    change->case_id = heap_strdup(case_id, a->err);
    if (!change->case_id)
        return -1;
    return metric ? result_set_string(&change->metric, metric, a->err) : 0;
}

static int check_deterministic(const struct accepter *a, const char *case_id, const struct metric *metric)
{
    for (size_t i = 1; metric->class == METRIC_EXACT && i < metric->sample_count; i++) {
        char first[32], other[32];
        if (metric->samples[i] != metric->samples[0])
            return plim_err_input(a->err, "case %s: %s is exact, but its repeats differ (%s, %s): not accepted", case_id,
                                  metric->name, format_number(first, sizeof first, metric->samples[0]),
                                  format_number(other, sizeof other, metric->samples[i]));
    }
    return 0;
}

static bool same_runs(const struct metric *accepted, const struct metric *now)
{
    return now->class == METRIC_EXACT ||
           (accepted->run_count == now->run_count &&
            (!now->run_count ||
             memcmp(accepted->run_samples, now->run_samples, now->run_count * sizeof now->run_samples[0]) == 0));
}

static bool same_value(const struct metric *accepted, const struct metric *now, size_t kept_samples)
{
    if (!same_runs(accepted, now))
        return false;
    if (accepted->class != now->class || accepted->direction != now->direction ||
        strcmp(accepted->unit, now->unit) != 0 || accepted->sample_count != kept_samples)
        return false;
    for (size_t i = 0; i < kept_samples; i++) {
        if (accepted->samples[i] != now->samples[i])
            return false;
    }
    for (size_t i = 0; i < now->texts.count; i++) {
        const struct fact *text = facts_find(&accepted->texts, now->texts.items[i].name);
        if (!text || strcmp(text->text, now->texts.items[i].text) != 0)
            return false;
    }
    return true;
}

/* Makes `accepted` what the result says; the texts of other keys stay. */
static int take_value(struct accepter *a, struct metric *accepted, const struct metric *now, size_t kept_samples)
{
    accepted->class = now->class;
    accepted->direction = now->direction;
    if (result_set_string(&accepted->unit, now->unit, a->err) < 0 ||
        result_set_string(&accepted->reason, a->options->reason, a->err) < 0 ||
        metric_set_runs(accepted, now->run_samples, now->class == METRIC_EXACT ? 0 : now->run_count, a->err) < 0)
        return -1;
    metric_clear_allowance(accepted);
    free(accepted->samples);
    accepted->samples = NULL;
    accepted->sample_count = 0;
    for (size_t i = 0; i < kept_samples; i++) {
        if (metric_add_sample(accepted, now->samples[i], a->err) < 0)
            return -1;
    }
    if (!now->texts.count)
        facts_release(&accepted->texts);
    for (size_t i = 0; i < now->texts.count; i++) {
        if (metric_set_text(accepted, now->texts.items[i].text, now->texts.items[i].name, a->err) < 0)
            return -1;
    }
    return 0;
}

/* ---- another run joins ---- */

static void drop_oldest_run(struct metric *metric)
{
    size_t samples = metric->run_samples[0];
    metric->sample_count -= samples;
    memmove(metric->samples, metric->samples + samples, metric->sample_count * sizeof metric->samples[0]);
    metric->run_count--;
    memmove(metric->run_samples, metric->run_samples + 1, metric->run_count * sizeof metric->run_samples[0]);
}

static bool can_join(const struct metric *accepted, const struct metric *now)
{
    return accepted->class == now->class && accepted->direction == now->direction && now->sample_count &&
           accepted->sample_count && strcmp(accepted->unit, now->unit) == 0;
}

/* What was one run so far says so now; then the new ones follow. */
static int join_runs(struct accepter *a, struct metric *accepted, const struct metric *now)
{
    const struct metric *sides[] = { accepted, now };
    size_t runs[2 * BASELINE_POOLED_RUNS], count = 0;
    for (int side = 0; side < 2; side++) {
        size_t own = sides[side]->run_count;
        if (own > BASELINE_POOLED_RUNS)
            return plim_err_input(a->err, "%s has %zu pooled runs, at most %d are kept", now->name, own,
                                  BASELINE_POOLED_RUNS);
        for (size_t i = 0; i < own; i++)
            runs[count++] = sides[side]->run_samples[i];
        if (!own)
            runs[count++] = sides[side]->sample_count;
    }
    for (size_t i = 0; i < now->sample_count; i++) {
        if (metric_add_sample(accepted, now->samples[i], a->err) < 0)
            return -1;
    }
    if (metric_set_runs(accepted, runs, count, a->err) < 0)
        return -1;
    while (accepted->run_count > BASELINE_POOLED_RUNS)
        drop_oldest_run(accepted);
    return 0;
}

/* A new metric at `place`, the others moved up. */
static struct metric *insert_metric(struct accepter *a, struct result_case *c, size_t place, const struct metric *now)
{
    if (!case_add_metric(c, now->name, now->unit, now->class, now->direction, a->err))
        return NULL;
    struct metric added = c->metrics[c->metric_count - 1];
    memmove(&c->metrics[place + 1], &c->metrics[place], (c->metric_count - 1 - place) * sizeof added);
    c->metrics[place] = added;
    return &c->metrics[place];
}

/* Accepts one metric. `*place` is where a new one goes; it moves behind the metric. */
static int accept_metric(struct accepter *a, struct result_case *accepted_case, const struct metric *now, size_t *place)
{
    /* What is exact needs one sample only, and what was ungated while it was measured may be gated later. */
    size_t kept_samples = now->class == METRIC_EXACT && now->sample_count ? 1 : now->sample_count;
    const char *key = now->texts.count ? now->texts.items[0].name : NULL;
    struct metric *accepted = case_find_metric(accepted_case, now->name);
    char before[48] = "", after[48];
    if (check_deterministic(a, accepted_case->id, now) < 0)
        return -1;
    describe(now, key, after, sizeof after);
    if (accepted) {
        *place = (size_t)(accepted - accepted_case->metrics) + 1;
        if (a->options->pool && (COMPARE_MACHINE & (1u << now->class)) && can_join(accepted, now)) {
            a->file->changed++;
            return join_runs(a, accepted, now);
        }
        if (same_value(accepted, now, kept_samples)) {
            a->file->unchanged++;
            return 0;
        }
        describe(accepted, key, before, sizeof before);
    } else {
        accepted = insert_metric(a, accepted_case, (*place)++, now);
        if (!accepted)
            return -1;
    }
    if (*before) {
        a->file->changed++;
        if ((now->class == METRIC_EXACT || now->class == METRIC_BOUNDED) &&
            note_change(a, accepted_case->id, now->name, before, after) < 0)
            return -1;
    } else {
        a->file->added++;
    }
    return take_value(a, accepted, now, kept_samples);
}

/* ---- accepting a case ---- */

static void drop_metric(struct accepter *a, struct result_case *c, size_t index)
{
    metric_release(&c->metrics[index]);
    c->metric_count--;
    memmove(&c->metrics[index], &c->metrics[index + 1], (c->metric_count - index) * sizeof c->metrics[0]);
    a->file->dropped++;
}

static int copy_facts(struct facts *to, const struct facts *from, struct plim_err *err)
{
    facts_release(to);
    for (size_t i = 0; i < from->count; i++) {
        const struct fact *fact = &from->items[i];
        if (fact->text ? facts_set_text(to, fact->name, fact->text, err)
                       : facts_set_number(to, fact->name, fact->number, err))
            return -1;
    }
    return 0;
}

/* What identifies the case, and how it ended. */
static int take_case(struct accepter *a, struct result_case *accepted, const struct result_case *now, bool is_new)
{
    if (!is_new && accepted->outcome != now->outcome) {
        /* A whole case and one that ran out of memory have nothing in common. */
        while (accepted->metric_count)
            drop_metric(a, accepted, accepted->metric_count - 1);
        a->file->changed++;
        if (note_change(a, now->id, NULL, outcome_name(accepted->outcome), outcome_name(now->outcome)) < 0)
            return -1;
        is_new = true;
    }
    if (is_new && (result_set_string(&accepted->detail, now->detail, a->err) < 0 ||
                   copy_facts(&accepted->refusal, &now->refusal, a->err) < 0))
        return -1;
    accepted->outcome = now->outcome;
    if (result_set_string(&accepted->model, now->model, a->err) < 0 ||
        result_set_string(&accepted->workload, now->workload, a->err) < 0)
        return -1;
    return copy_facts(&accepted->arguments, &now->arguments, a->err);
}

static struct result_case *insert_case(struct accepter *a, size_t place, const char *id)
{
    struct result *baseline = a->baseline;
    if (!result_add_case(baseline, id, a->err))
        return NULL;
    struct result_case added = baseline->cases[baseline->case_count - 1];
    memmove(&baseline->cases[place + 1], &baseline->cases[place],
            (baseline->case_count - 1 - place) * sizeof added);
    baseline->cases[place] = added;
    return &baseline->cases[place];
}

static bool has_wanted(const struct accepter *a, const struct result_case *c)
{
    for (size_t i = 0; i < c->metric_count; i++) {
        if (is_wanted(a, &c->metrics[i]))
            return true;
    }
    return c->outcome == OUTCOME_OUT_OF_MEMORY && !a->options->metric_pattern && (a->classes & COMPARE_EXACT);
}

static int accept_case(struct accepter *a, const struct result_case *now, size_t *place)
{
    struct result_case *accepted = result_find_case(a->baseline, now->id);
    bool is_new = !accepted;
    if (!has_wanted(a, now))
        return 0;
    a->matched++;
    if (is_new)
        accepted = insert_case(a, (*place)++, now->id);
    else
        *place = (size_t)(accepted - a->baseline->cases) + 1;
    if (!accepted || take_case(a, accepted, now, is_new) < 0)
        return -1;

    size_t metric_place = 0;
    for (size_t i = 0; i < now->metric_count; i++) {
        if (is_wanted(a, &now->metrics[i]) && accept_metric(a, accepted, &now->metrics[i], &metric_place) < 0)
            return -1;
    }
    for (size_t i = accepted->metric_count; a->options->prune && i-- > 0;) {
        if (matches(a->options->metric_pattern, accepted->metrics[i].name) &&
            !case_find_metric(now, accepted->metrics[i].name))
            drop_metric(a, accepted, i);
    }
    return 0;
}

/* ---- accepting a result ---- */

static bool is_acceptable(enum outcome outcome)
{
    return outcome == OUTCOME_OK || outcome == OUTCOME_OUT_OF_MEMORY;
}

static void prune_cases(struct accepter *a, const struct result *result)
{
    for (size_t i = a->baseline->case_count; i-- > 0;) {
        struct result_case *c = &a->baseline->cases[i];
        if (!matches(a->options->case_pattern, c->id) || result_find_case(result, c->id))
            continue;
        a->file->dropped += c->metric_count;
        case_release(c);
        a->baseline->case_count--;
        memmove(c, c + 1, (a->baseline->case_count - i) * sizeof *c);
    }
}

/* A baseline that does not exist yet. */
static int begin(struct result *baseline, const struct result *result, const char *machine_class, struct plim_err *err)
{
    baseline->is_baseline = true;
    if (result_set_string(&baseline->suite_name, result->suite_name, err) < 0 ||
        result_set_string(&baseline->machine_class, machine_class, err) < 0)
        return -1;
    return machine_class ? copy_facts(&baseline->machine, &result->machine, err) : 0;
}

static int write_baseline(const struct accepter *a)
{
    char *directory = heap_strdup(a->file->path, a->err);
    int rc = -1;
    if (directory) {
        *strrchr(directory, '/') = '\0';
        if (plim_make_directories(directory, a->err) == 0)
            rc = result_write(a->baseline, a->file->path, a->err);
    }
    free(directory);
    return rc;
}

/* Reads the baseline and puts the result's values into it; the caller writes. */
static int accept_into(struct accepter *a, const struct result *result, const char *machine_class)
{
    bool found;
    a->file->path = baseline_path(a->options->directory, machine_class, result->suite_name, a->err);
    if (!a->file->path ||
        baseline_read(a->baseline, a->file->path, machine_class, result->suite_name, &found, a->err) < 0 ||
        (!found && begin(a->baseline, result, machine_class, a->err) < 0))
        return -1;
    a->file->created = !found;
    if (result_set_string(&a->baseline->suite_digest, result->suite_digest, a->err) < 0)
        return -1;

    size_t place = 0;
    for (size_t i = 0; i < result->case_count; i++) {
        const struct result_case *c = &result->cases[i];
        if (!matches(a->options->case_pattern, c->id) || !is_acceptable(c->outcome))
            continue;
        if (accept_case(a, c, &place) < 0)
            return -1;
    }
    if (a->options->prune)
        prune_cases(a, result);
    return 0;
}

static int write_if_changed(struct accepter *a)
{
    struct baseline_file_report *file = a->file;
    if (file->added + file->changed + file->dropped == 0)
        return 0;
    if (write_baseline(a) < 0)
        return -1;
    file->written = true;
    return 0;
}

int baseline_accept(const struct result *result, const struct baseline_accept_options *options,
                    struct baseline_report *report, struct plim_err *err)
{
    struct result exact = { 0 }, machine = { 0 };
    struct accepter a = { options, COMPARE_PORTABLE & options->classes, &exact, &report->exact, report, 0, err };
    struct accepter m = { options, COMPARE_MACHINE & options->classes, &machine, &report->machine, report, 0, err };
    int rc = -1;

    *report = (struct baseline_report){ 0 };
    for (size_t i = 0; i < result->case_count; i++)
        report->skipped_cases +=
            matches(options->case_pattern, result->cases[i].id) && !is_acceptable(result->cases[i].outcome);
    if (a.classes && accept_into(&a, result, NULL) < 0)
        goto out;
    if (m.classes && accept_into(&m, result, result->machine_class) < 0)
        goto out;
    if (a.matched + m.matched == 0) {
        plim_err_input(err, "nothing to accept: %s has no finished case%s%s with a metric%s%s that is gated",
                       result->path ? result->path : "the result", options->case_pattern ? " matching " : "",
                       options->case_pattern ? options->case_pattern : "",
                       options->metric_pattern ? " matching " : "",
                       options->metric_pattern ? options->metric_pattern : "");
        goto out;
    }
    if ((a.classes && write_if_changed(&a) < 0) || (m.classes && write_if_changed(&m) < 0))
        goto out;
    rc = 0;

out:
    result_release(&exact);
    result_release(&machine);
    return rc;
}

void baseline_report_release(struct baseline_report *report)
{
    for (size_t i = 0; i < report->change_count; i++) {
        free(report->changes[i].case_id);
        free(report->changes[i].metric);
    }
    free(report->changes);
    free(report->exact.path);
    free(report->machine.path);
    *report = (struct baseline_report){ 0 };
}
