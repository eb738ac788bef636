#include "attention_reference.h"

#include <math.h>
#include <stdlib.h>

#include "half.h"

/* The matrix of the rotation by its definition: (-1)^(number of common bits) between elements of the same parity. */
static double rotation(size_t i, size_t j, size_t chunk)
{
    if (i % 2 != j % 2)
        return 0;
    return (__builtin_popcountll((i / 2) & (j / 2)) % 2 ? -1 : 1) / sqrt((double)chunk / 2);
}

static double coded(const struct kv_format *format, const uint8_t *row, size_t i)
{
    const uint16_t *scales = (const uint16_t *)(const void *)(row + format->scale_offset);

    switch (format->element) {
    case KV_F16:
        return (double)half_to_float(((const uint16_t *)(const void *)row)[i]);
    case KV_F32:
        return (double)((const float *)(const void *)row)[i];
    case KV_Q8:
        return (row[i] - 128) * (double)half_to_float(scales[i / format->group]);
    case KV_Q4:
        return ((i % 2 ? row[i / 2] >> 4 : row[i / 2] & 15) - 8) * (double)half_to_float(scales[i / format->group]);
    }
    return NAN;
}

double *kv_reference(const struct kv_format *format, const void *rows, size_t count, size_t width)
{
    double *out = calloc(count * width, sizeof *out);

    for (size_t r = 0; r < count; r++) {
        const uint8_t *row = (const uint8_t *)rows + r * format->row_bytes;
        for (size_t i = 0; i < width; i++) {
            double x = coded(format, row, i);
            size_t first = format->chunk ? i - i % format->chunk : i;
            if (!format->chunk)
                out[r * width + i] = x;
            for (size_t j = 0; j < format->chunk; j++)
                out[r * width + first + j] += rotation(i - first, j, format->chunk) * x;
        }
    }
    return out;
}

double *attention_reference(const struct attention_shape *s, const float *q, const double *k, const double *v, size_t past,
                            size_t rows)
{
    size_t width = s->kv_head_count * s->head_dim;
    double *out = calloc(rows * s->head_count * s->head_dim, sizeof *out);
    double *weights = malloc((past + rows) * sizeof *weights);

    for (size_t r = 0; r < rows; r++)
        for (size_t h = 0; h < s->head_count; h++) {
            size_t kv = h / (s->head_count / s->kv_head_count) * s->head_dim, position = past + r;
            size_t first = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
            const float *query = q + (r * s->head_count + h) * s->head_dim;
            double highest = -INFINITY, sum = 0;
            for (size_t p = first; p <= position; p++) {
                double dot = 0;
                for (size_t j = 0; j < s->head_dim; j++)
                    dot += (double)query[j] * k[p * width + kv + j];
                dot *= (double)s->scale;
                if (s->softcap > 0)
                    dot = (double)s->softcap * tanh(dot / (double)s->softcap);
                weights[p] = dot;
                highest = fmax(highest, dot);
            }
            for (size_t p = first; p <= position; p++)
                sum += weights[p] = exp(weights[p] - highest);
            for (size_t p = first; p <= position; p++)
                for (size_t j = 0; j < s->head_dim; j++)
                    out[(r * s->head_count + h) * s->head_dim + j] += weights[p] / sum * v[p * width + kv + j];
        }
    free(weights);
    return out;
}

double relative_error(const float *a, const double *b, size_t n)
{
    double error = 0, norm = 0;

    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]))
            return HUGE_VAL;
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(error / norm);
}
