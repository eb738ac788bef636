#ifndef PLIM_POLYNOMIALS_H
#define PLIM_POLYNOMIALS_H

/*
 * exp and tanh in fp32, the same polynomials in every set of kernels; tools/reference/fit_polynomials.py fits them.
 *
 *   exp(x)  = 2^n * (1 + r + r^2 q(r)),   n = round(x / ln 2),  r = x - n ln 2,  |r| <= ln(2) / 2
 *   tanh(y) = y + y^3 t(y^2)              |y| < TANH_SMALL
 *           = 1 - 2 / (exp(2 y) + 1)      beyond, with y's sign
 *
 * The polynomials are exact to 2^-28; what is left is rounding: exp within 2 units in the last place (results below
 * 2^-126 are right to one subnormal step or 0), tanh within 3, with or without fused multiply-add. NaN stays NaN.
 */

#define EXP_Q0 0x1.fffffcp-2f
#define EXP_Q1 0x1.555492p-3f
#define EXP_Q2 0x1.5558f2p-5f
#define EXP_Q3 0x1.1239d4p-7f
#define EXP_Q4 0x1.6a244cp-10f

/* x is clamped to where the result is already 0 or infinite in fp32, so that n fits the two-step scaling below. */
#define EXP_LOW  (-104.0f)
#define EXP_HIGH 89.0f

#define INV_LN2 0x1.715476p+0f
/* ln 2 in two pieces: n * LN2_HIGH is exact for |n| < 2^9. */
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW  0x1.7f7d1cp-20f

#define TANH_SMALL 0.5625f
#define TANH_T0 (-0x1.555548p-2f)
#define TANH_T1 0x1.110c72p-3f
#define TANH_T2 (-0x1.b90946p-5f)
#define TANH_T3 0x1.582fb0p-6f
#define TANH_T4 (-0x1.95001cp-8f)

/*
 * gelu_tanh(g) = g/2 (1 + tanh(u)) = g / (1 + exp(-2u)),  u = sqrt(2/pi) (g + 0.044715 g^3): -2u = g (A + B g^2).
 */
#define GELU_A (-0x1.988454p+0f)     /* -2 sqrt(2/pi) */
#define GELU_B (-0x1.2444f2p-4f)     /* -2 sqrt(2/pi) 0.044715 */

#endif
