/*
 * Products of random shapes on CUDA: widths, groups, sizes, 1 to 4096 rows, bounds and change-over points, all drawn from one
 * seed. What thousands of rows should give is not made row by row: some rows are checked against double precision, and
 * all of them through a sum of rows of random sign, which is the product of the same sum of rows of x.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "test_cuda_layers.h"

#define MOST_GROUPS  24
#define CHECKED_ROWS 24

struct random_case {
    struct group_spec groups[MOST_GROUPS + 1];
    size_t out, rows;
    float prescale;
    bool bias, accumulate;
    char settings[96], what[224];
};

static size_t between(struct plim_random *random, size_t least, size_t most)
{
    return least + (size_t)plim_random_below(random, most - least + 1);
}

/* Widths descend, as the format wants it. Half of the layers have groups of one size, the last one shorter. */
static void draw_groups(struct plim_random *random, struct group_spec *groups)
{
    static const unsigned widths[] = { 8, 6, 5, 4, 3, 2 };
    size_t count = between(random, 1, MOST_GROUPS), width = between(random, 0, 5);
    bool alike = plim_random_below(random, 2) == 0;
    unsigned rows = 32 * (unsigned)between(random, 1, 5);

    for (size_t i = 0; i < count; i++) {
        if (width < 5 && plim_random_below(random, 4) == 0)
            width = between(random, width + 1, 5);
        if (!alike || i + 1 == count)
            rows = 32 * (unsigned)between(random, 1, alike ? rows / 32 : 5);
        groups[i] = (struct group_spec){ widths[width], rows };
    }
    groups[count] = (struct group_spec){ 0, 0 };
}

static void draw(struct plim_random *random, size_t number, struct random_case *c)
{
    static const char *const rows[] = { "", "dq_rows=0", "dq_rows=4096" };
    static const char *const bounds[] = { "", " max_dq_size=300Ki", " max_dq_size=20000", " max_dq_size=1Ki" };
    static const char *const modes[] = { "", "", " dq_mode=gated" };

    draw_groups(random, c->groups);
    c->out = between(random, 1, 500);
    c->rows = (size_t)exp2(12 * plim_random_double(random));   /* 1 to 4095, small ones as often as large ones */
    if (number % 8 == 7)
        c->rows = 4096;
    c->prescale = 0.25f * (float)between(random, 1, 4);
    c->bias = plim_random_below(random, 2) == 0;
    c->accumulate = plim_random_below(random, 2) == 0;
    snprintf(c->settings, sizeof c->settings, "%s%s%s", rows[plim_random_below(random, 3)],
             bounds[plim_random_below(random, 4)], modes[plim_random_below(random, 3)]);
    int n = snprintf(c->what, sizeof c->what, "case %zu: [%s] %zu columns of", number, c->settings, c->out);
    for (const struct group_spec *g = c->groups; g->bits && n < (int)sizeof c->what; g++)
        n += snprintf(c->what + n, sizeof c->what - (size_t)n, " %u@%u", g->bits, g->rows);
}

static void check_some_rows(const struct random_case *c, const struct layer *layer, const float *x, const float *y,
                            struct plim_random *random)
{
    size_t in = layer->source.in_features, count = plim_min(c->rows, (size_t)CHECKED_ROWS);
    double *wide = malloc(count * in * sizeof *wide);
    float *got = malloc(count * c->out * sizeof *got);

    for (size_t i = 0; i < count; i++) {   /* the last one always */
        size_t row = c->rows <= CHECKED_ROWS ? i : i == 0 ? c->rows - 1 : (size_t)plim_random_below(random, c->rows);
        for (size_t k = 0; k < in; k++)
            wide[i * in + k] = (double)x[row * in + k];
        memcpy(got + i * c->out, y + row * c->out, c->out * sizeof *got);
    }
    double *expected = layer_product(layer, wide, count);
    for (size_t i = 0; i < count * c->out && c->accumulate; i++)
        expected[i] += 1.5;
    check_relative(got, expected, count * c->out, HALF_ERROR, c->what, c->rows);
    free(wide), free(got), free(expected);
}

static void check_all_rows(const struct random_case *c, const struct layer *layer, const float *x, const float *y,
                           struct plim_random *random)
{
    size_t in = layer->source.in_features;
    double *sum_x = calloc(in, sizeof *sum_x), *sum_y = calloc(c->out, sizeof *sum_y), off = 0, all = 0, signs = 0;

    for (size_t r = 0; r < c->rows; r++) {
        double sign = plim_random_below(random, 2) ? 1 : -1;
        signs += sign;
        for (size_t k = 0; k < in; k++)
            sum_x[k] += sign * (double)x[r * in + k];
        for (size_t n = 0; n < c->out; n++)
            sum_y[n] += sign * (double)y[r * c->out + n];
    }
    double *expected = layer_product(layer, sum_x, 1);   /* with one bias, where there should be `signs` */
    for (size_t n = 0; n < c->out; n++) {
        expected[n] += (layer->bias ? (signs - 1) * layer->bias[n] : 0) + (c->accumulate ? 1.5 * signs : 0);
        off += (sum_y[n] - expected[n]) * (sum_y[n] - expected[n]);
        all += expected[n] * expected[n];
    }
    cr_assert(sqrt(off / all) < HALF_ERROR, "%s: sum of %zu rows, relative error %g", c->what, c->rows, sqrt(off / all));
    free(sum_x), free(sum_y), free(expected);
}

static float *product(struct cuda_fixture *f, const struct random_case *c, const struct matrix *matrix, const float *device_x,
                      const float *start)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t n = c->rows * c->out;
    float *device_y = device_floats(f, c->accumulate ? start : NULL, n);

    cr_assert_eq(f->backend.ops->linear(&f->backend, matrix, device_x, c->rows, device_y, c->accumulate, &err), 0, "%s: %s",
                 c->what, err.message);
    float *y = host_floats(f, device_y, n);
    device_free(f, device_y);
    return y;
}

static void check_case(const struct random_case *c, struct plim_random *random)
{
    struct cuda_fixture f;
    struct layer layer;
    struct matrix matrix;

    cuda_fixture_open_with(&f, NULL, c->settings);
    layer_exl2(&layer, c->groups, c->out, c->prescale, c->bias, plim_random_u64(random));
    layer_init(&f, &matrix, &layer);
    size_t in = layer.source.in_features;
    float *x = normal_floats(c->rows * in, 1, plim_random_u64(random)), *start = malloc(c->rows * c->out * sizeof *start);
    for (size_t i = 0; i < c->rows * c->out; i++)
        start[i] = 1.5f;
    float *device_x = device_floats(&f, x, c->rows * in);
    float *y = product(&f, c, &matrix, device_x, start), *again = product(&f, c, &matrix, device_x, start);
    check_some_rows(c, &layer, x, y, random);
    check_all_rows(c, &layer, x, y, random);
    cr_assert_eq(memcmp(y, again, c->rows * c->out * sizeof *y), 0, "%s: %zu rows, other bits", c->what, c->rows);
    free(x), free(start), free(y), free(again);
    device_free(&f, device_x);
    f.backend.ops->matrix_release(&f.backend, &matrix);
    layer_free(&layer);
    cuda_fixture_close(&f);
}

Test(cuda_shapes, products_of_random_shapes)
{
    struct plim_random random;
    size_t count = cuda_count(48, 3);

    plim_random_seed(&random, 20261124, 0);
    for (size_t number = 0; number < count; number++) {
        struct random_case c;
        draw(&random, number, &c);
        if (cuda_sanitized())
            c.rows = c.rows % 300 + 1;
        check_case(&c, &random);
    }
}
