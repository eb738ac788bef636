/* GPTQ: against a plain double-precision version, and code by code against ExLlamaV2's own files. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format_test.h"
#include "gptq.h"
#include "half.h"
#include "plimsoll/json.h"
#include "plimsoll/random.h"
#include "quantize_ops.h"
#include "quantize_test.h"

static const struct exl2_layout mixed = { 3, { { 8, 32, 0.05 }, { 4, 128, 0.1 }, { 3, 128, 0.85 } } };

/* ---- ExLlamaV2's files: the inputs of the first layer's q, k, v are known exactly ---- */

enum { HIDDEN = 256, CALIBRATION_ROWS = 8, CALIBRATION_LENGTH = 256 };

static const struct tensor *need(const struct tensor_store *store, const char *name)
{
    const struct tensor *tensor = tensor_store_find(store, name);
    cr_assert_not_null(tensor, "%s", name);
    return tensor;
}

static struct tensor_store *open_store(struct plim_pool *pool, const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *store = NULL;
    cr_assert_eq(tensor_store_open_file(&store, pool, path, &err), 0, "%s", err.message);
    return store;
}

/* RMS-normed embeddings of one calibration row, rounded to fp16 as the reference's kernel does. */
static void first_layer_input(const struct tensor_store *dense, const int64_t *ids, float *x)
{
    const uint16_t *embedding = need(dense, "model.embed_tokens.weight")->data;
    const uint16_t *norm = need(dense, "model.layers.0.input_layernorm.weight")->data;
    for (size_t r = 0; r < CALIBRATION_LENGTH; r++) {
        const uint16_t *row = embedding + (size_t)ids[r] * HIDDEN;
        float sum = 0;
        for (size_t i = 0; i < HIDDEN; i++)
            sum += half_to_float(row[i]) * half_to_float(row[i]);
        float factor = 1.0f / sqrtf(sum / HIDDEN + 1e-5f);
        for (size_t i = 0; i < HIDDEN; i++)
            x[r * HIDDEN + i] =
                half_to_float(half_from_float(half_to_float(row[i]) * half_to_float(norm[i]) * factor));
    }
}

static void calibrated_hessian(struct hessian *h, struct fixture_backend *f, const struct tensor_store *dense)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct tensor_store *calibration = open_store(f->pool, FIXTURE "/calibration.safetensors");
    const int64_t *ids = need(calibration, "input_ids")->data;
    float *x = malloc(CALIBRATION_LENGTH * HIDDEN * sizeof *x);
    cr_assert_eq(hessian_init(h, &f->backend, HIDDEN, &err), 0);
    h->as_exllamav2 = true;
    for (size_t row = 0; row < CALIBRATION_ROWS; row++) {
        first_layer_input(dense, ids + row * CALIBRATION_LENGTH, x);
        cr_assert_eq(hessian_add(h, x, CALIBRATION_LENGTH, &err), 0);
    }
    free(x);
    tensor_store_close(calibration);
    struct hessian_report report;
    cr_assert_eq(hessian_order(h, "fixture", &err), 0);
    cr_assert_eq(hessian_factor(h, "fixture", INT64_MAX, &report, &err), 0, "%s", err.message);
}

/* W^T in the Hessian's order, [K, N], from a dense fp16 [N, K] tensor. */
static float *ordered_weight(const struct tensor *tensor, const struct hessian *h)
{
    size_t n = tensor->shape[0], k = tensor->shape[1];
    const uint16_t *weight = tensor->data;
    float *w = malloc(k * n * sizeof *w);
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < n; j++)
            w[i * n + j] = half_to_float(weight[j * k + h->order[i]]);
    return w;
}

static int option_of_first_attention(const char *bits)
{
    struct plim_err err = PLIM_ERR_INIT;
    cJSON *root = NULL;
    double option = -1;
    cr_assert_eq(plim_json_read(FIXTURE "/reference.json", 1 << 22, &root, &err), 0, "%s", err.message);
    struct plim_json model = plim_json_get(plim_json_get(plim_json_root(root, "reference"), "quantized"), bits);
    struct plim_json module = plim_json_get(plim_json_get(model, "modules"), "model.layers.0.self_attn");
    cr_assert_eq(plim_json_double(plim_json_get(module, "option_index"), &option, &err), 0, "%s", err.message);
    cJSON_Delete(root);
    return (int)option;
}

