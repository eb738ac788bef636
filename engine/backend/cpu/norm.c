/* RMS norm (Zhang and Sennrich, 2019): y = x * (w + offset) / sqrt(mean(x^2) + eps), each row by itself. */

#include "cpu.h"

struct norm_job {
    const struct cpu_kernels *kernels;
    const float *x, *weight;
    float offset;
    double eps;
    size_t width;
    float *out;
};

static void norm_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct norm_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        job->kernels->rms_norm(job->x + r * job->width, job->weight, job->offset, job->eps, job->width,
                               job->out + r * job->width);
}

int cpu_rms_norm(struct backend *backend, const float *x, const float *weight, float offset, double eps, size_t rows,
                 size_t width, float *out, struct plim_err *err)
{
    struct norm_job job = { cpu_kernels(backend), x, weight, offset, eps, width, out };
    (void)err;
    cpu_run(backend, rows * width, rows, 1, norm_rows, &job);
    return 0;
}
