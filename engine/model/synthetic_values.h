#ifndef PLIM_SYNTHETIC_VALUES_H
#define PLIM_SYNTHETIC_VALUES_H

/*
 * The contents of synthetic tensors, fast and in pieces.
 *
 * What real weights look like, and how it is imitated:
 *
 *   heavy tails       a variate t = z + z^3/20 of a normal z, scaled to variance 1: kurtosis 4.5 (normal: 3), about that of
 *                     Student's t with 8 degrees of freedom
 *   uneven channels   each input channel and each output row has a scale (1 + z/10)^2
 *   outlier channels  one input channel in 256, on average, is 3 to 8 times larger
 *   norms             near 1, one weight in 128 between 2 and 6
 *   EXL2 codes        a heavy-tailed variate, quantised with the step that suits the width: not uniform
 *   EXL2 scales       levels that follow the output columns; the first groups, where the quantizer puts the inputs that
 *                     matter most, are larger
 *
 * A variate is drawn by looking up 16 random bits in a table of 65536 quantiles (a code of 2, 3 or 4 bits takes 4 or 8 of
 * the bits): no arithmetic but a multiplication by the scale, a gigabyte in a second or so.
 *
 * A tensor is cut into pieces that have random streams of their own, so that threads can share the work and the bytes
 * depend on neither their number nor the order of tensors.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"
#include "synthetic_plan.h"

struct synthetic_values;

int synthetic_values_open(struct synthetic_values **values, struct plim_pool *pool, uint64_t seed,
                          struct plim_err *err);
void synthetic_values_close(struct synthetic_values *values);

/* Chooses the tensor that the functions below mean; `tensor` is borrowed. */
int synthetic_values_begin(struct synthetic_values *values, const struct synthetic_tensor *tensor,
                           struct plim_err *err);

/* Pieces of the tensor, end to end: some 256 KiB each, or 32 packed rows of a matrix' codes. */
size_t synthetic_values_piece_count(const struct synthetic_values *values);
size_t synthetic_values_piece_bytes(const struct synthetic_values *values, size_t piece);

/* Writes one piece. Threads: any number of pieces of the tensor at once. */
void synthetic_values_fill(const struct synthetic_values *values, size_t piece, void *out);

#endif
