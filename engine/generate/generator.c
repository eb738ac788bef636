/* A prompt, then one token at a time. */

#include <stdbool.h>

#include "plimsoll/clock.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"

struct generator {
    struct plim_session *session;
    const struct plim_generation *generation;
    struct plim_model_info info;
    struct plim_sampler *sampler;
    int32_t next;               /* drawn from the last forward call's logits */
};

/* The forward pass hands over the last token's logits: sampled here, where they are, without a copy. */
static int sample_row(void *context, size_t position, size_t rows, size_t vocab_size, const float *logits,
                      struct plim_err *err)
{
    struct generator *g = context;
    if (plim_sampler_sample(g->sampler, logits + (rows - 1) * vocab_size, &g->next, err) < 0)
        return plim_err_wrap(err, "sampling after position %zu", position + rows - 1);
    return 0;
}

static int step(struct generator *g, const int32_t *ids, size_t count, struct plim_err *err)
{
    struct plim_forward forward = { .rows = PLIM_LOGITS_LAST, .callback = sample_row, .context = g };
    return plim_session_forward(g->session, ids, count, &forward, err);
}

static bool is_among(int32_t id, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static bool is_stop(const struct generator *g, int32_t id)
{
    return is_among(id, g->generation->stop_ids, g->generation->stop_id_count) ||
           (g->generation->stop_at_eos && is_among(id, g->info.eos_token_ids, g->info.eos_token_count));
}

static size_t token_limit(const struct generator *g, const struct plim_engine *engine)
{
    bool low_mem = plim_engine_parameters(engine)->count[PLIM_LOW_MEM];
    return low_mem ? plim_min(g->generation->max_tokens, PLIM_LOW_MEM_OUTPUT) : g->generation->max_tokens;
}

/* Reports and appends g->next, which the prompt gave, and what follows it. */
static int run(struct generator *g, size_t limit, uint64_t since_ns, plim_token_callback *callback, void *context,
               size_t *count, struct plim_err *err)
{
    while (!is_stop(g, g->next)) {
        int32_t id = g->next;
        uint64_t now_ns = plim_now_ns();
        if (callback && callback(context, id, now_ns - since_ns, err) < 0)
            return -1;
        since_ns = now_ns;
        plim_sampler_accept(g->sampler, id);
        (*count)++;
        if (*count == limit || plim_session_position(g->session) == plim_session_context_tokens(g->session))
            return 0;
        if (step(g, &id, 1, err) < 0)
            return -1;
    }
    return 0;
}

int plim_generate(struct plim_session *session, const int32_t *prompt, size_t prompt_count,
                  const struct plim_generation *generation, plim_token_callback *callback, void *context,
                  size_t *count, struct plim_err *err)
{
    struct generator g = { .session = session, .generation = generation };
    struct plim_model *model = plim_session_model(session);
    struct plim_engine *engine = plim_model_engine(model);
    uint64_t start_ns = plim_now_ns();
    size_t limit;
    int rc = -1;

    *count = 0;
    plim_model_info(model, &g.info);
    limit = token_limit(&g, engine);
    if (plim_sampler_open(&g.sampler, plim_engine_pool(engine), g.info.vocab_size, &generation->sampling, err) < 0)
        goto out;
    for (size_t i = 0; i < prompt_count; i++)
        plim_sampler_accept(g.sampler, prompt[i]);
    if (limit == 0) {
        rc = plim_session_forward(session, prompt, prompt_count, &(struct plim_forward){ .rows = PLIM_LOGITS_NONE },
                                  err);
        goto out;
    }
    if (step(&g, prompt, prompt_count, err) < 0)
        goto out;
    rc = run(&g, limit, start_ns, callback, context, count, err);
out:
    plim_sampler_close(g.sampler);
    return rc;
}