/* A copy that gptq_quantise may have: it takes memory of the pool. */
static float *copy_in_pool(struct plim_pool *pool, const float *values, size_t count)
{
    struct plim_err err = PLIM_ERR_INIT;
    float *copy = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, count * sizeof *copy, &err);
    cr_assert_not_null(copy, "%s", err.message);
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

static void compare_with_exllamav2(const char *bits)
{
    static const char *const projections[] = { "q_proj", "k_proj", "v_proj" };
    struct fixture_backend f;
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian h;
    char path[512], key[128];
    fixture_open(&f, 2);
    struct tensor_store *dense = open_store(f.pool, FIXTURE "/dense/model.safetensors");
    snprintf(path, sizeof path, FIXTURE "/exl2-%s/output.safetensors", bits);
    struct tensor_store *quantised = open_store(f.pool, path);
    calibrated_hessian(&h, &f, dense);
    const struct exl2_layout *layouts = exl2_attention_option(option_of_first_attention(bits));

    for (size_t p = 0; p < 3; p++) {
        struct exl2_tensors theirs;
        struct gptq_result ours;
        snprintf(key, sizeof key, "model.layers.0.self_attn.%s", projections[p]);
        test_exl2_tensors(quantised, key, &theirs);
        snprintf(path, sizeof path, "%s.weight", key);
        const struct tensor *weight = need(dense, path);
        float *ordered = ordered_weight(weight, &h);
        float *w = copy_in_pool(f.pool, ordered, weight->shape[0] * weight->shape[1]);
        free(ordered);
        cr_assert_eq(gptq_quantise(&ours, w, weight->shape[0], &h, &layouts[p], false, &err), 0, "%s", err.message);

        cr_assert_eq(ours.group_count, theirs.group_count);
        cr_assert_eq(ours.word_rows, theirs.word_rows);
        cr_assert_arr_eq(ours.q_groups, theirs.q_groups, 2 * ours.group_count * sizeof *ours.q_groups);
        cr_assert_arr_eq(ours.q_invperm, theirs.q_invperm, HIDDEN * sizeof *ours.q_invperm, "%s %s order", bits, key);
        cr_assert_arr_eq(ours.q_scale_max, theirs.q_scale_max, ours.group_count * sizeof(uint16_t), "%s %s maxima",
                         bits, key);
        cr_assert_arr_eq(ours.q_scale, theirs.q_scale, ours.group_count * ours.out_features / 8 * 4, "%s %s levels",
                         bits, key);
        cr_assert_arr_eq(ours.q_weight, theirs.q_weight, ours.word_rows * ours.out_features * 4, "%s %s codes", bits,
                         key);
        gptq_result_release(&ours, f.pool);
        plim_pool_free(f.pool, w);
    }
    hessian_release(&h);
    tensor_store_close(dense);
    tensor_store_close(quantised);
    fixture_close(&f);
}

Test(gptq, codes_scales_and_order_equal_exllamav2_at_4_0)
{
    compare_with_exllamav2("4.0");
}

Test(gptq, codes_scales_and_order_equal_exllamav2_at_2_6)
{
    compare_with_exllamav2("2.6");
}

/* ---- synthetic layers ---- */

static float *random_matrix(size_t rows, size_t columns, uint64_t seed)
{
    struct plim_random random;
    plim_random_seed(&random, seed, 0);
    float *w = malloc(rows * columns * sizeof *w);
    for (size_t i = 0; i < rows * columns; i++)
        w[i] = (float)plim_random_normal(&random);
    return w;
}

struct layer {
    struct fixture_backend f;
    struct hessian h;
    float *x, *w;              /* [rows, K]; [K, N] in the Hessian's order */
    size_t k, n, rows;
};

static void layer_open(struct layer *l, size_t k, size_t n, int threads)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct hessian_report report;
    *l = (struct layer){ .k = k, .n = n, .rows = 2 * k };
    fixture_open(&l->f, threads);
    l->x = random_matrix(l->rows, k, 11);
    /* Correlated inputs: that is where spreading errors pays. */
    for (size_t r = 0; r < l->rows; r++)
        for (size_t i = 1; i < k; i++)
            l->x[r * k + i] += 0.9f * l->x[r * k + i - 1];
    cr_assert_eq(hessian_init(&l->h, &l->f.backend, k, &err), 0);
    cr_assert_eq(hessian_add(&l->h, l->x, l->rows, &err), 0);
    cr_assert_eq(hessian_order(&l->h, "layer", &err), 0);
    cr_assert_eq(hessian_factor(&l->h, "layer", INT64_MAX, &report, &err), 0, "%s", err.message);
    l->w = random_matrix(k, n, 12);
}

