/* The Pareto fronts of a result, and which points of a baseline's front a result has lost. */

#include "pareto.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compare_parts.h"
#include "heap.h"
#include "table.h"

/* ---- finding them ---- */

static const struct metric *find_speed(const struct result_case *c)
{
    for (size_t i = 0; i < c->metric_count; i++) {
        const struct metric *m = &c->metrics[i];
        if (m->class == METRIC_TIMING && m->sample_count && strcmp(m->unit, "tokens/s") == 0)
            return m;
    }
    return NULL;
}

static bool same_text(const char *a, const char *b)
{
    return strcmp(a ? a : "", b ? b : "") == 0;
}

static bool same_facts(const struct facts *a, const struct facts *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct fact *x = &a->items[i], *y = facts_find(b, x->name);
        if (!y || (x->text == NULL) != (y->text == NULL) ||
            (x->text ? strcmp(x->text, y->text) != 0 : x->number != y->number))
            return false;
    }
    return true;
}

/* One job: the same model doing the same work, so that only parameters tell its points apart. */
static bool same_job(const struct pareto_front *front, const struct pareto_point *point)
{
    const struct result_case *first = front->points[0].c;
    return same_text(first->model, point->c->model) && same_text(first->workload, point->c->workload) &&
           same_text(front->speed_name, point->speed->name) && same_facts(&first->arguments, &point->c->arguments);
}

static struct pareto_front *front_for(struct pareto_fronts *fronts, const struct pareto_point *point,
                                      struct plim_err *err)
{
    for (size_t i = 0; i < fronts->count; i++) {
        if (same_job(&fronts->items[i], point))
            return &fronts->items[i];
    }
    struct pareto_front *items = heap_room(fronts->items, fronts->count, sizeof *items, err);
    if (!items)
        return NULL;
    fronts->items = items;
    struct pareto_front *front = &items[fronts->count++];
    front->model = point->c->model ? point->c->model : "";
    front->workload = point->c->workload ? point->c->workload : "";
    front->speed_name = point->speed->name;
    return front;
}

static int add_point(struct pareto_fronts *fronts, const struct pareto_point *point, struct plim_err *err)
{
    struct pareto_front *front = front_for(fronts, point, err);
    if (!front)
        return -1;
    struct pareto_point *points = heap_room(front->points, front->count, sizeof *points, err);
    if (!points)
        return -1;
    front->points = points;
    points[front->count++] = *point;
    return 0;
}

static int by_bytes(const void *a, const void *b)
{
    const struct pareto_point *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->tokens_per_s != y->tokens_per_s)
        return x->tokens_per_s > y->tokens_per_s ? -1 : 1;
    return strcmp(x->c->id, y->c->id);
}

/* Going up in bytes, a point is on the front when it is faster than all before it. */
static void mark_front(struct pareto_front *front)
{
    double best = -INFINITY;
    qsort(front->points, front->count, sizeof *front->points, by_bytes);
    for (size_t i = 0; i < front->count; i++) {
        front->points[i].on_front = front->points[i].tokens_per_s > best;
        front->front_count += front->points[i].on_front;
        best = fmax(best, front->points[i].tokens_per_s);
    }
}

/* Jobs with a single point have no front worth the name. */
static void drop_single(struct pareto_fronts *fronts)
{
    size_t kept = 0;
    for (size_t i = 0; i < fronts->count; i++) {
        if (fronts->items[i].count < 2)
            free(fronts->items[i].points);
        else
            fronts->items[kept++] = fronts->items[i];
    }
    fronts->count = kept;
}

int pareto_find(struct pareto_fronts *fronts, const struct result *memory, const struct result *timings,
                struct plim_err *err)
{
    *fronts = (struct pareto_fronts){ 0 };
    for (size_t i = 0; i < memory->case_count; i++) {
        const struct result_case *c = &memory->cases[i];
        const struct result_case *timed = memory == timings ? c : result_find_case(timings, c->id);
        const struct metric *bytes = case_find_metric(c, "peak_requested_fast_bytes");
        const struct metric *speed = timed && timed->outcome == OUTCOME_OK ? find_speed(timed) : NULL;
        if (c->outcome != OUTCOME_OK || !bytes || !bytes->sample_count || !speed)
            continue;
        struct pareto_point point = { c, speed, metric_median(bytes), metric_median(speed), false };
        if (add_point(fronts, &point, err) < 0) {
            pareto_release(fronts);
            return -1;
        }
    }
    drop_single(fronts);
    for (size_t i = 0; i < fronts->count; i++)
        mark_front(&fronts->items[i]);
    return 0;
}

void pareto_release(struct pareto_fronts *fronts)
{
    for (size_t i = 0; i < fronts->count; i++)
        free(fronts->items[i].points);
    free(fronts->items);
    *fronts = (struct pareto_fronts){ 0 };
}

/* ---- comparing them ---- */

