/*
 * The kernel of most rows where all tiles are of 4 bits, in whole stages: without the instructions of other widths, which
 * many_rows jumps over for each tile and then waits for those it wants (2.2 of 12 cycles between instructions; here 0.7).
 */

#include "linear_wgmma_kernel.cuh"

const struct wide_variant wide_uniform = WIDE_VARIANT(256, WHOLE, 4, 800);
