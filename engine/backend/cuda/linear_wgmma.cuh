#ifndef PLIM_CUDA_LINEAR_WGMMA_CUH
#define PLIM_CUDA_LINEAR_WGMMA_CUH

/* What the kernels of linear_wgmma.cu and their calls (linear_wgmma_call.cu) share. */

#include <cuda.h>

#include "linear_kernels.h"

#define STAGE_ROWS    64u                 /* of W, two tiles: 128 bytes of x, the unit of the swizzle */
#define BLOCK_COLUMNS 128u

/* How blocks share a product. WHOLE: each makes its columns. SPLIT: those of a cluster share the rows of W. */
enum cut { WHOLE, SPLIT };

struct wide_args {
    CUtensorMap x[LINEAR_MAX_MATRICES];
    struct linear_wgmma call;
    uint32_t first_unit[LINEAR_MAX_MATRICES + 1];   /* of columns, where each matrix begins; a unit is what a cluster makes */
    uint32_t row_blocks, cluster, units;
};

typedef void wide_kernel(const wide_args);

struct wide_variant {
    wide_kernel *kernel;
    uint32_t rows, shared_bytes, threads;   /* N, and what follows from it */
    enum cut cut;
    size_t stage_ns;                        /* of a block, as one H100 was measured */
};

enum { WIDE_VARIANTS = 3 };
extern const struct wide_variant wide_variants[WIDE_VARIANTS];
extern const struct wide_variant wide_uniform;   /* all tiles of 4 bits, in whole stages */

#endif
