/*
 * Kullback-Leibler divergence of a model from a reference, over the tokens of a text:
 *
 *     KL(p || q) = sum over the vocabulary of p (log p - log q),   p the reference's probabilities, q the model's
 *
 * Both sessions take the same piece of a window in turn. The reference's logits of that piece are kept, the model's come by
 * and are compared: nothing larger than a piece of logits is ever held.
 */

#include <math.h>
#include <string.h>

#include "plimsoll/generate.h"
#include "plimsoll/units.h"
#include "threads.h"

/* Of one position; the sums are taken in the order of positions, so that the number of threads changes no digit. */
struct row {
    double kl;
    double nll_model, nll_reference;   /* of the token that follows; 0 for the last of the window */
    bool agrees;
};

struct comparison {
    const int32_t *ids;      /* of the window */
    size_t count;
    size_t first;            /* position of the piece */
    float *reference;        /* [rows of a piece, vocab_size] */
    struct row *rows;        /* [rows of a piece] */
    struct threads *threads;
    struct plim_divergence sum;
};

/* The rows of one call of compare_rows. */
struct call {
    const struct comparison *comparison;
    size_t first;            /* of the piece's rows */
    size_t vocab_size;
    const float *logits;     /* [rows, vocab_size] */
};

static int keep_rows(void *context, size_t position, size_t rows, size_t vocab_size, const float *logits,
                     struct plim_err *err)
{
    struct comparison *c = context;
    (void)err;
    memcpy(c->reference + (position - c->first) * vocab_size, logits, rows * vocab_size * sizeof *logits);
    return 0;
}

/* log(sum exp(logits)): what a logit lacks to a log-probability. Also where the greatest one is. */
static double log_sum(const float *logits, size_t vocab_size, size_t *best)
{
    double sum = 0;
    *best = 0;
    for (size_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[*best])
            *best = i;
    for (size_t i = 0; i < vocab_size; i++)
        sum += exp((double)logits[i] - (double)logits[*best]);
    return log(sum) + (double)logits[*best];
}

static struct row compare_row(const struct comparison *c, size_t position, const float *p, const float *q, size_t vocab_size)
{
    size_t best_p, best_q;
    double sum_p = log_sum(p, vocab_size, &best_p), sum_q = log_sum(q, vocab_size, &best_q);
    struct row row = { .agrees = best_p == best_q };

    for (size_t i = 0; i < vocab_size; i++) {
        double log_p = (double)p[i] - sum_p, probability = exp(log_p);
        if (probability > 0)   /* else the term is 0, though log_p may be -infinity */
            row.kl += probability * (log_p - ((double)q[i] - sum_q));
    }
    if (position + 1 < c->count) {
        int32_t next = c->ids[position + 1];
        row.nll_model = sum_q - (double)q[next];
        row.nll_reference = sum_p - (double)p[next];
    }
    return row;
}

static void compare_some(void *context, size_t begin, size_t end, int thread)
{
    const struct call *call = context;
    const struct comparison *c = call->comparison;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        const float *reference = c->reference + (call->first + r) * call->vocab_size;
        c->rows[call->first + r] = compare_row(c, c->first + call->first + r, reference,
                                               call->logits + r * call->vocab_size, call->vocab_size);
    }
}

static int compare_rows(void *context, size_t position, size_t rows, size_t vocab_size, const float *logits,
                        struct plim_err *err)
{
    struct comparison *c = context;
    struct call call = { c, position - c->first, vocab_size, logits };

    threads_run(c->threads, rows, 1, compare_some, &call);
    for (size_t r = 0; r < rows; r++, position++) {
        const struct row *row = &c->rows[call.first + r];
        if (!isfinite(row->kl))
            return plim_err_set(err, PLIM_ERR_INTERNAL, "the divergence after position %zu is %g", position, row->kl);
        c->sum.kl_sum += row->kl;
        c->sum.position_count++;
        c->sum.agreement_count += row->agrees;
        c->sum.model.nll_sum += row->nll_model;
        c->sum.reference.nll_sum += row->nll_reference;
        c->sum.model.token_count += position + 1 < c->count;
        c->sum.reference.token_count += position + 1 < c->count;
    }
    return 0;
}

