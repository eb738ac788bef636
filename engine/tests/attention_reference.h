#ifndef TEST_ATTENTION_REFERENCE_H
#define TEST_ATTENTION_REFERENCE_H

/* Attention and the cache's formats by their definitions, in double, for the tests of every backend. */

#include <stddef.h>
#include <stdint.h>

#include "backend.h"

/* What `count` rows of a cache hold, rotated back: [count, width]; free(). */
double *kv_reference(const struct kv_format *format, const void *rows, size_t count, size_t width);

/* q [rows, heads, head_dim]; k and v [past + rows, kv_heads * head_dim]. Returns [rows, heads, head_dim]; free(). */
double *attention_reference(const struct attention_shape *shape, const float *q, const double *k, const double *v,
                            size_t past, size_t rows);

/* |a - b| / |b| over n elements; huge when something isn't finite. */
double relative_error(const float *a, const double *b, size_t n);

#endif
