/* load, prefill and decode: the forward pass, timed. */

#include <xxhash.h>

#include "metrics.h"
#include "model_run.h"
#include "plimsoll/clock.h"
#include "plimsoll/units.h"

/* Within the measured part: around the callback, and half of the stopwatch's. */
#define PREFILL_CLOCK_READS 4
#define DECODE_CLOCK_READS 4   /* a step: around it, and around the callback */

static size_t count_argument(const struct workload_run *run, const char *name)
{
    return (size_t)argument_count(&run->request->arguments, name);
}

/* What the case asks for, or as much as it uses. */
static size_t context_tokens(const struct workload_run *run, size_t used)
{
    size_t wanted = count_argument(run, "context_tokens");

    return wanted ? wanted : used;
}

int workload_load(struct workload_run *run, struct plim_err *err)
{
    static const struct plim_plan_request plan = { .context_tokens = 1, .prompt_tokens = 1, .rows = PLIM_LOGITS_LAST };
    struct last_logits logits = { .want_digest = true };
    struct model_run m;
    char key[96];
    int rc = -1;

    if (model_run_open(&m, run, 1, 1, err) < 0 || model_run_forward(&m, m.ids, 1, &logits, err) < 0)
        goto out;
    if (report_number(&m, "open_time_ns", (double)m.open_ns, err) < 0 ||
        report_number(&m, "load_time_ns", (double)m.load_ns, err) < 0 ||
        report_number(&m, "first_logits_time_ns", (double)(plim_now_ns() - m.start_ns), err) < 0)
        goto out;
    logits_key(&m, key, sizeof key);
    if (report_digest(&m, "logits_digest", logits.digest, key, err) < 0)
        goto out;
    rc = report_prediction(&m, &plan, 1, err);

out:
    return model_run_close(&m, rc, err);
}

static int report_prefill(struct model_run *m, size_t tokens, const struct stopwatch *spent,
                          const struct last_logits *logits, struct plim_err *err)
{
    double seconds = (double)spent->wall_ns / 1e9;
    double flops_per_s = 2.0 * (double)m->info.layer_parameters * (double)tokens / seconds;
    char key[96];

    logits_key(m, key, sizeof key);
    if (report_number(m, "prefill_tokens_per_s", (double)tokens / seconds, err) < 0 ||
        report_harness(m, spent, logits->harness_ns, PREFILL_CLOCK_READS, err) < 0 ||
        report_number(m, "prefill_flops_per_s", flops_per_s, err) < 0 ||
        report_number(m, "load_time_ns", (double)m->load_ns, err) < 0 || report_work(m, spent, err) < 0 ||
        report_digest(m, "output_digest", XXH3_64bits(&logits->id, sizeof logits->id), NULL, err) < 0 ||
        report_digest(m, "logits_digest", logits->digest, key, err) < 0)
        return -1;
    return report_gemm_reference(m, plim_min(tokens, (size_t)m->run->parameters.count[PLIM_MAX_INPUT_LEN]), flops_per_s,
                                 err);
}

int workload_prefill(struct workload_run *run, struct plim_err *err)
{
    size_t past = count_argument(run, "past_tokens"), prompt = count_argument(run, "prompt_tokens");
    size_t context = context_tokens(run, past + prompt);
    struct plim_plan_request plans[2] = {
        { .context_tokens = context, .prompt_tokens = prompt, .past = past, .rows = PLIM_LOGITS_LAST },
        { .context_tokens = context, .prompt_tokens = past, .rows = PLIM_LOGITS_NONE },
    };
    struct last_logits logits = { .want_digest = true };
    struct stopwatch start, spent;
    struct model_run m;
    int rc = -1;

    if (model_run_open(&m, run, context, past + prompt, err) < 0)
        goto out;
    if (past && model_run_fill(&m, m.ids, past, err) < 0)
        goto out;
    start = stopwatch_start(&m);
    if (model_run_forward(&m, m.ids + past, prompt, &logits, err) < 0)
        goto out;
    spent = stopwatch_stop(&m, &start);
    if (report_prediction(&m, plans, past ? 2 : 1, err) < 0)
        goto out;
    rc = report_prefill(&m, prompt, &spent, &logits, err);

out:
    return model_run_close(&m, rc, err);
}

/* Sums the steps' own times into *steps_ns. `steps` one-token steps, each fed the most probable id of the one before. */
static int decode_steps(struct model_run *m, int32_t first, size_t steps, uint64_t *steps_ns, XXH64_hash_t *digest,
                        struct last_logits *logits, struct plim_err *err)
{
    struct metric *times = metric_of_case(&m->run->report, "token_time_ns", err);
    int32_t id = first;

    if (!times)
        return -1;
    *digest = XXH3_64bits(&first, sizeof first);
    for (size_t i = 0; i < steps; i++) {
        uint64_t start_ns = plim_now_ns(), step_ns;

        logits->want_digest = i + 1 == steps;
        if (model_run_forward(m, &id, 1, logits, err) < 0)
            return -1;
        step_ns = plim_now_ns() - start_ns;
        *steps_ns += step_ns;
        if (metric_add_sample(times, (double)step_ns, err) < 0)
            return -1;
        id = logits->id;
        *digest = XXH3_64bits_withSeed(&id, sizeof id, *digest);
    }
    return 0;
}

static int report_decode(struct model_run *m, size_t steps, const struct stopwatch *spent, uint64_t harness_ns,
                         struct plim_err *err)
{
    double seconds = (double)spent->wall_ns / 1e9;
    double bytes_per_s = (double)spent->counters.weight_bytes_read / seconds;

    if (report_number(m, "decode_tokens_per_s", (double)steps / seconds, err) < 0 ||
        report_harness(m, spent, harness_ns, steps * DECODE_CLOCK_READS, err) < 0 ||
        report_number(m, "weight_read_bytes_per_s", bytes_per_s, err) < 0 ||
        report_number(m, "load_time_ns", (double)m->load_ns, err) < 0 || report_work(m, spent, err) < 0)
        return -1;
    return report_read_reference(m, bytes_per_s, spent->counters.weight_bytes_read / steps, err);
}

int workload_decode(struct workload_run *run, struct plim_err *err)
{
    size_t prompt = count_argument(run, "prompt_tokens"), steps = count_argument(run, "decode_tokens");
    size_t context = context_tokens(run, prompt + steps);
    struct plim_plan_request plan = { .context_tokens = context, .prompt_tokens = prompt, .decode_tokens = steps,
                                      .rows = PLIM_LOGITS_LAST };
    struct last_logits logits = { 0 };
    struct stopwatch start, spent;
    struct model_run m;
    XXH64_hash_t digest;
    uint64_t steps_ns = 0;
    char key[96];
    int rc = -1;

    if (model_run_open(&m, run, context, prompt, err) < 0 || model_run_forward(&m, m.ids, prompt, &logits, err) < 0)
        goto out;
    logits.harness_ns = 0;
    start = stopwatch_start(&m);
    if (decode_steps(&m, logits.id, steps, &steps_ns, &digest, &logits, err) < 0)
        goto out;
    spent = stopwatch_stop(&m, &start);
    logits_key(&m, key, sizeof key);
    if (report_digest(&m, "output_digest", digest, NULL, err) < 0 ||
        report_digest(&m, "logits_digest", logits.digest, key, err) < 0 || report_prediction(&m, &plan, 1, err) < 0)
        goto out;
    /* What passed between the steps is all bookkeeping (or a planted delay, in a control). */
    rc = report_decode(&m, steps, &spent, logits.harness_ns + (spent.wall_ns - steps_ns), err);

out:
    return model_run_close(&m, rc, err);
}
