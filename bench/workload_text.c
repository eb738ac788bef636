/* generate and perplexity: what is built on the forward pass, timed. */

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "metrics.h"
#include "model_run.h"
#include "plimsoll/generate.h"
#include "plimsoll/units.h"
#include "text_ids.h"

/* Replaces the run's random ids by those of a text, or of a file. */
static int take_text(struct model_run *m, const char *text, struct plim_err *err)
{
    free(m->ids);
    m->ids = NULL;
    return text_ids_encode(&m->ids, &m->id_count, m->run->request->model_directory, text, strlen(text), err);
}

static int take_file(struct model_run *m, const char *path, struct plim_err *err)
{
    free(m->ids);
    m->ids = NULL;
    return text_ids_read(&m->ids, &m->id_count, m->run->request->model_directory, path, err);
}

/* ---- generate ---- */

struct tokens {
    struct metric *times;
    XXH64_hash_t digest;
    size_t count;
    uint64_t first_ns, rest_ns;
};

static int take_token(void *context, int32_t id, uint64_t elapsed_ns, struct plim_err *err)
{
    struct tokens *t = context;

    t->digest = XXH3_64bits_withSeed(&id, sizeof id, t->digest);
    if (t->count++ == 0) {
        t->first_ns = elapsed_ns;
        return 0;
    }
    t->rest_ns += elapsed_ns;
    return metric_add_sample(t->times, (double)elapsed_ns, err);
}

static struct plim_sampling sampling_of(const struct facts *arguments)
{
    return (struct plim_sampling){
        .temperature = argument_number(arguments, "temperature"),
        .top_k = argument_count(arguments, "top_k"),
        .top_p = argument_number(arguments, "top_p"),
        .min_p = argument_number(arguments, "min_p"),
        .repetition_penalty = argument_number(arguments, "repetition_penalty"),
        .seed = (uint64_t)argument_count(arguments, "seed"),
    };
}

static int report_generate(struct model_run *m, const struct tokens *t, const struct stopwatch *spent,
                           struct plim_err *err)
{
    if (report_number(m, "generated_tokens", (double)t->count, err) < 0 ||
        report_number(m, "first_token_time_ns", (double)t->first_ns, err) < 0 ||
        report_number(m, "load_time_ns", (double)m->load_ns, err) < 0 || report_work(m, spent, err) < 0 ||
        report_digest(m, "output_digest", t->digest, NULL, err) < 0)
        return -1;
    if (t->count < 2)
        return 0;
    return report_number(m, "generate_tokens_per_s", (double)(t->count - 1) / ((double)t->rest_ns / 1e9), err);
}

int workload_generate(struct workload_run *run, struct plim_err *err)
{
    const struct facts *arguments = &run->request->arguments;
    const char *prompt = argument_text(arguments, "prompt");
    size_t random_count = *prompt ? 0 : (size_t)argument_count(arguments, "prompt_tokens");
    struct plim_generation generation = { .sampling = sampling_of(arguments),
                                          .max_tokens = (size_t)argument_count(arguments, "max_tokens") };
    struct plim_plan_request plan = { .rows = PLIM_LOGITS_LAST };
    struct tokens tokens = { 0 };
    struct stopwatch start, spent;
    struct model_run m;
    size_t count;
    int rc = -1;

    if (model_run_open(&m, run, 0, random_count, err) < 0 ||
        (*prompt && take_text(&m, prompt, err) < 0))
        goto out;
    plan.prompt_tokens = m.id_count;
    plan.context_tokens = m.id_count + generation.max_tokens;
    if (model_run_open_session(&m, plan.context_tokens, err) < 0 ||
        !(tokens.times = metric_of_case(&run->report, "token_time_ns", err)))
        goto out;
    start = stopwatch_start(&m);
    if (plim_generate(m.session, m.ids, m.id_count, &generation, take_token, &tokens, &count, err) < 0)
        goto out;
    spent = stopwatch_stop(&m, &start);
    plan.decode_tokens = count ? count - 1 : 0;
    plan.held_bytes[PLIM_TAG_LOGITS] = plim_sampler_bytes(m.info.vocab_size, &generation.sampling);
    if (report_prediction(&m, &plan, 1, err) < 0)
        goto out;
    rc = report_generate(&m, &tokens, &spent, err);

out:
    return model_run_close(&m, rc, err);
}

/* ---- perplexity ---- */

static int report_perplexity(struct model_run *m, const struct plim_perplexity *p, const struct stopwatch *spent,
                             struct plim_err *err)
{
    if (report_number(m, "perplexity", p->perplexity, err) < 0 ||
        report_number(m, "scored_tokens", (double)p->token_count, err) < 0 ||
        report_number(m, "perplexity_tokens_per_s", (double)p->token_count / ((double)spent->wall_ns / 1e9), err) < 0)
        return -1;
    return report_work(m, spent, err);
}

int workload_perplexity(struct workload_run *run, struct plim_err *err)
{
    const struct facts *arguments = &run->request->arguments;
    const char *file = argument_text(arguments, "text");
    size_t wanted = (size_t)argument_count(arguments, "tokens"), window = (size_t)argument_count(arguments, "window");
    struct plim_plan_request plan = { .context_tokens = window, .rows = PLIM_LOGITS_ALL };
    struct plim_perplexity perplexity;
    struct stopwatch start, spent;
    struct model_run m;
    size_t count;
    int rc = -1;

    if (model_run_open(&m, run, window, *file ? 0 : wanted, err) < 0 || (*file && take_file(&m, file, err) < 0))
        goto out;
    count = plim_min(wanted, m.id_count);
    start = stopwatch_start(&m);
    if (plim_perplexity(m.session, m.ids, count, window, &perplexity, err) < 0)
        goto out;
    spent = stopwatch_stop(&m, &start);
    plan.prompt_tokens = plim_min(window, count);
    if (report_prediction(&m, &plan, 1, err) < 0)
        goto out;
    rc = report_perplexity(&m, &perplexity, &spent, err);

out:
    return model_run_close(&m, rc, err);
}