static void layer_close(struct layer *l)
{
    hessian_release(&l->h);
    free(l->x);
    free(l->w);
    fixture_close(&l->f);
}

static void layer_quantise(struct layer *l, const struct exl2_layout *layout, bool nearest, struct gptq_result *result)
{
    struct plim_err err = PLIM_ERR_INIT;
    float *w = copy_in_pool(l->f.pool, l->w, l->k * l->n);
    cr_assert_eq(gptq_quantise(result, w, l->n, &l->h, layout, nearest, &err), 0, "%s", err.message);
    plim_pool_free(l->f.pool, w);
}

/* The dequantised matrix in packed row order, [K, N]. */
static float *dequantised(struct layer *l, const struct gptq_result *result)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct exl2_tensors tensors = gptq_result_tensors(result, "layer");
    struct exl2_matrix matrix;
    cr_assert_eq(exl2_matrix_init(&matrix, l->f.pool, &tensors, 1, &err), 0, "%s", err.message);
    uint16_t *half = malloc(l->k * l->n * sizeof *half);
    exl2_dequantise_packed(&matrix, 0, l->k, 0, l->n, half, l->n);
    float *out = malloc(l->k * l->n * sizeof *out);
    for (size_t i = 0; i < l->k * l->n; i++)
        out[i] = half_to_float(half[i]);
    free(half);
    exl2_matrix_release(&matrix, l->f.pool);
    return out;
}

/* || X (W - Q) ||^2 / || X W ||^2. */
static double output_error(const struct layer *l, const float *q)
{
    double error = 0, size = 0;
    for (size_t r = 0; r < l->rows; r += 9)
        for (size_t n = 0; n < l->n; n++) {
            double y = 0, d = 0;
            for (size_t i = 0; i < l->k; i++) {
                double x = (double)l->x[r * l->k + l->h.order[i]], w = (double)l->w[i * l->n + n];
                y += x * w;
                d += x * (w - (double)q[i * l->n + n]);
            }
            error += d * d;
            size += y * y;
        }
    return error / size;
}

Test(gptq, spreads_errors_better_than_rounding_to_nearest)
{
    struct layer l;
    struct gptq_result spread, nearest;
    layer_open(&l, 256, 64, 2);
    layer_quantise(&l, &mixed, false, &spread);
    layer_quantise(&l, &mixed, true, &nearest);
    float *a = dequantised(&l, &spread), *b = dequantised(&l, &nearest);
    double spread_error = output_error(&l, a), nearest_error = output_error(&l, b);
    cr_assert_lt(spread_error, 0.5 * nearest_error, "%g against %g", spread_error, nearest_error);
    cr_assert_lt(nearest_error, 0.1);
    free(a);
    free(b);
    gptq_result_release(&spread, l.f.pool);
    gptq_result_release(&nearest, l.f.pool);
    layer_close(&l);
}

/*
 * The plain version of sections 6.5 and 6.6 in double precision for one group width: given the scales that were chosen,
 * the codes must be those of the textbook loop, but where a value lies within fp32 noise of a rounding border.
 */
