#!/usr/bin/env python3
"""Coefficients of the engine's exp and tanh (engine/backend/cpu/polynomials.h). Needs numpy.

exp(r), |r| <= ln(2)/2:   1 + r + r^2 * q(r),            q of degree 4
tanh(y), |y| <= 0.5625:   y + y * y^2 * t(y^2),          t of degree 4

Each is fitted for the smallest largest relative error (iteratively reweighted least squares on Chebyshev points, after
Lawson, 1961). The printed error is that of the polynomial with coefficients rounded to fp32, in exact arithmetic.
"""
import numpy as np

LD = np.longdouble


def lawson(basis, target, weight, steps=400):
    """Minimises max |(basis @ c - target) * weight|."""
    w = np.ones(len(target)) / len(target)
    best, best_error = None, np.inf
    for _ in range(steps):
        s = np.sqrt(w)
        c, *_ = np.linalg.lstsq(basis * (weight * s)[:, None], target * weight * s, rcond=None)
        error = np.abs((basis @ c - target) * weight)
        if error.max() < best_error:
            best, best_error = c, error.max()
        w = w * error
        w /= w.sum()
    return best


def show(name, coefficients, error):
    print(f"{name}: largest relative error {float(error):.2e} = 2^{float(np.log2(error)):.1f}")
    for power, c in enumerate(coefficients):
        print(f"  [{power}] {float(np.float32(c)).hex()}f  /* {float(np.float32(c)):.9g} */")


def main():
    n = 4001
    t = np.cos(np.pi * (np.arange(n) + 0.5) / n)

    r = t * np.log(2) / 2
    exact = np.exp(r.astype(LD))
    # The target is q = (exp(r) - 1 - r) / r^2; its series avoids the cancellation near zero.
    q = sum(r.astype(LD) ** k / LD(np.prod(np.arange(1, k + 3, dtype=np.float64))) for k in range(18))
    c = lawson(np.vander(r, 5, increasing=True), q.astype(np.float64), (r * r / np.exp(r)))
    f = np.float32(c).astype(LD)
    p = 1 + r.astype(LD) + r.astype(LD) ** 2 * sum(f[k] * r.astype(LD) ** k for k in range(5))
    show("exp", c, np.abs(p / exact - 1).max())

    y = (t + 1) / 2 * 0.5625 + 1e-9
    z = (y * y).astype(LD)
    exact = np.tanh(y.astype(LD))
    target = (exact / y - 1) / z
    small = z < 1e-4
    target[small] = -LD(1) / 3 + LD(2) / 15 * z[small] - LD(17) / 315 * z[small] ** 2
    c = lawson(np.vander((y * y), 5, increasing=True), target.astype(np.float64), y ** 3 / np.tanh(y))
    f = np.float32(c).astype(LD)
    p = y + y * z * sum(f[k] * z ** k for k in range(5))
    show("tanh", c, np.abs(p / exact - 1).max())


if __name__ == "__main__":
    main()
