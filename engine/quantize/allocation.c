#include "allocation.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Partial choices kept after a slot. 20000 pairs over 160 slots are 77 MB, and some seconds at worst. */
#define STATE_LIMIT ((size_t)20000)

/* One partial choice: the slots up to here. */
struct state {
    uint64_t bits;
    double error;
    uint32_t parent;       /* index among the previous slot's states */
    int32_t option;
};

/* A slot's options that are worth having: on the lower convex hull of (bits, loss), by rising bits. */
struct hull {
    int count;
    int option[ALLOCATION_MAX_OPTIONS];
};

/* One step up a hull: what it costs and what it saves. */
struct step {
    double saving_per_bit;
    uint64_t bits;
    double saving;
    uint32_t slot;
};

struct solver {
    const struct allocation_slot *slots;
    size_t slot_count;
    uint64_t budget;
    struct plim_pool *pool;
    struct hull *hulls;
    struct step *steps;           /* of all hulls, best saving first */
    size_t step_count;
    struct state *states;         /* of all slots, end to end; state_begin[i] .. state_begin[i + 1] are slot i's */
    size_t *state_begin;
    struct state *candidates;     /* of one slot, before dominance */
    double incumbent;             /* loss of the best complete choice known */
    double merged_below;          /* least bound of a partial choice that was merged away; INFINITY: none was */
};

static double loss_of(const struct allocation_slot *slot, int option)
{
    return slot->weight * slot->option[option].error * slot->option[option].error;
}

/* ---- the linear relaxation ---- */

static int cheapest(const struct allocation_slot *slot)
{
    int best = 0;
    for (int o = 1; o < slot->option_count; o++)
        if (slot->option[o].bits < slot->option[best].bits ||
            (slot->option[o].bits == slot->option[best].bits && slot->option[o].error < slot->option[best].error))
            best = o;
    return best;
}

/* From one hull point to the option that saves most error for each further bit. */
static int next_on_hull(const struct allocation_slot *slot, int from)
{
    int best = -1;
    double best_rate = 0;
    for (int o = 0; o < slot->option_count; o++) {
        if (slot->option[o].bits <= slot->option[from].bits)
            continue;
        double rate = (loss_of(slot, from) - loss_of(slot, o)) /
                      (double)(slot->option[o].bits - slot->option[from].bits);
        if (rate > best_rate || (rate == best_rate && best >= 0 && slot->option[o].bits > slot->option[best].bits)) {
            best = o;
            best_rate = rate;
        }
    }
    return best;
}

static void build_hull(const struct allocation_slot *slot, struct hull *hull)
{
    hull->count = 0;
    for (int o = cheapest(slot); o >= 0; o = next_on_hull(slot, o))
        hull->option[hull->count++] = o;
}

static int by_saving(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    if (x->saving_per_bit != y->saving_per_bit)
        return x->saving_per_bit < y->saving_per_bit ? 1 : -1;
    if (x->slot != y->slot)
        return x->slot < y->slot ? -1 : 1;
    return x->bits < y->bits ? -1 : x->bits > y->bits;
}

static void build_steps(struct solver *s)
{
    s->step_count = 0;
    for (size_t i = 0; i < s->slot_count; i++) {
        const struct allocation_slot *slot = &s->slots[i];
        const struct hull *hull = &s->hulls[i];
        for (int h = 1; h < hull->count; h++) {
            int from = hull->option[h - 1], to = hull->option[h];
            struct step *step = &s->steps[s->step_count++];
            step->bits = slot->option[to].bits - slot->option[from].bits;
            step->saving = loss_of(slot, from) - loss_of(slot, to);
            step->saving_per_bit = step->saving / (double)step->bits;
            step->slot = (uint32_t)i;
        }
    }
    qsort(s->steps, s->step_count, sizeof *s->steps, by_saving);
}

/*
 * The least error that slots first .. can add within `bits`, were options divisible; *bits and the sum start from
 * each slot's cheapest option. INFINITY when not even those fit.
 */
static double relaxation(const struct solver *s, size_t first, uint64_t base_bits, double base_error, uint64_t bits)
{
    if (base_bits > bits)
        return INFINITY;
    double left = (double)(bits - base_bits), error = base_error;
    for (size_t i = 0; i < s->step_count && left > 0; i++) {
        const struct step *step = &s->steps[i];
        if (step->slot < first)
            continue;
        if ((double)step->bits > left)
            return error - step->saving_per_bit * left;
        left -= (double)step->bits;
        error -= step->saving;
    }
    return error;
}

/* ---- a good complete choice to begin with ---- */

