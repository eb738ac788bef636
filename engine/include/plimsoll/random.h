#ifndef PLIMSOLL_RANDOM_H
#define PLIMSOLL_RANDOM_H

/*
 * Seeded random numbers, the same on every machine for one seed.
 *
 * xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2019), seeded by splitmix64.
 * The normal variates come from a rational approximation of the quantile, in plain arithmetic (and the square root, which
 * IEEE 754 rounds correctly), so that no libm decides a bit.
 */

#include <stddef.h>
#include <stdint.h>

struct plim_random {
    uint64_t state[4];
};

/* `stream` gives independent sequences for one seed (one per tensor, one per thread). */
void plim_random_seed(struct plim_random *random, uint64_t seed, uint64_t stream);

uint64_t plim_random_u64(struct plim_random *random);

/* Uniform in [0, bound), bound > 0, without bias. */
uint64_t plim_random_below(struct plim_random *random, uint64_t bound);

/* Uniform in [0, 1), 53 bits. */
double plim_random_double(struct plim_random *random);

/* Standard normal. */
double plim_random_normal(struct plim_random *random);

/* The quantile of the standard normal distribution, 0 < p < 1; the same bits on every machine. */
double plim_normal_quantile(double p);

/* The next `n` words, without a call for each. */
void plim_random_fill(struct plim_random *random, uint64_t *words, size_t n);

/* Passes over the next `n` words: a normal variate takes one, so that threads can begin in the middle of a sequence. */
void plim_random_skip(struct plim_random *random, size_t n);

/* A uniformly random order of 0 .. n-1. */
void plim_random_permutation(struct plim_random *random, uint32_t *order, size_t n);

#endif
