#include "test_cuda_both.h"

#include "plimsoll/units.h"

void both_open(struct both *b)
{
    struct plim_err err = PLIM_ERR_INIT;
    cuda_fixture_open(&b->cuda);
    cr_assert_eq(plim_pool_open(&b->pool, NULL, &err), 0);
    cr_assert_eq(backend_open(&b->cpu, "cpu", b->pool, b->cuda.threads, &b->cuda.parameters, &err), 0);
    b->ops = backend_quantize_ops("cuda");
    b->cpu_ops = backend_quantize_ops("cpu");
    if (!cuda_sanitized())   /* which sees that by itself */
        device_free(&b->cuda, device_bytes(&b->cuda, NULL, 192 * PLIM_MI));
}

void both_close(struct both *b)
{
    backend_close(&b->cpu);
    cr_assert_eq(plim_pool_close(b->pool), 0);
    cuda_fixture_close(&b->cuda);
}

void fine(int rc, const struct plim_err *err)
{
    cr_assert_eq(rc, 0, "%s", err->message);
}

float *activations(size_t rows, size_t k, uint64_t seed)
{
    float *x = normal_floats(rows * k, 1, seed);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++) {
            float loud = i % 17 == 3 ? 6.0f : 1.0f + 0.3f * (float)(i % 7);
            x[r * k + i] = loud * x[r * k + i] + (i > 0 ? 0.4f * x[r * k + i - 1] : 0);
        }
    return x;
}
