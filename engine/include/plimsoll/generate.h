#ifndef PLIMSOLL_GENERATE_H
#define PLIMSOLL_GENERATE_H

/* Sampling, generation, perplexity and divergence on top of a session. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/engine.h"
#include "plimsoll/err.h"
#include "plimsoll/tokenizer.h"

/*
 * Order of application: repetition penalty, temperature, top-k, top-p, min-p, draw. Temperature 0 is greedy (lowest id
 * wins a tie) and ignores the rest but the penalty.
 */
struct plim_sampling {
    double temperature;           /* >= 0 */
    int64_t top_k;                /* keep the k most probable; 0: all */
    double top_p;                 /* keep the smallest set with at least this probability; 1: all */
    double min_p;                 /* keep tokens with at least this share of the best one's probability; 0: all */
    double repetition_penalty;    /* logits of tokens seen: divided if positive, multiplied if not (Keskar et al.,
                                     "CTRL", 2019); 1: none */
    int64_t repetition_window;    /* tokens looked back on; 0: all */
    uint64_t seed;
};

#define PLIM_SAMPLING_GREEDY { .temperature = 0, .top_p = 1, .repetition_penalty = 1 }

/* Refuses values out of range, each by its name. plim_sampler_open and plim_generate call it. */
int plim_sampling_check(const struct plim_sampling *sampling, struct plim_err *err);

struct plim_sampler;

/*
 * A sampler for a vocabulary; its memory (tag logits, one block) is allocated here, once, and only for what the
 * settings use. Sampling runs on the calling thread. The draws of a seed don't depend on anything else.
 */
int plim_sampler_open(struct plim_sampler **sampler, struct plim_pool *pool, size_t vocab_size,
                      const struct plim_sampling *sampling, struct plim_err *err);
void plim_sampler_close(struct plim_sampler *sampler);

/* Tells the sampler of a token that was seen (prompt or generated), for the repetition penalty. */
void plim_sampler_accept(struct plim_sampler *sampler, int32_t id);

/*
 * Draws the next id from one row of logits (unchanged). -INFINITY rules a token out; NaN, +INFINITY and a row in which
 * every token is ruled out are errors (kind internal: the model is broken, not the request).
 */
int plim_sampler_sample(struct plim_sampler *sampler, const float *logits, int32_t *id, struct plim_err *err);

/* What the sampler allocates (tag logits). */
size_t plim_sampler_bytes(size_t vocab_size, const struct plim_sampling *sampling);

/* What low_mem caps the output of one call at, in tokens (ExLlamaV2's max_output_len). */
#define PLIM_LOW_MEM_OUTPUT 1024

struct plim_generation {
    struct plim_sampling sampling;
    size_t max_tokens;             /* 0: the prompt only; with low_mem never more than PLIM_LOW_MEM_OUTPUT */
    const int32_t *stop_ids;       /* generation ends after one of these (it is not reported) */
    size_t stop_id_count;
    bool stop_at_eos;              /* the model's own end tokens too */
};

/* Each new token with the time since the previous one (the first: since the prompt's start). -1 stops with err. */
typedef int plim_token_callback(void *context, int32_t id, uint64_t elapsed_ns, struct plim_err *err);

/*
 * Runs the prompt (appended to the session) and generates until max_tokens, a stop token, or the end of the context,
 * whichever is first. *count receives the number of tokens reported, also on failure. Every reported token but the
 * last is in the session's cache afterwards.
 */
int plim_generate(struct plim_session *session, const int32_t *prompt, size_t prompt_count,
                  const struct plim_generation *generation, plim_token_callback *callback, void *context,
                  size_t *count, struct plim_err *err);

struct plim_perplexity {
    double nll_sum;            /* natural log, over all scored tokens */
    uint64_t token_count;      /* scored tokens */
    double perplexity;         /* exp(nll_sum / token_count) */
};

/*
 * Perplexity of a token sequence: cut in windows of `window` tokens, each run from an empty cache; every token of a
 * window but the first is scored, with log-softmax in double. Logits are never held for more rows than a bounded
 * chunk. The session is rewound to 0, before and after.
 */
int plim_perplexity(struct plim_session *session, const int32_t *ids, size_t count, size_t window,
                    struct plim_perplexity *out, struct plim_err *err);

/* How far a model's predictions are from a reference's, both over the same tokens. */
struct plim_divergence {
    double kl_sum;                     /* of KL(reference || model), natural log, over all positions */
    double kl_mean;                    /* a position */
    uint64_t position_count;           /* every token of every window */
    uint64_t agreement_count;          /* positions at which both find the same token most probable */
    struct plim_perplexity model, reference;   /* of the tokens that follow in the window, as plim_perplexity counts them */
};

/*
 * Windows as in plim_perplexity, each run by both sessions piece by piece; the reference's logits of one piece are held
 * meanwhile (tag logits, in the reference's pool, at most PLIM_LOGITS_BYTES and 32 bytes a row). They are compared on
 * cpu_threads threads; the sums are the same for any number. The sessions may be of one engine or of two; their models
 * must have vocabularies of one size. Both are rewound to 0, before and after.
 */
int plim_divergence(struct plim_session *session, struct plim_session *reference, const int32_t *ids, size_t count,
                    size_t window, struct plim_divergence *out, struct plim_err *err);

#endif
