#!/usr/bin/env python3
"""Reference values for engine/tests/test_core_random.c, from an implementation that shares nothing with ours: Python
integers for splitmix64 and xoshiro256++ (as published), and mpmath with 50 digits for the normal quantile.

usage: python3 tools/reference/make_random_reference.py
"""
import mpmath

M = (1 << 64) - 1
mpmath.mp.dps = 50


def splitmix64(state):
    state = (state + 0x9E3779B97F4A7C15) & M
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return state, z ^ (z >> 31)


def seeded(seed, stream):
    _, a = splitmix64(seed)
    _, b = splitmix64(stream)
    state, s = a ^ b, []
    for _ in range(4):
        state, x = splitmix64(state)
        s.append(x)
    return s


def rotl(x, k):
    return ((x << k) | (x >> (64 - k))) & M


def xoshiro256pp(s):
    result = (rotl((s[0] + s[3]) & M, 23) + s[0]) & M
    t = (s[1] << 17) & M
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= t
    s[3] = rotl(s[3], 45)
    return result


def quantile(p):
    return mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)


s = [1, 2, 3, 4]
print("state 1 2 3 4:", [xoshiro256pp(s) for _ in range(6)])
for seed, stream in ((0, 0), (42, 7)):
    s = seeded(seed, stream)
    print(f"seed {seed} stream {stream}:", [hex(xoshiro256pp(s)) for _ in range(4)])
s = seeded(1, 0)
print("normal, seed 1 stream 0:")
for i in range(12):
    p = (mpmath.mpf(xoshiro256pp(s) >> 12) + mpmath.mpf("0.5")) / mpmath.mpf(1 << 52)
    print("   ", float(quantile(p)).hex(), float(quantile(p)))
# Tails: the generator states whose first output is the given word: s0 = 0, s3 = rotate(word, 64 - 23).
print("normal, first output w:")
for w in (1 << 12, 1 << 30, 1 << 44, 1 << 55, M, M - (1 << 40)):
    p = (mpmath.mpf(w >> 12) + mpmath.mpf("0.5")) / mpmath.mpf(1 << 52)
    print("   ", hex(w), float(quantile(p)).hex())
