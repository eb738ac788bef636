/* Operations that treat every element by itself. */

#include "cpu.h"

/* Pieces begin on multiples of a page of floats, so no two threads write one cache line. */
#define ELEMENT_GRAIN 1024

struct element_job {
    const struct cpu_kernels *kernels;
    enum activation activation;
    float *x;
    const float *y;
    float factor;
};

static void act_mul_piece(void *context, size_t begin, size_t end, int thread)
{
    const struct element_job *job = context;
    (void)thread;
    if (job->activation == ACTIVATION_GELU_TANH)
        job->kernels->gelu_tanh_mul(job->x + begin, job->y + begin, end - begin);
    else
        job->kernels->silu_mul(job->x + begin, job->y + begin, end - begin);
}

static void add_piece(void *context, size_t begin, size_t end, int thread)
{
    const struct element_job *job = context;
    (void)thread;
    job->kernels->add(job->x + begin, job->y + begin, job->factor, end - begin);
}

static void softcap_piece(void *context, size_t begin, size_t end, int thread)
{
    const struct element_job *job = context;
    (void)thread;
    job->kernels->softcap(job->x + begin, job->factor, end - begin);
}

int cpu_act_mul(struct backend *backend, enum activation activation, float *gate, const float *up, size_t n,
                struct plim_err *err)
{
    struct element_job job = { .kernels = cpu_kernels(backend), .activation = activation, .x = gate, .y = up };
    (void)err;
    cpu_run(backend, n, n, ELEMENT_GRAIN, act_mul_piece, &job);
    return 0;
}

int cpu_add(struct backend *backend, float *x, const float *y, float scale, size_t n, struct plim_err *err)
{
    struct element_job job = { .kernels = cpu_kernels(backend), .x = x, .y = y, .factor = scale };
    (void)err;
    cpu_run(backend, n, n, ELEMENT_GRAIN, add_piece, &job);
    return 0;
}

int cpu_softcap(struct backend *backend, float *x, float cap, size_t n, struct plim_err *err)
{
    struct element_job job = { .kernels = cpu_kernels(backend), .x = x, .factor = cap };
    (void)err;
    cpu_run(backend, n, n, ELEMENT_GRAIN, softcap_piece, &job);
    return 0;
}
