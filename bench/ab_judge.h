#ifndef PLIM_AB_JUDGE_H
#define PLIM_AB_JUDGE_H

/*
 * From pairs of timings of two builds to a verdict. Nothing here measures; the same code judges real pairs and those of
 * the simulations that say how often it errs (`plimsoll selftest gate`).
 *
 * Two stages. Few pairs of every case show which are suspicious; only these are measured again, and the verdict comes
 * from the fresh pairs alone. So the correction for looking at many cases counts the suspicious ones, not all, and the
 * noise that made a case suspicious is not used again to convict it. Fresh pairs come in instalments, until the estimate is
 * as precise as a verdict needs; how many depends on the width of its interval, which says nothing about its direction, so
 * that looking again and again makes no false alarm likelier.
 */

#include <stddef.h>

#include "compare.h"
#include "plimsoll/err.h"
#include "statistics.h"

struct ab_rules {
    size_t screen_pairs;             /* of every case */
    double screen_p;                 /* a case is suspicious with a p value below this ... */
    double screen_effects;           /* ... and an estimate above this share of the minimum effect */
    double alpha;                    /* of a false alarm in all cases together */
    double min_effect;               /* a slowdown that fails, unless the case says otherwise */
    double pass_effects;             /* a pass excludes a slowdown of so many times the minimum effect */
    double screen_level;             /* of intervals; their upper ends are one-sided bounds of (1 + level) / 2 */
    double confirm_level;
    size_t confirm_least, confirm_first, confirm_most;   /* pairs: the first instalment is from least to first */
    double precision;                /* half of the confirmed interval, as a share of the minimum effect: then it is enough */
};

/*
 * Screens 8 pairs at 0.10 and half the minimum effect; confirms with 24 pairs or more, at 0.01 for all cases together and
 * 3%, until the interval of 98% is 1.8% to each side; passes where 5% is excluded.
 *
 * By `plimsoll selftest gate`, 300 suites of 40 cases with a minute a case: no false alarm on any machine; a slowdown of 5%
 * is found in 300 (quiet), 299 (shared) and 294 (hostile) with 8.7, 15.5 and 50 pairs a case. At most 64 pairs, as there
 * were once, found it in 100, 99 and 72%: what a restless machine needs is pairs, and time for them there was.
 */
struct ab_rules ab_rules_default(void);

/* What the pairs of one case say about B against A. */
struct ab_evidence {
    size_t pairs;
    double p_slower, p_faster;   /* one-sided signed-rank */
    struct interval slowdown;    /* how many times worse B is; Hodges-Lehmann; may be unbounded */
    double spread;               /* robust standard deviation of the log ratios: 0.01 for 1% */
};

/* Intervals have `level`. `log_ratios`: for each pair the logarithm of how many times worse B was. */
int ab_evidence(const double *log_ratios, size_t pairs, double level, struct ab_evidence *out, struct plim_err *err);

enum ab_suspicion {
    AB_CLEAR,
    AB_UNDECIDED,   /* nothing seen, but a slowdown that matters isn't excluded either */
    AB_FASTER,
    AB_SLOWER
};

/* `min_effect` is the case's own. */
enum ab_suspicion ab_screen(const struct ab_evidence *evidence, double min_effect, const struct ab_rules *rules);

/* How many fresh pairs to begin with, by the spread that screening saw, if `candidates` cases are confirmed together. */
size_t ab_first_pairs(const struct ab_evidence *screened, double min_effect, size_t candidates,
                      const struct ab_rules *rules);

/*
 * How many fresh pairs are enough, now that there are some: these, when the interval is narrow enough or excludes what
 * could matter; else as many as should make it so, at most twice as many. How large the effect looks decides nothing but
 * that it is harmless, so looking again makes no false alarm likelier.
 */
size_t ab_enough_pairs(const struct ab_evidence *fresh, enum ab_suspicion suspected, double min_effect,
                       const struct ab_rules *rules);

/* The fewest pairs with which a p value can come below alpha after the correction for `candidates`. */
size_t ab_fewest_pairs(size_t candidates, const struct ab_rules *rules);

/*
 * The verdict. `evidence` is the confirming stage's, with p values in both directions, corrected for all that was confirmed
 * together; of a case that wasn't confirmed the screening's, and 1. Which direction screening pointed to doesn't matter: on a
 * restless machine eight pairs of something slower may look faster.
 */
enum verdict ab_verdict(const struct ab_evidence *evidence, double p_slower, double p_faster, double min_effect,
                        const struct ab_rules *rules);

#endif