Test(gptq, codes_equal_the_plain_double_precision_loop)
{
    static const struct exl2_layout layout = { 1, { { 4, 32, 1.0 } } };
    struct layer l;
    struct gptq_result result;
    layer_open(&l, 128, 96, 2);
    layer_quantise(&l, &layout, false, &result);
    struct exl2_tensors tensors = gptq_result_tensors(&result, "layer");
    struct exl2_matrix matrix;
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(exl2_matrix_init(&matrix, l.f.pool, &tensors, 1, &err), 0);

    double *w = malloc(l.k * l.n * sizeof *w);
    for (size_t i = 0; i < l.k * l.n; i++)
        w[i] = (double)l.w[i];
    size_t near_border = 0;
    for (size_t i = 0; i < l.k; i++)
        for (size_t n = 0; n < l.n; n++) {
            double scale = (double)exl2_scale(&matrix, i / 32, n), exact = w[i * l.n + n] / scale + 8;
            double code = fmin(fmax(rint(exact), 0), 15);
            unsigned ours = exl2_code(&matrix, i, n);
            if (fabs(exact - floor(exact) - 0.5) < 1e-4)
                near_border++;
            else
                cr_assert_eq(ours, (unsigned)code, "row %zu column %zu: %u, expected %g", i, n, ours, exact);
            double value = (double)half_to_float(half_from_float((float)(((double)ours - 8) * scale)));
            double error = (w[i * l.n + n] - value) / (double)l.h.matrix[i * l.k + i];
            for (size_t j = i + 1; j < l.k; j++)
                w[j * l.n + n] -= (double)l.h.matrix[i * l.k + j] * error;
        }
    cr_assert_lt(near_border, l.k * l.n / 100);
    free(w);
    exl2_matrix_release(&matrix, l.f.pool);
    gptq_result_release(&result, l.f.pool);
    layer_close(&l);
}

Test(gptq, same_bytes_for_any_number_of_threads)
{
    struct gptq_result first = { 0 };
    struct layer one;
    layer_open(&one, 288, 160, 1);
    layer_quantise(&one, &mixed, false, &first);
    for (int threads = 2; threads <= 4; threads++) {
        struct gptq_result other;
        struct layer l;
        layer_open(&l, 288, 160, threads);
        layer_quantise(&l, &mixed, false, &other);
        cr_assert_arr_eq(other.q_weight, first.q_weight, first.word_rows * first.out_features * 4);
        cr_assert_arr_eq(other.q_scale, first.q_scale, first.group_count * first.out_features / 8 * 4);
        cr_assert_arr_eq(other.q_scale_max, first.q_scale_max, first.group_count * 2);
        gptq_result_release(&other, l.f.pool);
        layer_close(&l);
    }
    gptq_result_release(&first, one.f.pool);
    layer_close(&one);
}

/* Format notes 6.7: a zero group has scale zero and decodes to zero, with the highest code. */
Test(gptq, zero_weights_decode_to_zero)
{
    static const struct exl2_layout layout = { 1, { { 4, 32, 1.0 } } };
    struct layer l;
    struct gptq_result result;
    layer_open(&l, 64, 32, 1);
    memset(l.w, 0, l.k * l.n * sizeof *l.w);
    layer_quantise(&l, &layout, false, &result);
    float *q = dequantised(&l, &result);
    for (size_t i = 0; i < l.k * l.n; i++)
        cr_assert_eq(q[i], 0.0f);
    cr_assert_eq(result.q_weight[0], 0xffffffffu);
    free(q);
    gptq_result_release(&result, l.f.pool);
    layer_close(&l);
}

Test(gptq, memory_is_as_predicted_and_every_failure_is_clean)
{
    struct layer l;
    struct plim_pool_stats before, after;
    struct gptq_result result;
    layer_open(&l, 288, 96, 2);
    plim_pool_reset_peak(l.f.pool);
    plim_pool_stats(l.f.pool, &before);
    layer_quantise(&l, &mixed, false, &result);
    plim_pool_stats(l.f.pool, &after);
    cr_assert_eq(after.peak[PLIM_FAST].total_bytes - before.current[PLIM_FAST].total_bytes,
                 gptq_scratch_bytes(backend_quantize_ops("cpu"), &mixed, 288, 96) + l.k * l.n * sizeof(float));
    gptq_result_release(&result, l.f.pool);

    float *w = copy_in_pool(l.f.pool, l.w, l.k * l.n);
    uint64_t nth = 0;
    int rc;
    do {
        struct plim_err err = PLIM_ERR_INIT;
        memcpy(w, l.w, l.k * l.n * sizeof *w);
        plim_pool_fail_allocation(l.f.pool, ++nth);
        rc = gptq_quantise(&result, w, l.n, &l.h, &mixed, false, &err);
        cr_assert(rc == 0 || err.kind == PLIM_ERR_MEMORY);
    } while (rc < 0);
    plim_pool_fail_allocation(l.f.pool, 0);
    cr_assert_gt(nth, 9);
    gptq_result_release(&result, l.f.pool);
    plim_pool_free(l.f.pool, w);
    layer_close(&l);
}
