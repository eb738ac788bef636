#ifndef PLIMSOLL_UNITS_H
#define PLIMSOLL_UNITS_H

/* Sizes: binary units, overflow-checked arithmetic, and the one way to read and print them. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

#define PLIM_KI ((size_t)1 << 10)
#define PLIM_MI ((size_t)1 << 20)
#define PLIM_GI ((size_t)1 << 30)

/* *out = a * b or a + b; false (and *out untouched) when the result does not fit size_t. */
bool plim_size_mul(size_t a, size_t b, size_t *out);
bool plim_size_add(size_t a, size_t b, size_t *out);

/* `n` rounded up to a multiple of `step` (> 0). The caller knows that the result fits. */
static inline size_t plim_round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

static inline size_t plim_ceil_div(size_t n, size_t step)
{
    return n / step + (n % step != 0);
}

static inline size_t plim_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t plim_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

/*
 * Reads a non-negative count such as `536870912`, `512Mi`, `1.5Gi`, `6e8` or `2K`. Suffixes Ki, Mi, Gi, Ti are
 * binary, K, M, G, T decimal; a trailing `B` is accepted. The value must come out whole. Returns 0, or -1 with `err`
 * (kind input) naming the text.
 */
int plim_parse_count(const char *text, int64_t *out, struct plim_err *err);

/* "1.5 GiB", "512 B": at most `size` bytes with the final NUL; returns `buffer`. 16 bytes are always enough. */
char *plim_format_bytes(char *buffer, size_t size, uint64_t bytes);

/* "512 Mi", "300", "1.5 Ki" for element counts; the same rules. */
char *plim_format_count(char *buffer, size_t size, uint64_t count);

/* "1.52 s", "13.4 ms", "870 ns". */
char *plim_format_duration(char *buffer, size_t size, uint64_t duration_ns);

#endif
