/* The table of a kernels_ISA.c, from the functions of these names that stand above. */

const struct cpu_kernels KERNELS_NAME = {
    .isa = KERNELS_ISA,
    .rms_norm = rms_norm,
    .rope = rope,
    .silu_mul = silu_mul,
    .gelu_tanh_mul = gelu_tanh_mul,
    .add = add,
    .scale = scale,
    .softcap = softcap,
    .to_half = to_half,
    .from_half = from_half,
    .from_bfloat = from_bfloat,
    .from_float = from_float,
    .softmax_step = softmax_step,
    .scores_half = scores_half,
    .values_half = values_half,
    .scores_float = scores_float,
    .values_float = values_float,
    .kv_decode = kv_decode,
};
