#include "plimsoll/random.h"

#include <math.h>
#include <string.h>

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

void plim_random_seed(struct plim_random *random, uint64_t seed, uint64_t stream)
{
    /* Both numbers go through the mixer, so that neighbouring seeds and streams start nowhere near each other. */
    uint64_t mixed_stream = stream;
    uint64_t state = seed;
    state = splitmix64(&state) ^ splitmix64(&mixed_stream);
    for (int i = 0; i < 4; i++)
        random->state[i] = splitmix64(&state);
}

static inline uint64_t next_word(uint64_t s[4])
{
    uint64_t result = rotate_left(s[0] + s[3], 23) + s[0];
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t plim_random_u64(struct plim_random *random)
{
    return next_word(random->state);
}

void plim_random_fill(struct plim_random *random, uint64_t *words, size_t n)
{
    struct plim_random local = *random;   /* in registers: `words` might be `random` for all the compiler knows */
    for (size_t i = 0; i < n; i++)
        words[i] = next_word(local.state);
    *random = local;
}

void plim_random_skip(struct plim_random *random, size_t n)
{
    struct plim_random local = *random;
    for (size_t i = 0; i < n; i++)
        next_word(local.state);
    *random = local;
}

uint64_t plim_random_below(struct plim_random *random, uint64_t bound)
{
    /* Lemire, "Fast Random Integer Generation in an Interval", 2019: the high half of a 128-bit product; the few draws
     * whose low half would make some results more likely are thrown away. */
    unsigned __int128 product = (unsigned __int128)plim_random_u64(random) * bound;
    if ((uint64_t)product < bound) {
        uint64_t threshold = (0 - bound) % bound;
        while ((uint64_t)product < threshold)
            product = (unsigned __int128)plim_random_u64(random) * bound;
    }
    return (uint64_t)(product >> 64);
}

double plim_random_double(struct plim_random *random)
{
    return (double)(plim_random_u64(random) >> 11) * 0x1p-53;
}

/*
 * ln x for normal positive x, from the four operations alone: x = m 2^e with m in [sqrt(1/2), sqrt(2)), and
 * ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172, whose series has converged to double precision after s^21.
 */
static double portable_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    double s = (m - 1) / (m + 1), s2 = s * s, sum = 0;
    for (int k = 21; k >= 1; k -= 2)
        sum = sum * s2 + 1.0 / k;
    return (double)exponent * 0.6931471805599453 + 2 * s * sum;
}

/* num(x) / den(x), coefficients from the constant term up, eight each. */
static double rational(const double num[8], const double den[8], double x)
{
    double a = 0, b = 0;
    for (int i = 7; i >= 0; i--) {
        a = a * x + num[i];
        b = b * x + den[i];
    }
    return a / b;
}

/* Wichura, "Algorithm AS 241", Applied Statistics 37 (1988), PPND16: accurate to about 1e-16. */
double plim_normal_quantile(double p)
{
    static const double a[8] = { 3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                                 1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                                 3.3430575583588128105e4, 2.5090809287301226727e3 };
    static const double b[8] = { 1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                                 2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
                                 5.2264952788528545610e3 };
    static const double c[8] = { 1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
                                 3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
                                 2.27238449892691845833e-2, 7.74545014278341407640e-4 };
    static const double d[8] = { 1.0, 2.05319162663775882187e0, 1.67638483018380384940e0,
                                 6.89767334985100004550e-1, 1.48103976427480074590e-1, 1.51986665636164571966e-2,
                                 5.47593808499534494600e-4, 1.05075007164441684324e-9 };
    static const double e[8] = { 6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
                                 2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                 2.71155556874348757815e-5, 2.01033439929228813265e-7 };
    static const double f[8] = { 1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1,
                                 1.48753612908506148525e-2, 7.86869131145613259100e-4, 1.84631831751005468180e-5,
                                 1.42151175831644588870e-7, 2.04426310338993978564e-15 };
    double q = p - 0.5;
    if (q >= -0.425 && q <= 0.425)
        return q * rational(a, b, 0.180625 - q * q);
    double r = sqrt(-portable_log(q < 0 ? p : 1 - p));
    double x = r <= 5 ? rational(c, d, r - 1.6) : rational(e, f, r - 5);
    return q < 0 ? -x : x;
}

double plim_random_normal(struct plim_random *random)
{
    /* 52 bits and a half: never 0 or 1, and exact. */
    double p = ((double)(plim_random_u64(random) >> 12) + 0.5) * 0x1p-52;
    return plim_normal_quantile(p);
}

void plim_random_permutation(struct plim_random *random, uint32_t *order, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t j = (size_t)plim_random_below(random, i + 1);
        order[i] = order[j];
        order[j] = (uint32_t)i;
    }
}
