/* Perplexity: exp of the mean negative log-likelihood of tokens, each given those before it in its window. */

#include <math.h>

#include "plimsoll/generate.h"
#include "plimsoll/units.h"

struct scorer {
    const int32_t *ids;     /* of the window */
    size_t count;
    double nll_sum;
    uint64_t token_count;
};

/* -log softmax(logits)[id] = log(sum exp(logit - highest)) + highest - logits[id] */
static double negative_log_likelihood(const float *logits, size_t vocab_size, int32_t id)
{
    float highest = logits[0];
    double sum = 0;
    for (size_t i = 1; i < vocab_size; i++)
        if (logits[i] > highest)
            highest = logits[i];
    for (size_t i = 0; i < vocab_size; i++)
        sum += exp((double)logits[i] - (double)highest);
    return log(sum) + (double)highest - (double)logits[id];
}

/* Row r holds the prediction for the token at position + r + 1; the window's last row predicts nothing that we know. */
static int score_rows(void *context, size_t position, size_t rows, size_t vocab_size, const float *logits,
                      struct plim_err *err)
{
    struct scorer *s = context;
    for (size_t r = 0; r < rows && position + r + 1 < s->count; r++) {
        double nll = negative_log_likelihood(logits + r * vocab_size, vocab_size, s->ids[position + r + 1]);
        if (!isfinite(nll))
            return plim_err_set(err, PLIM_ERR_INTERNAL, "the token after position %zu has likelihood exp(-%g)",
                                position + r, nll);
        s->nll_sum += nll;
        s->token_count++;
    }
    return 0;
}

int plim_perplexity(struct plim_session *session, const int32_t *ids, size_t count, size_t window,
                    struct plim_perplexity *out, struct plim_err *err)
{
    struct scorer s = { 0 };
    struct plim_forward forward = { .rows = PLIM_LOGITS_ALL, .callback = score_rows, .context = &s };
    size_t context_tokens = plim_session_context_tokens(session);
    int rc = -1;

    plim_session_rewind(session, 0);
    if (window < 2 || window > context_tokens)
        return plim_err_input(err, "perplexity window of %zu tokens, expected 2 to %zu (the context)", window,
                              context_tokens);
    if (count < 2)
        return plim_err_input(err, "perplexity of %zu tokens; at least 2 are needed", count);
    for (size_t first = 0; first + 1 < count; first += window) {
        s.ids = ids + first;
        s.count = plim_min(window, count - first);
        plim_session_rewind(session, 0);
        if (plim_session_forward(session, s.ids, s.count, &forward, err) < 0) {
            plim_err_wrap(err, "window at token %zu", first);
            goto out;
        }
    }
    *out = (struct plim_perplexity){ s.nll_sum, s.token_count, exp(s.nll_sum / (double)s.token_count) };
    rc = 0;
out:
    plim_session_rewind(session, 0);
    return rc;
}
