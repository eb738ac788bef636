/* Synthetic models: values as real models have them, heavy-tailed, with outlier channels; layout in the file. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exl2.h"
#include "half.h"
#include "synthetic_test.h"
#include "synthetic_values.h"

TestSuite(synthetic_values, .init = make_place, .fini = remove_place);

struct moments {
    double deviation, kurtosis, largest;   /* the last in deviations */
};

static struct moments moments_of(const uint16_t *halves, size_t n)
{
    double squares = 0, fourth = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)half_to_float(halves[i]);
        cr_assert(isfinite(x));
        squares += x * x;
        fourth += x * x * x * x;
        largest = fmax(largest, fabs(x));
    }
    double variance = squares / (double)n;
    return (struct moments){ sqrt(variance), fourth / (double)n / (variance * variance), largest / sqrt(variance) };
}

static const struct tensor *find(const struct tensor_store *store, const char *name)
{
    const struct tensor *tensor = tensor_store_find(store, name);
    cr_assert_not_null(tensor, "%s", name);
    return tensor;
}

Test(synthetic_values, dense_weights_have_heavy_tails_and_outlier_channels)
{
    struct plim_pool *pool;
    struct tensor_store *store;
    struct plim_synthetic wide = { .preset = "smollm2-135m", .layers = 1, .seed = 3 };
    make(&wide, at("m"));
    tensors_of(at("m"), &pool, &store);
    const struct tensor *up = find(store, "model.layers.0.mlp.up_proj.weight");   /* [1536, 576] */
    struct moments m = moments_of(up->data, up->element_count);
    /* A normal has kurtosis 3, and its largest of 900 000 lies at 5. */
    cr_assert(m.deviation > 0.9 / 24 && m.deviation < 1.6 / 24, "deviation %g", m.deviation);
    cr_assert(m.kurtosis > 4.5 && m.kurtosis < 60, "kurtosis %g", m.kurtosis);
    cr_assert(m.largest > 8, "largest %g", m.largest);

    /* Input channels: most within a factor of two of the median, one in 256 or so far above. */
    int outliers = 0;
    for (size_t k = 0; k < 576; k++) {
        double squares = 0;
        for (size_t n = 0; n < 1536; n++) {
            double x = (double)half_to_float(((const uint16_t *)up->data)[n * 576 + k]);
            squares += x * x;
        }
        outliers += sqrt(squares / 1536) > 2.5 / 24;
    }
    cr_assert(outliers >= 1 && outliers <= 10, "%d outlier channels", outliers);

    const struct tensor *norm = find(store, "model.norm.weight");
    int large = 0;
    for (size_t i = 0; i < 576; i++) {
        double w = (double)half_to_float(((const uint16_t *)norm->data)[i]);
        cr_assert(w > 0.2 && w <= 6, "%g", w);
        large += w >= 2;
    }
    cr_assert(large >= 1 && large < 20, "%d large norm weights", large);
    cr_assert_null(tensor_store_find(store, "lm_head.weight"), "a tied model has no head");
    tensor_store_close(store);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

static void matrix_of(const struct tensor_store *store, struct plim_pool *pool, const char *key,
                      struct exl2_matrix *matrix)
{
    struct plim_err err = PLIM_ERR_INIT;
    char name[5][128];
    static const char *const parts[] = { "q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm" };
    for (int i = 0; i < 5; i++)
        snprintf(name[i], sizeof name[i], "%s.%s", key, parts[i]);
    const struct tensor *weight = find(store, name[0]), *scale = find(store, name[1]), *invperm = find(store, name[4]);
    struct exl2_tensors tensors = {
        .name = key,
        .q_weight = weight->data,
        .word_rows = weight->shape[0],
        .out_features = weight->shape[1],
        .q_scale = scale->data,
        .group_count = scale->shape[0],
        .q_scale_max = find(store, name[2])->data,
        .q_groups = find(store, name[3])->data,
        .q_invperm = invperm->data,
        .in_features = invperm->element_count,
    };
    cr_assert_eq(exl2_matrix_init(matrix, pool, &tensors, 1, &err), 0, "%s", err.message);
}

/*
 * At every width: the expanded weights have the deviation that was meant, and codes bunch around zero as a quantised bell
 * curve does, with the ends in use.
 */
Test(synthetic_values, exl2_codes_are_those_of_a_quantised_bell_curve)
{
    static const double targets[] = { 2.5, 3.3, 4.1, 5.2, 6.1, 8.1 };
    bool seen[9] = { false };
    for (size_t t = 0; t < sizeof targets / sizeof *targets; t++) {
        struct plim_synthetic options = { .preset = "tiny", .exl2 = true, .bits_per_weight = targets[t],
                                          .head_bits = t == 0 ? 2 : (int)t + 2, .seed = t };
        struct plim_pool *pool;
        struct tensor_store *store;
        struct exl2_matrix matrix;
        char name[16];
        options.head_bits = options.head_bits == 7 ? 8 : options.head_bits;
        snprintf(name, sizeof name, "m%zu", t);
        make(&options, at(name));
        tensors_of(at(name), &pool, &store);
        matrix_of(store, pool, "model.layers.0.mlp.down_proj", &matrix);   /* 512 x 256, meant: 0.5 / sqrt(512) */
        uint16_t *expanded = malloc(512 * 256 * sizeof *expanded);
        exl2_dequantise(&matrix, expanded);
        struct moments m = moments_of(expanded, 512 * 256);
        cr_assert(m.deviation > 0.35 / sqrt(512) && m.deviation < 0.75 / sqrt(512), "%g bits: %g", targets[t],
                  m.deviation * sqrt(512));
        for (size_t g = 0; g < matrix.group_count; g++) {
            unsigned bits = matrix.groups[g].bits, zero = 1u << (bits - 1);
            size_t near = 0, total = (size_t)matrix.groups[g].row_count * 256, lowest = 0;
            unsigned half_width = zero > 2 ? zero / 2 : 1;   /* the middle half of the codes */
            for (size_t r = 0; r < matrix.groups[g].row_count; r++) {
                for (size_t n = 0; n < 256; n++) {
                    uint32_t code = exl2_code(&matrix, matrix.groups[g].first_row + r, n);
                    near += code + half_width >= zero && code < zero + half_width;
                    lowest += code == 0;
                }
            }
            /* Uniform codes would have half in the middle half. */
            cr_assert((double)near / (double)total > 0.6, "%u bits: %g near zero", bits, (double)near / (double)total);
            cr_assert(lowest > 0 || total < 20000, "%u bits: code 0 is never used", bits);
            seen[bits] = true;
        }
        free(expanded);
        exl2_matrix_release(&matrix, pool);
        tensor_store_close(store);
        cr_assert_eq(plim_pool_close(pool), 0u);
    }
    for (int bits = 2; bits <= 8; bits++)
        cr_assert(seen[bits] || bits == 7, "no group of %d bits", bits);
}

static bool same_permutation(const struct tensor_store *store, const char *a, const char *b)
{
    char names[2][128];
    snprintf(names[0], sizeof names[0], "model.layers.1.%s.q_invperm", a);
    snprintf(names[1], sizeof names[1], "model.layers.1.%s.q_invperm", b);
    const struct tensor *x = find(store, names[0]), *y = find(store, names[1]);
    return x->bytes == y->bytes && memcmp(x->data, y->data, x->bytes) == 0;
}

Test(synthetic_values, matrices_with_the_same_input_share_a_permutation)
{
    struct plim_pool *pool;
    struct tensor_store *store;
    make(&tiny_exl2, at("m"));
    tensors_of(at("m"), &pool, &store);
    cr_assert(same_permutation(store, "self_attn.q_proj", "self_attn.k_proj"));
    cr_assert(same_permutation(store, "self_attn.q_proj", "self_attn.v_proj"));
    cr_assert(same_permutation(store, "mlp.gate_proj", "mlp.up_proj"));
    cr_assert_not(same_permutation(store, "self_attn.q_proj", "self_attn.o_proj"));
    cr_assert_not(same_permutation(store, "self_attn.q_proj", "mlp.up_proj"));
    tensor_store_close(store);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

/* The engine reads mapped matrices where they lie. */
Test(synthetic_values, matrices_are_aligned_in_the_file)
{
    const struct plim_synthetic *const models[] = { &tiny_exl2, &tiny_dense };
    for (int i = 0; i < 2; i++) {
        struct plim_pool *pool;
        struct tensor_store *store;
        make(models[i], at(i ? "dense" : "exl2"));
        tensors_of(at(i ? "dense" : "exl2"), &pool, &store);
        for (size_t t = 0; t < tensor_store_count(store); t++) {
            const struct tensor *tensor = tensor_store_at(store, t);
            size_t align = tensor->dtype == DTYPE_I32 ? 16 : 2;
            if (strstr(tensor->name, "q_weight") || strstr(tensor->name, "proj.weight"))
                align = 64;
            cr_assert_eq((uintptr_t)tensor->data % align, 0u, "%s", tensor->name);
        }
        tensor_store_close(store);
        cr_assert_eq(plim_pool_close(pool), 0u);
    }
}