/* The fastest point of the result that fits into the bytes of `wanted`; NULL when none does. */
static const struct pareto_point *best_within(const struct pareto_front *front, const struct pareto_point *wanted)
{
    const struct pareto_point *best = NULL;
    for (size_t i = 0; i < front->count; i++) {
        const struct pareto_point *p = &front->points[i];
        if (p->bytes <= wanted->bytes * (1 + PARETO_BYTES_BOUND) && (!best || p->tokens_per_s > best->tokens_per_s))
            best = p;
    }
    return best;
}

static const struct pareto_front *front_of(const struct pareto_fronts *fronts, const struct pareto_front *like)
{
    for (size_t i = 0; i < fronts->count; i++) {
        const struct pareto_front *f = &fronts->items[i];
        if (same_text(f->speed_name, like->speed_name) && same_job(f, &like->points[0]))
            return f;
    }
    return NULL;
}

struct loss {
    enum verdict verdict;        /* PASS: the point is kept */
    const struct pareto_point *now;
    struct interval slowdown;
};

static int judge_point(struct loss *loss, const struct pareto_point *before, const struct pareto_front *front,
                       const struct compare_policy *policy, struct plim_err *err)
{
    enum verdict lost = before->speed->gate.level == GATE_FAIL ? VERDICT_FAIL : VERDICT_WARN;
    *loss = (struct loss){ VERDICT_PASS, best_within(front, before), { 0, 0, 0 } };
    if (!loss->now) {
        loss->verdict = lost;
        return 0;
    }
    if (before->tokens_per_s <= loss->now->tokens_per_s * (1 + PARETO_SPEED_BOUND))
        return 0;
    const struct metric *a = loss->now->speed, *b = before->speed;
    /* Speeds: how many times slower is old over new. */
    if (bootstrap_median_ratio(a->samples, a->sample_count, b->samples, b->sample_count, policy->timing_level,
                               &loss->slowdown, err) < 0)
        return -1;
    bool few = a->sample_count < policy->timing_min_samples || b->sample_count < policy->timing_min_samples;
    loss->verdict = few || loss->slowdown.low <= 1 + PARETO_SPEED_BOUND ? VERDICT_INCONCLUSIVE : lost;
    return 0;
}

static int add_loss(struct comparison *c, const struct pareto_point *before, const struct loss *loss,
                    const struct result *result, struct plim_err *err)
{
    char bytes[40], speed[40];
    struct finding *findings = heap_room(c->findings, c->finding_count, sizeof *findings, err);
    if (!findings)
        return -1;
    c->findings = findings;
    struct finding *f = &findings[c->finding_count];
    *f = (struct finding){
        .baseline_case = before->c,
        .result_case = result_find_case(result, before->c->id),
        .baseline = before->speed,
        .result = loss->now ? loss->now->speed : NULL,
        .class = METRIC_TIMING,
        .verdict = loss->verdict,
        .baseline_value = before->tokens_per_s,
        .result_value = loss->now ? loss->now->tokens_per_s : NAN,
        .slowdown = loss->slowdown,
        .worse = loss->now ? before->tokens_per_s / loss->now->tokens_per_s - 1 : 1,
        .order = c->finding_count,
    };
    format_value(bytes, sizeof bytes, before->bytes, "bytes");
    format_value(speed, sizeof speed, before->tokens_per_s, "tokens/s");
    if (loss->now)
        finding_say(f, "Pareto point %s, %s lost: the fastest within its memory is %.100s", bytes, speed,
                    loss->now->c->id);
    else
        finding_say(f, "Pareto point %s, %s lost: nothing runs within its memory", bytes, speed);
    c->finding_count++;
    c->counts[loss->verdict]++;
    c->compared_count++;
    return 0;
}

static int compare_front(struct comparison *c, const struct pareto_front *before, const struct pareto_front *after,
                         const struct result *result, const struct compare_policy *policy, struct plim_err *err)
{
    size_t kept = 0;
    for (size_t i = 0; i < before->count; i++) {
        struct loss loss;
        if (!before->points[i].on_front)
            continue;
        if (judge_point(&loss, &before->points[i], after, policy, err) < 0)
            return -1;
        if (loss.verdict == VERDICT_PASS)
            kept++;
        else if (add_loss(c, &before->points[i], &loss, result, err) < 0)
            return -1;
    }
    if (kept < before->front_count)
        comparison_note(c, "Pareto front of %s %s (peak bytes, %s): %zu of %zu points kept", before->model,
                        before->workload, before->speed_name, kept, before->front_count);
    return 0;
}

int pareto_compare(struct comparison *comparison, const struct result *memory, const struct result *timings,
                   const struct result *result, const struct compare_policy *policy, struct plim_err *err)
{
    struct pareto_fronts before = { 0 }, after = { 0 };
    int rc = -1;
    if (!(policy->classes & COMPARE_TIMING) || !same_text(timings->machine_class, result->machine_class))
        return 0;
    if (pareto_find(&before, memory, timings, err) < 0 || pareto_find(&after, result, result, err) < 0)
        goto out;
    for (size_t i = 0; i < before.count; i++) {
        const struct pareto_front *now = front_of(&after, &before.items[i]);
        if (now && compare_front(comparison, &before.items[i], now, result, policy, err) < 0)
            goto out;
    }
    rc = 0;

out:
    pareto_release(&before);
    pareto_release(&after);
    return rc;
}
