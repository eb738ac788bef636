#include "ab_judge.h"

#include <math.h>
#include <stdlib.h>

#include "heap.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "signed_rank.h"

struct ab_rules ab_rules_default(void)
{
    return (struct ab_rules){
        .screen_pairs = 8,
        .screen_p = 0.10,
        .screen_effects = 0.5,
        .alpha = 0.01,
        .min_effect = 0.03,
        .pass_effects = 5.0 / 3.0,
        /* Exclude 5% wrongly in 2% (what 8 pairs make of 0.96), and in 1% at each of the few looks when confirming. */
        .screen_level = 0.96,
        .confirm_level = 0.98,
        .confirm_least = 24,
        .confirm_first = 64,
        .confirm_most = 1000,
        .precision = 0.6,
    };
}

int ab_evidence(const double *log_ratios, size_t pairs, double level, struct ab_evidence *out, struct plim_err *err)
{
    double *opposite;
    int rc;

    *out = (struct ab_evidence){ .pairs = pairs, .p_slower = 1, .p_faster = 1, .slowdown = { 1, 0, INFINITY } };
    if (pairs == 0)
        return 0;
    opposite = heap_calloc(pairs, sizeof *opposite, err);
    if (!opposite)
        return -1;
    for (size_t i = 0; i < pairs; i++)
        opposite[i] = -log_ratios[i];
    rc = signed_rank_p(log_ratios, pairs, &out->p_slower, err);
    if (rc == 0)
        rc = signed_rank_p(opposite, pairs, &out->p_faster, err);
    if (rc == 0)
        rc = hodges_lehmann(log_ratios, pairs, level, &out->slowdown, err);
    free(opposite);
    out->slowdown = (struct interval){ exp(out->slowdown.estimate), exp(out->slowdown.low), exp(out->slowdown.high) };
    out->spread = robust_deviation(log_ratios, pairs);
    return rc;
}

static double pass_limit(double min_effect, const struct ab_rules *rules)
{
    return 1 + rules->pass_effects * min_effect;
}

enum ab_suspicion ab_screen(const struct ab_evidence *evidence, double min_effect, const struct ab_rules *rules)
{
    double slowdown = evidence->slowdown.estimate, worth_a_look = 1 + rules->screen_effects * min_effect;

    if (evidence->p_slower < rules->screen_p && slowdown > worth_a_look)
        return AB_SLOWER;
    if (evidence->p_faster < rules->screen_p && slowdown < 1 / worth_a_look)
        return AB_FASTER;
    return evidence->slowdown.high < pass_limit(min_effect, rules) ? AB_CLEAR : AB_UNDECIDED;
}

size_t ab_fewest_pairs(size_t candidates, const struct ab_rules *rules)
{
    /* The least p value of n pairs, all to one side, is 2^-n. */
    return (size_t)ceil(log2((double)candidates / rules->alpha));
}

/* The standard deviation of the estimate at which its interval is as narrow as the rules want it. */
static double wanted_deviation(double min_effect, const struct ab_rules *rules)
{
    return rules->precision * min_effect / plim_normal_quantile((1 + rules->confirm_level) / 2);
}

static size_t whole_pairs(double wanted, size_t least, size_t most)
{
    return wanted < (double)most ? plim_max((size_t)ceil(wanted), least) : plim_max(most, least);
}

size_t ab_first_pairs(const struct ab_evidence *screened, double min_effect, size_t candidates,
                      const struct ab_rules *rules)
{
    double times = screened->spread / wanted_deviation(min_effect, rules);

    return plim_max(whole_pairs(times * times, rules->confirm_least, rules->confirm_first),
                    ab_fewest_pairs(candidates, rules));
}

size_t ab_enough_pairs(const struct ab_evidence *fresh, enum ab_suspicion suspected, double min_effect,
                       const struct ab_rules *rules)
{
    double half = log(fresh->slowdown.high / fresh->slowdown.low) / 2, times = half / (rules->precision * min_effect);
    double harmless = suspected == AB_SLOWER ? 1 + min_effect : pass_limit(min_effect, rules);
    size_t twice = 2 * fresh->pairs;

    if (times <= 1 || (suspected != AB_FASTER && fresh->slowdown.high < harmless))
        return fresh->pairs;
    return whole_pairs(times * times * (double)fresh->pairs, fresh->pairs, plim_min(twice, rules->confirm_most));
}

enum verdict ab_verdict(const struct ab_evidence *evidence, double p_slower, double p_faster, double min_effect,
                        const struct ab_rules *rules)
{
    double slowdown = evidence->slowdown.estimate;

    if (p_slower <= rules->alpha) {
        if (slowdown >= 1 + min_effect)
            return VERDICT_FAIL;
        if (slowdown >= 1 + rules->screen_effects * min_effect)
            return VERDICT_WARN;
    }
    if (p_faster <= rules->alpha && slowdown <= 1 / (1 + min_effect))
        return VERDICT_IMPROVED;
    return evidence->slowdown.high < pass_limit(min_effect, rules) ? VERDICT_PASS : VERDICT_INCONCLUSIVE;
}
