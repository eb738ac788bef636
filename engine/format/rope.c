/*
 * Frequencies of the rotary embedding, in double precision. f_j = theta^(-2j/d) for j = 0 ... d/2 - 1; each kind of
 * context extension rescales them. The formulas are those of transformers (modeling_rope_utils.py).
 */

#include <math.h>

#include "config.h"

/* M_PI is not in C17. */
#define PI 3.14159265358979323846

/*
 * Long waves, which never turned fully in training, are stretched by `factor`; short ones are left alone; in between
 * the two are mixed, linearly in the number of turns per trained context.
 */
static double llama3_frequency(const struct rope_config *rope, double frequency)
{
    double turns = (double)rope->original_max_positions * frequency / (2 * PI);
    if (turns > rope->high_freq_factor)
        return frequency;
    if (turns < rope->low_freq_factor)
        return frequency / rope->factor;
    double smooth = (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

/* The (fractional) j at which a wave turns `turns` times in the trained context. */
static double yarn_dimension(const struct rope_config *rope, size_t head_dim, double turns)
{
    return (double)head_dim * log((double)rope->original_max_positions / (turns * 2 * PI)) / (2 * log(rope->theta));
}

static void yarn_range(const struct rope_config *rope, size_t head_dim, double *low, double *high)
{
    *low = yarn_dimension(rope, head_dim, rope->beta_fast);
    *high = yarn_dimension(rope, head_dim, rope->beta_slow);
    if (rope->truncate) {
        *low = floor(*low);
        *high = ceil(*high);
    }
    *low = fmax(*low, 0);
    *high = fmin(*high, (double)head_dim - 1);
    if (*low == *high)
        *high += 0.001;
}

static double yarn_frequency(const struct rope_config *rope, double frequency, double low, double high, size_t j)
{
    double ramp = fmin(fmax(((double)j - low) / (high - low), 0), 1);
    return frequency / rope->factor * ramp + frequency * (1 - ramp);
}

void rope_frequencies(const struct rope_config *rope, size_t head_dim, double *inv_freq, double *sin_cos_factor)
{
    double low = 0, high = 1;
    if (rope->kind == ROPE_YARN)
        yarn_range(rope, head_dim, &low, &high);
    for (size_t j = 0; j < head_dim / 2; j++) {
        double frequency = pow(rope->theta, -2.0 * (double)j / (double)head_dim);
        switch (rope->kind) {
        case ROPE_DEFAULT:
            break;
        case ROPE_LINEAR:
            frequency /= rope->factor;
            break;
        case ROPE_LLAMA3:
            frequency = llama3_frequency(rope, frequency);
            break;
        case ROPE_YARN:
            frequency = yarn_frequency(rope, frequency, low, high, j);
            break;
        }
        inv_freq[j] = frequency;
    }
    *sin_cos_factor = rope->attention_factor;
}
