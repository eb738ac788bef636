/* The kernels that take tiles of any widths. */

#include "linear_wgmma_kernel.cuh"

const struct wide_variant wide_variants[WIDE_VARIANTS] = { WIDE_VARIANT(64, SPLIT, 0, 700), WIDE_VARIANT(128, WHOLE, 0, 600),
                                                           WIDE_VARIANT(256, WHOLE, 0, 800) };
