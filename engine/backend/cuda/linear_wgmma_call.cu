/*
 * Calls of linear_wgmma: which of its kernels, and how a product is cut, by what one H100 took; x described to the copy engine;
 * the launch.
 */

#include "linear_wgmma.cuh"

/* As for linear_few: an H100's, so that results are the same on every card. */
#define SPREAD_SMS 132u

static uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* How a call is cut: blocks of a cluster, and what that takes. */
struct wide_plan {
    const struct wide_variant *variant;
    uint32_t cluster;
    size_t ns;
};

static struct wide_plan plan_variant(const struct wide_variant *v, uint32_t in_features, uint32_t columns, uint32_t rows)
{
    const uint32_t stages = divide_up(in_features, STAGE_ROWS);
    uint32_t blocks = divide_up(columns, BLOCK_COLUMNS) * divide_up(rows, v->rows), waves;
    struct wide_plan plan = { v, 2, 0 };

    if (v->cut != SPLIT) {
        waves = divide_up(divide_up(columns, 2 * BLOCK_COLUMNS) * divide_up(rows, v->rows), SPREAD_SMS / 2);
        plan.ns = 3000 + waves * stages * v->stage_ns;
        return plan;
    }
    /* One for each multiprocessor, if it still gets eight stages; two, if those get sixteen. */
    plan.cluster = 1;
    while (plan.cluster < 8 && 16 * plan.cluster <= stages &&
           2 * plan.cluster * blocks <= (stages >= 32 * plan.cluster ? 2 : 1) * SPREAD_SMS)
        plan.cluster *= 2;
    blocks *= plan.cluster;
    waves = divide_up(blocks, 2 * SPREAD_SMS);
    /* Two of a multiprocessor are not twice as fast. */
    plan.ns = 3000 + waves * divide_up(stages, plan.cluster) * (blocks > SPREAD_SMS ? v->stage_ns * 3 / 2 : v->stage_ns);
    return plan;
}

static struct wide_plan choose(uint32_t in_features, uint32_t columns, uint32_t rows)
{
    struct wide_plan best = plan_variant(&wide_variants[0], in_features, columns, rows);
    for (uint32_t i = 1; i < WIDE_VARIANTS; i++) {
        struct wide_plan plan = plan_variant(&wide_variants[i], in_features, columns, rows);
        if (plan.ns < best.ns)
            best = plan;
    }
    return best;
}

size_t linear_wgmma_ns(size_t in_features, size_t columns, size_t rows)
{
    return choose((uint32_t)in_features, (uint32_t)columns, (uint32_t)rows).ns;
}

static struct wide_plan plan_call(const struct linear_wgmma *call)
{
    uint32_t columns = 0;
    for (uint32_t i = 0; i < call->matrix_count; i++)
        columns += call->matrix[i].stored_out_features;
    struct wide_plan plan = choose(call->matrix[0].in_features, columns, call->rows);
    if (call->variant > 0 && call->variant <= WIDE_VARIANTS)
        plan = plan_variant(&wide_variants[call->variant - 1], call->matrix[0].in_features, columns, call->rows);
    if (call->cluster > 0)
        plan.cluster = call->cluster;
    return plan;
}

typedef CUresult encode_tiled(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
                              const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, asked for at the first call. */
static cudaError_t find_encode(encode_tiled **encode)
{
    static encode_tiled *found;
    void *function = NULL;
    cudaDriverEntryPointQueryResult answer;

    if (!found) {
#if CUDART_VERSION >= 12050
        cudaError_t rc = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &answer);
#else
        cudaError_t rc = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &answer);
#endif
        if (rc != cudaSuccess)
            return rc;
        if (answer != cudaDriverEntryPointSuccess)
            return cudaErrorCallRequiresNewerDriver;
        found = reinterpret_cast<encode_tiled *>(function);
    }
    *encode = found;
    return cudaSuccess;
}

/* x [rows, in_features] in boxes of 64 columns by so many rows. */
static cudaError_t describe_x(CUtensorMap *map, const uint16_t *x, uint32_t rows, uint32_t in_features, uint32_t box_rows)
{
    const cuuint64_t sizes[2] = { in_features, rows }, strides[1] = { (cuuint64_t)in_features * sizeof *x };
    const cuuint32_t box[2] = { STAGE_ROWS, box_rows }, steps[2] = { 1, 1 };
    encode_tiled *encode;
    cudaError_t rc = find_encode(&encode);

    if (rc != cudaSuccess)
        return rc;
    CUresult answer = encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<uint16_t *>(x), sizes, strides, box, steps,
                             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return answer == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

static bool is_uniform(const struct linear_wgmma *call)
{
    for (uint32_t i = 0; i < call->matrix_count; i++)
        if (call->matrix[i].segment_count != 1 || call->matrix[i].near_segments[0].bits != 4 ||
            call->matrix[i].in_features % STAGE_ROWS != 0)
            return false;
    return true;
}

/* The kernel of the same blocks for such tiles. */
static const struct wide_variant *kernel_of(const struct wide_variant *v, const struct linear_wgmma *call)
{
    return v->rows == wide_uniform.rows && is_uniform(call) ? &wide_uniform : v;
}

cudaError_t linear_wgmma(const struct linear_wgmma *call, cudaStream_t stream)
{
    const struct wide_plan plan = plan_call(call);
    const struct wide_variant *v = kernel_of(plan.variant, call);
    struct wide_args args;
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = {};

    args.call = *call;
    args.row_blocks = divide_up(call->rows, v->rows);
    args.cluster = plan.cluster;
    args.first_unit[0] = 0;
    const uint32_t columns = BLOCK_COLUMNS * (v->cut == SPLIT ? 1 : args.cluster);
    for (uint32_t i = 0; i < call->matrix_count; i++)
        args.first_unit[i + 1] = args.first_unit[i] + divide_up(call->matrix[i].stored_out_features, columns);
    args.units = args.first_unit[call->matrix_count] * args.row_blocks;

    cudaError_t rc = cudaFuncSetAttribute(v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)v->shared_bytes);
    for (uint32_t i = 0; i < call->matrix_count && rc == cudaSuccess; i++)
        rc = describe_x(&args.x[i], call->x_half[i], call->rows, call->matrix[i].in_features,
                        v->cut == SPLIT || args.cluster == 1 ? v->rows : v->rows / 2);
    if (rc != cudaSuccess)
        return rc;
    const uint32_t at_once = v->cut == SPLIT ? args.units : SPREAD_SMS / args.cluster;
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = args.cluster;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((args.units < at_once ? args.units : at_once) * args.cluster);
    config.blockDim = dim3(v->threads);
    config.dynamicSmemBytes = v->shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = call->overlap ? 2 : 1;
    return cudaLaunchKernelEx(&config, v->kernel, args);
}
