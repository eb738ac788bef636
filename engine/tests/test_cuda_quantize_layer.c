/* Whole layers quantised on CUDA. */

#include <stdlib.h>
#include <string.h>

#include "gptq.h"
#include "test_cuda_both.h"

static const struct exl2_layout mixed = { 3, { { 8, 32, 0.05 }, { 4, 128, 0.1 }, { 3, 128, 0.85 } } };

/* A layer of a conversion on one backend: Hessian of `sequences` rows, factor, gathering, GPTQ. */
static int convert_layer(struct backend *backend, size_t k, size_t n, int64_t threshold, struct gptq_result *result,
                         struct plim_err *err)
{
    enum { SEQUENCES = 3, ROWS = 160 };
    struct hessian h = { 0 };
    struct hessian_report report;
    float *x = activations(SEQUENCES * ROWS, k, 31), *weights = normal_floats(n * k, 0.05f, 32), *device_x = NULL, *w = NULL;
    int rc = -1;
    struct linear_source source = {
        .name = "layer", .dtype = DTYPE_F32, .weight = weights, .in_features = k, .out_features = n
    };

    *result = (struct gptq_result){ 0 };
    device_x = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, ROWS * k * sizeof *x, err);
    w = device_x ? plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, k * n * sizeof *w, err) : NULL;
    if (!w || hessian_init(&h, backend, k, err) < 0)
        goto out;
    for (size_t s = 0; s < SEQUENCES; s++)
        if (backend->ops->upload(backend, device_x, x + s * ROWS * k, ROWS * k * sizeof *x, err) < 0 ||
            hessian_add(&h, device_x, ROWS, err) < 0)
            goto out;
    if (hessian_order(&h, "layer", err) < 0 || hessian_factor(&h, "layer", threshold, &report, err) < 0 ||
        backend_quantize_ops(backend->ops->name)->gather_weights(backend, &source, h.order, n, n, w, err) < 0 ||
        gptq_quantise(result, w, n, &h, &mixed, false, err) < 0)
        goto out;
    rc = 0;

out:
    hessian_release(&h);
    plim_pool_free(backend->pool, w);
    plim_pool_free(backend->pool, device_x);
    free(weights);
    free(x);
    return rc;
}

static bool same_result(const struct gptq_result *a, const struct gptq_result *b)
{
    return a->word_rows == b->word_rows && a->group_count == b->group_count &&
           memcmp(a->q_weight, b->q_weight, a->word_rows * a->out_features * 4) == 0 &&
           memcmp(a->q_scale, b->q_scale, a->group_count * a->out_features / 2) == 0 &&
           memcmp(a->q_scale_max, b->q_scale_max, a->group_count * 2) == 0 &&
           memcmp(a->q_invperm, b->q_invperm, a->in_features * 4) == 0;
}

/*
 * Both backends start from the same weights; a value that falls on the other side of a rounding border changes its
 * column's later rows. Few do.
 */
Test(cuda_quantize, layer_agrees_with_the_processor)
{
    enum { K = 1152, N = 320 };
    struct both b;
    struct plim_err err = PLIM_ERR_INIT;
    struct gptq_result ours, theirs;
    both_open(&b);
    fine(convert_layer(&b.cuda.backend, K, N, NO_OFFLOAD, &ours, &err), &err);
    fine(convert_layer(&b.cpu, K, N, NO_OFFLOAD, &theirs, &err), &err);
    cr_assert_arr_eq(ours.q_invperm, theirs.q_invperm, K * 4);
    cr_assert_arr_eq(ours.q_groups, theirs.q_groups, 2 * ours.group_count * sizeof *ours.q_groups);
    struct exl2_tensors tensors[2] = { gptq_result_tensors(&ours, "cuda"), gptq_result_tensors(&theirs, "cpu") };
    struct exl2_matrix matrix[2];
    for (int i = 0; i < 2; i++)
        fine(exl2_matrix_init(&matrix[i], b.pool, &tensors[i], 1, &err), &err);
    size_t different = 0, far = 0;
    for (size_t i = 0; i < K; i++)
        for (size_t n = 0; n < N; n++) {
            int difference = (int)exl2_code(&matrix[0], i, n) - (int)exl2_code(&matrix[1], i, n);
            different += difference != 0;
            far += abs(difference) > 1;
        }
    cr_log_info("%zu of %d codes differ, %zu by more than one step\n", different, K * N, far);
    cr_expect_lt(different, (size_t)K * N / 50);
    for (int i = 0; i < 2; i++)
        exl2_matrix_release(&matrix[i], b.pool);
    gptq_result_release(&ours, b.cuda.pool);
    gptq_result_release(&theirs, b.pool);
    both_close(&b);
}

Test(cuda_quantize, same_bytes_every_time_and_through_the_slow_tier)
{
    enum { K = 672, N = 160 };
    struct both b;
    struct plim_err err = PLIM_ERR_INIT;
    struct gptq_result first, other;
    both_open(&b);
    fine(convert_layer(&b.cuda.backend, K, N, NO_OFFLOAD, &first, &err), &err);
    for (int i = 0; i < 3; i++) {
        fine(convert_layer(&b.cuda.backend, K, N, i == 2 ? 0 : NO_OFFLOAD, &other, &err), &err);
        cr_expect(same_result(&first, &other), "run %d", i);
        gptq_result_release(&other, b.cuda.pool);
    }
    gptq_result_release(&first, b.cuda.pool);
    both_close(&b);
}

Test(cuda_quantize, every_failed_allocation_is_clean)
{
    struct cuda_fixture f;
    struct gptq_result result;
    uint64_t nth = 0;
    int rc;
    cuda_fixture_open(&f);
    do {
        struct plim_err err = PLIM_ERR_INIT;
        plim_pool_fail_allocation(f.pool, ++nth);
        rc = convert_layer(&f.backend, 160, 64, 0, &result, &err);
        cr_assert(rc == 0 || err.kind == PLIM_ERR_MEMORY, "%s", err.message);
    } while (rc < 0);
    plim_pool_fail_allocation(f.pool, 0);
    cr_assert_gt(nth, 20);
    gptq_result_release(&result, f.pool);
    cuda_fixture_close(&f);
}
