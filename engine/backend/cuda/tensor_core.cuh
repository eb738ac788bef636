#ifndef PLIM_TENSOR_CORE_CUH
#define PLIM_TENSOR_CORE_CUH

/*
 * One warp's matrix instructions, and how their operands lie in registers (PTX ISA, "Matrix fragments"). With
 * g = lane / 4 and t = lane % 4, a register of two halves each:
 *
 *     A [16, 16]   a0 = (g, 2t..)   a1 = (g + 8, 2t..)   a2 = (g, 2t + 8..)   a3 = (g + 8, 2t + 8..)
 *     B [16,  8]   b0 = (2t.., g)   b1 = (2t + 8.., g)
 *     C [16,  8]   c0 = (g, 2t)     c1 = (g, 2t + 1)     c2 = (g + 8, 2t)     c3 = (g + 8, 2t + 1)       fp32
 */

#include <cuda_fp16.h>
#include <stdint.h>

/* c += a b */
static __device__ __forceinline__ void mma_16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 x 8 matrices of halves from shared memory: lane l gives the address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void load_matrices(uint32_t r[4], const __half *row)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

static __device__ __forceinline__ void load_matrices_transposed(uint32_t r[4], const __half *row)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

/* Transposes an 8 x 8 matrix of halves, whose row g the lanes 4g .. 4g + 3 hold, within the warp. */
static __device__ __forceinline__ uint32_t transpose_8x8(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

static __device__ __forceinline__ uint32_t pack_halves(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *(uint32_t *)&pair;
}

/* 16 bytes from global to shared memory, asynchronously; zeros instead when `valid` is false (nothing is read then). */
static __device__ __forceinline__ void copy_async(void *shared, const void *global, bool valid)
{
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's groups are under way. */
template <int N> static __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
