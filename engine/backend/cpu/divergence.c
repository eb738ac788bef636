/* KL divergence between rows of logits, on the CPU: one pass over both, in pieces, as an online softmax. */

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "plimsoll/units.h"
#include "quantize_cpu.h"
#include "tasks.h"

#define PIECE ((size_t)512)   /* logits: sums in fp32 within one, in double over them */

struct divergence_job {
    const struct cpu_kernels *kernels;
    const float *reference, *logits;
    size_t vocab;
    double *divergence;
};

/* Of the pieces so far: sum of exp(logit - max), and of exp(logit - max) * difference, where that is asked for. */
struct row_sums {
    double max, sum, weighted;
};

/* `scratch` [count] holds the piece's logits; its weights afterwards. */
static void add_piece(struct row_sums *row, const struct cpu_kernels *kernels, float *scratch, size_t count,
                      const float *from, const float *to)
{
    float max = -INFINITY, sum = 0;
    double weighted[4] = { 0 };
    size_t i;

    kernels->softmax_step(scratch, count, &max, &sum);
    for (i = 0; from && i + 4 <= count; i += 4)
        for (size_t j = 0; j < 4; j++)
            weighted[j] += (double)scratch[i + j] * ((double)from[i + j] - (double)to[i + j]);
    for (; from && i < count; i++)
        weighted[0] += (double)scratch[i] * ((double)from[i] - (double)to[i]);
    double highest = fmax(row->max, (double)max), before = exp(row->max - highest), here = exp((double)max - highest);
    row->sum = row->sum * before + (double)sum * here;
    row->weighted = row->weighted * before + (weighted[0] + weighted[1] + weighted[2] + weighted[3]) * here;
    row->max = highest;
}

static void diverge_row(void *context, size_t r)
{
    const struct divergence_job *job = context;
    const float *reference = job->reference + r * job->vocab, *logits = job->logits + r * job->vocab;
    struct row_sums p = { -INFINITY, 0, 0 }, q = { -INFINITY, 0, 0 };
    float scratch[PIECE];

    for (size_t first = 0; first < job->vocab; first += PIECE) {
        size_t count = plim_min(PIECE, job->vocab - first);
        memcpy(scratch, reference + first, count * sizeof *scratch);
        add_piece(&p, job->kernels, scratch, count, reference + first, logits + first);
        memcpy(scratch, logits + first, count * sizeof *scratch);
        add_piece(&q, job->kernels, scratch, count, NULL, NULL);
    }
    /* sum of p (log p - log q) = sum of p (reference - logits), less the difference of the two normalisers. */
    job->divergence[r] = p.weighted / p.sum - (p.max + log(p.sum)) + (q.max + log(q.sum));
}

int cpu_divergence(struct backend *backend, const float *reference, const float *logits, size_t rows, size_t vocab,
                   double *divergence, struct plim_err *err)
{
    struct divergence_job job = { cpu_kernels(backend), reference, logits, vocab, divergence };
    (void)err;
    cpu_run_tasks(backend, rows, diverge_row, &job);
    return 0;
}