/* Steps up in order of saving, skipping what no longer fits; then single slots moved while that helps. */
static void greedy(struct solver *s, int *choice)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < s->slot_count; i++) {
        choice[i] = s->hulls[i].option[0];
        bits += s->slots[i].option[choice[i]].bits;
    }
    for (bool moved = true; moved;) {
        double best_saving = 0;
        size_t best_slot = 0;
        int best_option = -1;
        moved = false;
        for (size_t i = 0; i < s->slot_count; i++) {
            const struct allocation_slot *slot = &s->slots[i];
            uint64_t others = bits - slot->option[choice[i]].bits;
            for (int o = 0; o < slot->option_count; o++) {
                double saving = loss_of(slot, choice[i]) - loss_of(slot, o);
                uint64_t extra = slot->option[o].bits > slot->option[choice[i]].bits
                                     ? slot->option[o].bits - slot->option[choice[i]].bits
                                     : 1;
                if (saving <= 0 || others + slot->option[o].bits > s->budget)
                    continue;
                if (best_option < 0 || saving / (double)extra > best_saving) {
                    best_saving = saving / (double)extra;
                    best_slot = i;
                    best_option = o;
                }
            }
        }
        if (best_option >= 0) {
            bits = bits - s->slots[best_slot].option[choice[best_slot]].bits +
                   s->slots[best_slot].option[best_option].bits;
            choice[best_slot] = best_option;
            moved = true;
        }
    }
}

static double error_of(const struct solver *s, const int *choice)
{
    double sum = 0;
    for (size_t i = 0; i < s->slot_count; i++)
        sum += loss_of(&s->slots[i], choice[i]);
    return sum;
}

/* ---- dominance ---- */

static int by_bits(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    if (x->bits != y->bits)
        return x->bits < y->bits ? -1 : 1;
    if (x->error != y->error)
        return x->error < y->error ? -1 : 1;
    if (x->option != y->option)
        return x->option < y->option ? -1 : 1;
    return x->parent < y->parent ? -1 : x->parent > y->parent;
}

/* Keeps the states that no cheaper one beats; returns their number. */
static size_t drop_dominated(struct state *states, size_t count)
{
    size_t kept = 0;
    double least = INFINITY;
    qsort(states, count, sizeof *states, by_bits);
    for (size_t i = 0; i < count; i++)
        if (states[i].error < least) {
            least = states[i].error;
            states[kept++] = states[i];
        }
    return kept;
}

/* What slots `first` .. cost and err at their cheapest options. */
static void rest_at_cheapest(const struct solver *s, size_t first, uint64_t *bits, double *error)
{
    *bits = 0;
    *error = 0;
    for (size_t i = first; i < s->slot_count; i++) {
        int o = s->hulls[i].option[0];
        *bits += s->slots[i].option[o].bits;
        *error += loss_of(&s->slots[i], o);
    }
}

static double bound_of(const struct solver *s, const struct state *state, size_t next_slot, uint64_t rest_bits,
                       double rest_error)
{
    if (state->bits > s->budget)
        return INFINITY;
    return state->error + relaxation(s, next_slot, rest_bits, rest_error, s->budget - state->bits);
}

/* Thins a list to the limit, evenly; remembers the best bound among what goes. */
static size_t thin(struct solver *s, struct state *states, size_t count, size_t next_slot, uint64_t rest_bits,
                   double rest_error)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (i * STATE_LIMIT / count == kept && kept < STATE_LIMIT) {
            states[kept++] = states[i];
            continue;
        }
        double bound = bound_of(s, &states[i], next_slot, rest_bits, rest_error);
        s->merged_below = bound < s->merged_below ? bound : s->merged_below;
    }
    return kept;
}

/* Extends every state of the previous slot by every option of slot i. */
static size_t extend(struct solver *s, size_t i, const struct state *previous, size_t previous_count)
{
    const struct allocation_slot *slot = &s->slots[i];
    uint64_t rest_bits;
    double rest_error;
    size_t count = 0;
    rest_at_cheapest(s, i + 1, &rest_bits, &rest_error);
    for (size_t p = 0; p < previous_count; p++)
        for (int o = 0; o < slot->option_count; o++)
            s->candidates[count++] = (struct state){ previous[p].bits + slot->option[o].bits,
                                                     previous[p].error + loss_of(slot, o), (uint32_t)p, o };
    count = drop_dominated(s->candidates, count);
    size_t kept = 0;
    for (size_t c = 0; c < count; c++) {
        /* The slack keeps the incumbent itself, whose sum was taken in another order. */
        double bound = bound_of(s, &s->candidates[c], i + 1, rest_bits, rest_error);
        if (bound <= s->incumbent * (1 + 1e-12) + 1e-300)
            s->candidates[kept++] = s->candidates[c];
    }
    if (kept > STATE_LIMIT)
        kept = thin(s, s->candidates, kept, i + 1, rest_bits, rest_error);
    return kept;
}

static int reserve(struct solver *s, struct state **states, size_t *capacity, size_t needed, struct plim_err *err)
{
    if (needed <= *capacity)
        return 0;
    struct state *grown = plim_pool_realloc(s->pool, PLIM_TAG_WORKSPACE, *states, 2 * needed * sizeof *grown, err);
    if (!grown)
        return -1;
    *states = grown;
    *capacity = 2 * needed;
    return 0;
}

