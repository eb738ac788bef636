#ifndef PLIM_KV_CACHE_H
#define PLIM_KV_CACHE_H

/* Quantised rows of the KV cache on the CPU; kv_format.h says what they are. Reading them back is a kernel (kv_decode). */

#include <stddef.h>
#include <stdint.h>

#include "kv_format.h"

/* Rotates n elements in place, chunk by chunk; twice gives back what was there. */
void kv_rotate(float *x, size_t n, size_t chunk);

/* Rotates and encodes one position's `width` elements. The row's padding is left alone. */
void kv_encode(const struct kv_format *format, const float *x, size_t width, uint8_t *row);

#endif
