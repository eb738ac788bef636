/*
 * Drawing one token from a row of logits.
 *
 *   penalise -> / temperature -> top-k -> softmax -> top-p -> min-p -> draw
 *
 * Candidates are ordered by probability, and by id among equals. The filters use binary heaps and go only as far as
 * they must; nothing is ever sorted as a whole.
 */

#include "plimsoll/generate.h"

#include <math.h>
#include <string.h>

#include "plimsoll/pool.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

struct candidate {
    float value;      /* logit; after weigh(), exp((logit - highest) / temperature) */
    int32_t id;
};

struct plim_sampler {
    struct plim_pool *pool;           /* borrowed */
    struct plim_sampling sampling;
    struct plim_random random;
    size_t vocab_size;
    struct candidate *candidates;     /* [vocab_size]; NULL when greedy */
    uint32_t *seen;                   /* [vocab_size] times in the window; NULL without a penalty */
    int32_t *window;                  /* [repetition_window] ring of the tokens seen; NULL: all, forever */
    size_t seen_count;                /* tokens accepted so far */
};

/* ---- settings ---- */

static int check_range(const char *name, double value, double low, double high, struct plim_err *err)
{
    if (value >= low && value <= high)   /* false for NaN */
        return 0;
    return plim_err_input(err, "%s is %g, expected %g to %g", name, value, low, high);
}

#define LARGEST_WINDOW (1 << 24)

int plim_sampling_check(const struct plim_sampling *s, struct plim_err *err)
{
    if (check_range("temperature", s->temperature, 0, 1e6, err) < 0 || check_range("top_p", s->top_p, 0, 1, err) < 0 ||
        check_range("min_p", s->min_p, 0, 1, err) < 0 ||
        check_range("repetition_penalty", s->repetition_penalty, 1e-3, 1e3, err) < 0)
        return -1;
    if (s->top_p == 0)
        return plim_err_input(err, "top_p is 0, expected a share above 0 (1 keeps all)");
    if (s->top_k < 0)
        return plim_err_input(err, "top_k is %lld, expected 0 (all) or more", (long long)s->top_k);
    if (s->repetition_window < 0 || s->repetition_window > LARGEST_WINDOW)
        return plim_err_input(err, "repetition_window is %lld, expected 0 (all) to %d", (long long)s->repetition_window,
                              LARGEST_WINDOW);
    return 0;
}

static bool is_greedy(const struct plim_sampling *s)
{
    return s->temperature == 0;
}

static bool has_penalty(const struct plim_sampling *s)
{
    return s->repetition_penalty != 1;
}

/* ---- the object: one block, the arrays behind the struct ---- */

struct sampler_layout {
    size_t candidates, seen, window, total;   /* byte offsets */
};

static struct sampler_layout sampler_layout(size_t vocab_size, const struct plim_sampling *s)
{
    struct sampler_layout at;
    size_t window = has_penalty(s) ? (size_t)s->repetition_window : 0;
    at.candidates = sizeof(struct plim_sampler);
    at.seen = at.candidates + (is_greedy(s) ? 0 : vocab_size * sizeof(struct candidate));
    at.window = at.seen + (has_penalty(s) ? vocab_size * sizeof(uint32_t) : 0);
    at.total = at.window + window * sizeof(int32_t);
    return at;
}

size_t plim_sampler_bytes(size_t vocab_size, const struct plim_sampling *sampling)
{
    return sampler_layout(vocab_size, sampling).total;
}

int plim_sampler_open(struct plim_sampler **out, struct plim_pool *pool, size_t vocab_size,
                      const struct plim_sampling *sampling, struct plim_err *err)
{
    struct sampler_layout at;
    struct plim_sampler *s;
    char *block;

    *out = NULL;
    if (plim_sampling_check(sampling, err) < 0)
        return -1;
    if (vocab_size == 0 || vocab_size > INT32_MAX)
        return plim_err_input(err, "a vocabulary of %zu tokens cannot be sampled", vocab_size);
    at = sampler_layout(vocab_size, sampling);
    block = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_LOGITS, 1, at.total, err);
    if (!block)
        return plim_err_wrap(err, "opening a sampler of %zu tokens", vocab_size);
    s = (struct plim_sampler *)(void *)block;
    s->pool = pool;
    s->sampling = *sampling;
    s->vocab_size = vocab_size;
    s->candidates = is_greedy(sampling) ? NULL : (struct candidate *)(void *)(block + at.candidates);
    s->seen = has_penalty(sampling) ? (uint32_t *)(void *)(block + at.seen) : NULL;
    s->window = s->seen && sampling->repetition_window ? (int32_t *)(void *)(block + at.window) : NULL;
    plim_random_seed(&s->random, sampling->seed, 0);
    *out = s;
    return 0;
}

void plim_sampler_close(struct plim_sampler *s)
{
    if (s)
        plim_pool_free(s->pool, s);
}

void plim_sampler_accept(struct plim_sampler *s, int32_t id)
{
    if (!s->seen || id < 0 || (size_t)id >= s->vocab_size)
        return;
    if (s->window) {
        size_t length = (size_t)s->sampling.repetition_window;
        int32_t *slot = &s->window[s->seen_count % length];
        if (s->seen_count >= length)
            s->seen[*slot]--;
        *slot = id;
    }
    s->seen[id]++;
    s->seen_count++;
}

/* ---- choosing ---- */

static float penalised(const struct plim_sampler *s, const float *logits, size_t id)
{
    float logit = logits[id], penalty = (float)s->sampling.repetition_penalty;
    if (!s->seen || !s->seen[id])
        return logit;
    return logit > 0 ? logit / penalty : logit * penalty;
}

