#include "noise.h"

#include <math.h>

const struct noise_model noise_models[] = {
    { "quiet", 0.004, 0.002, 0.90, 0.01, 0.03, 0.005, 0.003 },
    { "shared", 0.015, 0.02, 0.90, 0.05, 0.10, 0.03, 0.008 },
    { "hostile", 0.03, 0.05, 0.95, 0.10, 0.20, 0.08, 0.015 },
    { NULL, 0, 0, 0, 0, 0, 0, 0 }
};

void noise_start(struct noise *noise, const struct noise_model *model, uint64_t seed, uint64_t session)
{
    noise->model = model;
    plim_random_seed(&noise->random, seed, session);
    noise->session = model->session * plim_random_normal(&noise->random);
    noise->drift = model->drift * plim_random_normal(&noise->random);
}

double noise_next(struct noise *noise)
{
    const struct noise_model *m = noise->model;
    struct plim_random *random = &noise->random;
    double fresh = sqrt(1 - m->drift_correlation * m->drift_correlation);
    double spike = 0;

    noise->drift = m->drift_correlation * noise->drift + fresh * m->drift * plim_random_normal(random);
    if (plim_random_double(random) < m->spike_probability)
        spike = -m->spike_mean * log1p(-plim_random_double(random));
    return noise->session + noise->drift + m->independent * plim_random_normal(random) +
           m->process * plim_random_normal(random) + spike;
}