static int search(struct solver *s, int *choice, struct plim_err *err)
{
    static const struct state origin = { 0, 0, 0, -1 };
    const struct state *previous = &origin;
    size_t previous_count = 1, used = 0, capacity = 0, candidate_capacity = 0;
    for (size_t i = 0; i < s->slot_count; i++) {
        if (reserve(s, &s->candidates, &candidate_capacity, previous_count * (size_t)s->slots[i].option_count, err) < 0)
            return -1;
        size_t count = extend(s, i, previous, previous_count);
        if (count == 0)
            return 0;   /* thinning lost the incumbent's path: the greedy choice stands */
        if (reserve(s, &s->states, &capacity, used + count, err) < 0)
            return -1;
        memcpy(s->states + used, s->candidates, count * sizeof *s->states);
        s->state_begin[i] = used;
        previous = s->states + used;
        previous_count = count;
        used += count;
    }
    /* The last list falls in error as it rises in bits: its last entry within the budget is the best. */
    size_t best = used;
    for (size_t c = s->state_begin[s->slot_count - 1]; c < used; c++)
        if (s->states[c].bits <= s->budget && (best == used || s->states[c].error < s->states[best].error))
            best = c;
    if (best == used)
        return 0;
    for (size_t i = s->slot_count; i-- > 0;) {
        choice[i] = s->states[best].option;
        if (i > 0)
            best = s->state_begin[i - 1] + s->states[best].parent;
    }
    return 0;
}

static int refuse_budget(const struct solver *s, uint64_t least, uint64_t weight_count, struct plim_err *err)
{
    uint64_t most = 0;
    for (size_t i = 0; i < s->slot_count; i++) {
        uint64_t largest = 0;
        for (int o = 0; o < s->slots[i].option_count; o++)
            if (s->slots[i].option[o].bits > largest)
                largest = s->slots[i].option[o].bits;
        most += largest;
    }
    if (weight_count == 0)
        return plim_err_input(err, "a budget of %" PRIu64 " bits is out of reach; the options span %" PRIu64
                              " to %" PRIu64, s->budget, least, most);
    double weights = (double)weight_count;
    return plim_err_input(err, "%.4f bits per weight is out of reach for this model; the options span %.4f to %.4f",
                          (double)s->budget / weights, (double)least / weights, (double)most / weights);
}

static void describe(const struct solver *s, const int *choice, struct allocation *out)
{
    *out = (struct allocation){ .loss = error_of(s, choice) };
    for (size_t i = 0; i < s->slot_count; i++) {
        out->bits += s->slots[i].option[choice[i]].bits;
        out->worst_error = fmax(out->worst_error, s->slots[i].option[choice[i]].error);
    }
    out->lower_bound = fmin(out->loss, s->merged_below);
}

static void *workspace(struct solver *s, size_t bytes, struct plim_err *err)
{
    return plim_pool_alloc(s->pool, PLIM_HOST, PLIM_TAG_WORKSPACE, bytes, err);
}

int allocate(const struct allocation_slot *slots, size_t slot_count, uint64_t budget_bits, uint64_t weight_count,
             struct plim_pool *pool, int *choice, struct allocation *out, struct plim_err *err)
{
    struct solver s = { .slots = slots, .slot_count = slot_count, .budget = budget_bits, .pool = pool };
    uint64_t least_bits;
    double most_error;
    int rc = -1;

    s.merged_below = INFINITY;
    if (!(s.hulls = workspace(&s, slot_count * sizeof *s.hulls, err)) ||
        !(s.steps = workspace(&s, slot_count * ALLOCATION_MAX_OPTIONS * sizeof *s.steps, err)) ||
        !(s.state_begin = workspace(&s, slot_count * sizeof *s.state_begin, err)))
        goto out;
    for (size_t i = 0; i < slot_count; i++)
        build_hull(&slots[i], &s.hulls[i]);
    build_steps(&s);
    rest_at_cheapest(&s, 0, &least_bits, &most_error);
    if (least_bits > budget_bits) {
        refuse_budget(&s, least_bits, weight_count, err);
        goto out;
    }
    greedy(&s, choice);
    s.incumbent = error_of(&s, choice);
    double relaxed = relaxation(&s, 0, least_bits, most_error, budget_bits);
    if (search(&s, choice, err) < 0)
        goto out;
    describe(&s, choice, out);
    out->lower_bound = fmax(out->lower_bound, fmin(relaxed, out->loss));
    rc = 0;
out:
    plim_pool_free(pool, s.hulls);
    plim_pool_free(pool, s.steps);
    plim_pool_free(pool, s.state_begin);
    plim_pool_free(pool, s.candidates);
    plim_pool_free(pool, s.states);
    return rc;
}