/* The row's highest logit after the penalty, and the lowest id that has it. */
static int find_highest(const struct plim_sampler *s, const float *logits, struct candidate *out, struct plim_err *err)
{
    struct candidate best = { -INFINITY, -1 };
    for (size_t i = 0; i < s->vocab_size; i++) {
        float logit = penalised(s, logits, i);
        if (!(logit < INFINITY))
            return plim_err_set(err, PLIM_ERR_INTERNAL, "logit of token %zu is %g", i, (double)logit);
        if (logit > best.value)
            best = (struct candidate){ logit, (int32_t)i };
    }
    if (best.id < 0)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "the logits rule every token out");
    *out = best;
    return 0;
}

static bool comes_before(struct candidate a, struct candidate b)
{
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/*
 * heap[0 .. count): each candidate comes before its children, 2i + 1 and 2i + 2; or after them, when the last one is
 * `on_top`. Restores that below `i`. No two candidates are equal, since their ids differ.
 */
enum top { FIRST_ON_TOP, LAST_ON_TOP };

static void heap_sink(struct candidate *heap, size_t count, size_t i, enum top on_top)
{
    bool wanted = on_top == FIRST_ON_TOP;
    struct candidate moving = heap[i];
    for (size_t child = 2 * i + 1; child < count; i = child, child = 2 * i + 1) {
        if (child + 1 < count && comes_before(heap[child + 1], heap[child]) == wanted)
            child++;
        if (comes_before(heap[child], moving) != wanted)
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

static void heap_make(struct candidate *heap, size_t count, enum top on_top)
{
    for (size_t i = count / 2; i-- > 0;)
        heap_sink(heap, count, i, on_top);
}

/* Takes the first out of heap[0 .. count) and puts it at heap[count - 1]. */
static struct candidate heap_pop(struct candidate *heap, size_t count)
{
    struct candidate first = heap[0];
    heap[0] = heap[count - 1];
    heap_sink(heap, count - 1, 0, FIRST_ON_TOP);
    heap[count - 1] = first;
    return first;
}

/* Leaves the k first of candidates[0 .. count) at the front: a heap whose top is the next to be replaced. */
static void keep_top_k(struct candidate *candidates, size_t count, size_t k)
{
    heap_make(candidates, k, LAST_ON_TOP);
    for (size_t i = k; i < count; i++) {
        if (comes_before(candidates[i], candidates[0])) {
            candidates[0] = candidates[i];
            heap_sink(candidates, k, 0, LAST_ON_TOP);
        }
    }
}

/* Logits become weights, 1 for the highest. Returns their sum. */
static double weigh(const struct plim_sampler *s, struct candidate *candidates, size_t count, float highest)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double weight = exp(((double)candidates[i].value - (double)highest) / s->sampling.temperature);
        candidates[i].value = (float)weight;
        sum += (double)candidates[i].value;
    }
    return sum;
}

/*
 * Keeps the smallest set of at least `share` of the sum, at the front. Weights below (1 - share) sum / count are left
 * out first: all of them together are less than what may be dropped, so the set is among the others.
 */
static size_t keep_top_p(struct candidate *candidates, size_t count, double sum, double share)
{
    double least = (1 - share) * sum / (double)count, mass = 0;
    size_t likely = 0, kept = 0;
    for (size_t i = 0; i < count; i++)
        if ((double)candidates[i].value >= least)
            candidates[likely++] = candidates[i];
    heap_make(candidates, likely, FIRST_ON_TOP);
    while (kept < likely && mass < share * sum) {
        mass += (double)heap_pop(candidates, likely - kept).value;
        kept++;
    }
    memmove(candidates, candidates + likely - kept, kept * sizeof *candidates);
    return kept;
}

static size_t keep_min_p(struct candidate *candidates, size_t count, double share)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if ((double)candidates[i].value >= share)   /* the best one's weight is 1 */
            candidates[kept++] = candidates[i];
    return kept;
}

static int32_t draw(struct plim_sampler *s, const struct candidate *candidates, size_t count)
{
    double sum = 0, mark;
    size_t last = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)candidates[i].value;
    mark = plim_random_double(&s->random) * sum;
    for (size_t i = 0; i < count; i++) {
        if (candidates[i].value <= 0)
            continue;
        last = i;
        mark -= (double)candidates[i].value;
        if (mark < 0)
            break;
    }
    return candidates[last].id;   /* rounding may leave a mark of 0 after the last one */
}

int plim_sampler_sample(struct plim_sampler *s, const float *logits, int32_t *id, struct plim_err *err)
{
    const struct plim_sampling *settings = &s->sampling;
    struct candidate highest = { 0 };
    size_t count = s->vocab_size;
    double sum;

    if (find_highest(s, logits, &highest, err) < 0)
        return -1;
    if (is_greedy(settings)) {
        *id = highest.id;
        return 0;
    }
    for (size_t i = 0; i < count; i++)
        s->candidates[i] = (struct candidate){ penalised(s, logits, i), (int32_t)i };
    if (settings->top_k > 0 && (size_t)settings->top_k < count) {
        keep_top_k(s->candidates, count, (size_t)settings->top_k);
        count = (size_t)settings->top_k;
    }
    sum = weigh(s, s->candidates, count, highest.value);
    if (settings->top_p < 1)
        count = keep_top_p(s->candidates, count, sum, settings->top_p);
    if (settings->min_p > 0)
        count = keep_min_p(s->candidates, count, settings->min_p);
    *id = draw(s, s->candidates, count);
    return 0;
}
