#ifndef PLIM_ALLOCATION_H
#define PLIM_ALLOCATION_H

/*
 * Which option each module gets: the least sum of weighted squared errors whose size stays within a budget of bits.
 *
 * A multiple-choice knapsack (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11). Relative errors of
 * modules that feed one residual stream add up like independent noise, hence the squares; the weight says what a module's
 * error does to the predictions. Solved by dominance: partial choices are kept as (bits, error) pairs that no other pair beats in both, and dropped when even the linear relaxation
 * of what is left cannot bring them below the best complete choice known. That is exact unless more than STATE_LIMIT
 * pairs survive; then neighbours are merged, and `lower_bound` says how far from the optimum the answer can be.
 *
 * Deterministic: no randomness, ties go to fewer bits, then to the lower option.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

#define ALLOCATION_MAX_OPTIONS 32

struct allocation_option {
    uint64_t bits;
    double error;                     /* relative Frobenius error of the module, >= 0 */
};

struct allocation_slot {
    int option_count;
    double weight;                    /* of its squared error, >= 0; 1 for all: they weigh the same */
    struct allocation_option option[ALLOCATION_MAX_OPTIONS];
};

struct allocation {
    uint64_t bits;                    /* <= the budget */
    double loss;                      /* of the choice: sum of weight x error^2 */
    double lower_bound;               /* no choice within the budget has less; equal to loss: optimal */
    double worst_error;               /* of one module */
};

/*
 * choice [slot_count] receives the option of each slot. A budget below the smallest possible size is an error (kind
 * input) that says which sizes can be reached, as bits per weight when `weight_count` is not 0.
 */
int allocate(const struct allocation_slot *slots, size_t slot_count, uint64_t budget_bits, uint64_t weight_count,
             struct plim_pool *pool, int *choice, struct allocation *out, struct plim_err *err);

#endif
