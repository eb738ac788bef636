#ifndef PLIM_KV_FORMAT_H
#define PLIM_KV_FORMAT_H

/*
 * How one position's keys, or values, lie in the cache. C and CUDA share this header.
 *
 * fp16, fp32   [kv_heads * head_dim] elements, as they are.
 *
 * q8, q6, q4   codes of 8 or 4 bits, then one fp16 scale for each group of 32 (ExLlamaV2's caches; q6 is, as there, keys
 *              of 8 and values of 4 bits), the row rounded up to 16 bytes:
 *
 *     row = | codes: width * bits / 8 | scales: width / group * 2 | padding |
 *     element i = (code[i] - zero) * scale[i / group],   zero = 128 or 8
 *     4 bits: byte j holds element 2j in its low half and 2j + 1 in its high half
 *
 *   What is coded is not the vector x but its rotation R x: in every aligned chunk of 64 elements of a head, the 32 even
 *   and the 32 odd ones go each through a Walsh-Hadamard transform, divided by sqrt(32). R is symmetric and its own
 *   inverse, so q . k = (R q) . (R k), and sum p v = R (sum p R v): attention works on the rotated vectors throughout,
 *   rotates each query once and each result once, and no key is ever rotated back. Outliers of one channel, which keys
 *   are full of, are spread over 32 before they are rounded.
 *
 *   A group's scale is the element of largest magnitude divided by -zero, sign included: that element gets code 0
 *   exactly. (ExLlamaV2 divides by the magnitude, and cuts a positive largest element at 7/8 of itself with 4 bits.)
 *
 *   Heads that 64 doesn't divide have chunks of gcd(head_dim, 64) elements, at least 16, and groups of at most that.
 */

#include <stdbool.h>
#include <stddef.h>

enum kv_element {
    KV_F16,
    KV_F32,
    KV_Q8,
    KV_Q4
};

#define KV_ROW_ALIGN 16

/* A row of `width` elements of heads of head_dim each. */
struct kv_format {
    enum kv_element element;
    size_t chunk;          /* elements that are rotated together; 0: not rotated */
    size_t group;          /* elements that share a scale; 0: no scales */
    size_t scale_offset;   /* bytes from a row's start to its scales */
    size_t row_bytes;
};

static inline bool kv_is_quantised(enum kv_element element)
{
    return element == KV_Q8 || element == KV_Q4;
}

/* 0: heads of this size can't be quantised. */
static inline size_t kv_chunk(size_t head_dim)
{
    size_t chunk = 64;
    while (chunk >= 16 && head_dim % chunk != 0)
        chunk /= 2;
    return chunk >= 16 ? chunk : 0;
}

static inline struct kv_format kv_format_make(enum kv_element element, size_t head_dim, size_t width)
{
    struct kv_format f;
    f.element = element;
    f.chunk = f.group = f.scale_offset = 0;
    if (!kv_is_quantised(element)) {
        f.row_bytes = width * (element == KV_F32 ? 4 : 2);
        return f;
    }
    f.chunk = kv_chunk(head_dim);
    f.group = f.chunk < 32 ? f.chunk : 32;
    f.scale_offset = element == KV_Q8 ? width : width / 2;
    f.row_bytes = f.scale_offset + (f.group ? width / f.group * 2 : 0);
    f.row_bytes = (f.row_bytes + KV_ROW_ALIGN - 1) / KV_ROW_ALIGN * KV_ROW_ALIGN;
    return f;
}

#endif