static int compare_window(struct comparison *c, struct plim_session *session, struct plim_session *reference,
                          size_t piece_rows, struct plim_err *err)
{
    struct plim_forward keep = { .rows = PLIM_LOGITS_ALL, .callback = keep_rows, .context = c };
    struct plim_forward compare = { .rows = PLIM_LOGITS_ALL, .callback = compare_rows, .context = c };

    plim_session_rewind(session, 0);
    plim_session_rewind(reference, 0);
    for (c->first = 0; c->first < c->count; c->first += piece_rows) {
        size_t rows = plim_min(piece_rows, c->count - c->first);
        if (plim_session_forward(reference, c->ids + c->first, rows, &keep, err) < 0)
            return plim_err_wrap(err, "reference");
        if (plim_session_forward(session, c->ids + c->first, rows, &compare, err) < 0)
            return -1;
    }
    return 0;
}

static int check(const struct plim_session *session, const struct plim_session *reference, size_t count, size_t window,
                 size_t *vocab_size, struct plim_err *err)
{
    size_t context_tokens = plim_min(plim_session_context_tokens(session), plim_session_context_tokens(reference));
    struct plim_model_info info, other;

    plim_model_info(plim_session_model(session), &info);
    plim_model_info(plim_session_model(reference), &other);
    *vocab_size = info.vocab_size;
    if (info.vocab_size != other.vocab_size)
        return plim_err_input(err, "the model has a vocabulary of %zu tokens, the reference one of %zu", info.vocab_size,
                              other.vocab_size);
    if (session == reference)
        return plim_err_input(err, "the reference must be a session of its own");
    if (window < 2 || window > context_tokens)
        return plim_err_input(err, "divergence window of %zu tokens, expected 2 to %zu (the context)", window,
                              context_tokens);
    if (count < 2)
        return plim_err_input(err, "divergence over %zu tokens; at least 2 are needed", count);
    return 0;
}

static void finish(struct plim_perplexity *p)
{
    p->perplexity = exp(p->nll_sum / (double)p->token_count);
}

int plim_divergence(struct plim_session *session, struct plim_session *reference, const int32_t *ids, size_t count,
                    size_t window, struct plim_divergence *out, struct plim_err *err)
{
    struct plim_engine *engine = plim_model_engine(plim_session_model(reference));
    struct plim_pool *pool = plim_engine_pool(engine);
    struct comparison c = { 0 };
    size_t vocab_size, piece_rows;
    int rc = -1;

    if (check(session, reference, count, window, &vocab_size, err) < 0)
        return -1;
    piece_rows = plim_logits_piece_rows(vocab_size, plim_min(window, count));
    c.reference = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_LOGITS, piece_rows * vocab_size * sizeof *c.reference, err);
    if (!c.reference)
        goto out;
    c.rows = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_LOGITS, piece_rows * sizeof *c.rows, err);
    if (!c.rows)
        goto out;
    if (threads_open(&c.threads, (int)plim_engine_parameters(engine)->count[PLIM_CPU_THREADS], err) < 0)
        goto out;
    for (size_t first = 0; first + 1 < count; first += window) {
        c.ids = ids + first;
        c.count = plim_min(window, count - first);
        if (compare_window(&c, session, reference, piece_rows, err) < 0) {
            plim_err_wrap(err, "window at token %zu", first);
            goto out;
        }
    }
    finish(&c.sum.model);
    finish(&c.sum.reference);
    c.sum.kl_mean = c.sum.kl_sum / (double)c.sum.position_count;
    *out = c.sum;
    rc = 0;

out:
    threads_close(c.threads);
    plim_pool_free(pool, c.rows);
    plim_pool_free(pool, c.reference);
    plim_session_rewind(session, 0);
    plim_session_rewind(reference, 0);
    return rc;
}
