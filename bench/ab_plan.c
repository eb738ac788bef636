/* From screening to verdicts: which cases are measured again, and what comes out for each. */

#include <math.h>
#include <stdlib.h>

#include "ab_parts.h"
#include "heap.h"
#include "holm.h"
#include "mann_whitney.h"

int ab_judge_screening(struct ab_case *c, const struct ab_rules *rules, struct plim_err *err)
{
    const struct ab_pairs *pairs = &c->stages[AB_SCREEN];

    if (ab_evidence(pairs->log_ratios, pairs->count, rules->screen_level, &c->evidence, err) < 0)
        return -1;
    c->suspicion = *c->metric && !c->broken && pairs->count ? ab_screen(&c->evidence, c->min_effect, rules) : AB_CLEAR;
    c->p_slower = c->p_faster = 1;
    return 0;
}

/* ---- planning ---- */

static uint64_t pair_ns(const struct ab_case *c)
{
    return c->attempts ? c->spent_ns / c->attempts : 0;
}

/* The most suspicious one that is still in the plan comes last to be dropped. */
static double urgency(const struct ab_case *c)
{
    const struct ab_evidence *e = &c->evidence;

    return (double)c->suspicion - fmin(e->p_slower, e->p_faster);
}

static struct ab_case *least_urgent(struct ab_case *cases, size_t count)
{
    struct ab_case *least = NULL;

    for (size_t i = 0; i < count; i++)
        if (cases[i].confirmed && (!least || urgency(&cases[i]) < urgency(least)))
            least = &cases[i];
    return least;
}

/* Time for all that are in the plan: with the pairs they need, or with as few as can convict. */
static double planned_ns(const struct ab_case *cases, size_t count, size_t candidates, bool fewest,
                         const struct ab_rules *rules)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        if (cases[i].confirmed)
            sum += (double)pair_ns(&cases[i]) *
                   (double)(fewest ? ab_fewest_pairs(candidates, rules)
                                   : ab_first_pairs(&cases[i].evidence, cases[i].min_effect, candidates, rules));
    return sum;
}

size_t ab_plan_confirmation(struct ab_case *cases, size_t count, uint64_t left_ns, const struct ab_rules *rules)
{
    size_t candidates = 0;
    double needed_ns, share;

    for (size_t i = 0; i < count; i++) {
        cases[i].confirmed = cases[i].suspicion != AB_CLEAR;
        candidates += cases[i].confirmed;
    }
    while (candidates && planned_ns(cases, count, candidates, true, rules) > (double)left_ns) {
        struct ab_case *dropped = least_urgent(cases, count);

        dropped->confirmed = false;
        dropped->out_of_time = true;
        candidates--;
    }
    needed_ns = planned_ns(cases, count, candidates, false, rules);
    share = needed_ns > (double)left_ns ? (double)left_ns / needed_ns : 1;
    for (size_t i = 0; i < count; i++) {
        size_t fewest, full;

        cases[i].wanted = 0;
        if (!cases[i].confirmed)
            continue;
        fewest = ab_fewest_pairs(candidates, rules);
        full = ab_first_pairs(&cases[i].evidence, cases[i].min_effect, candidates, rules);
        cases[i].wanted = (size_t)fmax((double)fewest, floor(share * (double)full));
    }
    return candidates;
}

int ab_plan_more(struct ab_case *cases, size_t count, uint64_t left_ns, const struct ab_rules *rules, size_t *extended,
                 struct plim_err *err)
{
    double needed_ns = 0, share;

    for (size_t i = 0; i < count; i++) {
        struct ab_case *c = &cases[i];
        const struct ab_pairs *fresh = &c->stages[AB_CONFIRM];

        c->wanted = fresh->count;
        if (!c->confirmed || c->broken || !fresh->count)
            continue;
        if (ab_evidence(fresh->log_ratios, fresh->count, rules->confirm_level, &c->evidence, err) < 0)
            return -1;
        c->wanted = ab_enough_pairs(&c->evidence, c->suspicion, c->min_effect, rules);
        needed_ns += (double)pair_ns(c) * (double)(c->wanted - fresh->count);
    }
    share = needed_ns > (double)left_ns ? (double)left_ns / needed_ns : 1;
    *extended = 0;
    for (size_t i = 0; i < count; i++) {
        size_t have = cases[i].stages[AB_CONFIRM].count;

        if (cases[i].wanted <= have)
            continue;
        cases[i].wanted = have + (size_t)(share * (double)(cases[i].wanted - have));
        *extended += cases[i].wanted > have;
    }
    return 0;
}

/* ---- verdicts ---- */

/* What was confirmed together is one family of tests in each direction. */
static int correct_p(struct ab_case *cases, size_t count, bool faster, struct plim_err *err)
{
    double *p = heap_calloc(count, sizeof *p, err);
    size_t candidates = 0;
    int rc;

    if (!p)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (cases[i].confirmed)
            p[candidates++] = faster ? cases[i].evidence.p_faster : cases[i].evidence.p_slower;
    rc = holm_adjust(p, candidates, p, err);
    candidates = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        if (cases[i].confirmed)
            *(faster ? &cases[i].p_faster : &cases[i].p_slower) = p[candidates++];
    free(p);
    return rc;
}

int ab_settle(struct ab_case *cases, size_t count, const struct ab_rules *rules, struct plim_err *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct ab_pairs *fresh = &cases[i].stages[AB_CONFIRM];

        cases[i].confirmed = cases[i].confirmed && !cases[i].broken && fresh->count;
        if (cases[i].confirmed &&
            ab_evidence(fresh->log_ratios, fresh->count, rules->confirm_level, &cases[i].evidence, err) < 0)
            return -1;
    }
    if (correct_p(cases, count, false, err) < 0 || correct_p(cases, count, true, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        struct ab_case *c = &cases[i];
        const struct ab_pairs *pairs = &c->stages[c->confirmed ? AB_CONFIRM : AB_SCREEN];

        if (!*c->metric || c->broken)
            continue;
        c->verdict = ab_verdict(&c->evidence, c->p_slower, c->p_faster, c->min_effect, rules);
        if (mann_whitney_p(pairs->values[AB_A], pairs->count, pairs->values[AB_B], pairs->count, &c->mann_whitney_p,
                           err) < 0)
            return -1;
    }
    return 0;
}
