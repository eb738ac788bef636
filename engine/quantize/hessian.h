#ifndef PLIM_HESSIAN_H
#define PLIM_HESSIAN_H

/*
 * The Hessian of one module input, from accumulation to the factor that GPTQ uses. One K x K fp32 buffer throughout
 * (backend/quantize_ops.h says how).
 *
 *     struct hessian h;
 *     hessian_init(&h, backend, in_features, err);
 *     hessian_add(&h, x, rows, err);             // for each calibration row
 *     hessian_order(&h, name, err);              // rounding to nearest needs no more than this
 *     hessian_factor(&h, name, threshold, &report, err);
 *     ... h.order, h.matrix is U: shared by every layer with this input, and by every option that is measured
 *     hessian_release(&h);
 *
 * Above the offload threshold the permutation goes through the slow tier: the matrix is moved there, permuted there,
 * and moved back, so the fast tier holds none of it during that phase. The bits are the same either way.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"

struct hessian {
    struct backend *backend;
    enum plim_tier tier;         /* where the matrix stays: the fast one, unless there is no room for it */
    size_t in_features;          /* K */
    bool as_exllamav2;           /* set by the owner: its damping and its scale search, so that codes come out as its own;
                                    otherwise ours, which err less */
    float *matrix;               /* [K, K]: H in the upper triangle, after hessian_factor U; the rest is the host's */
    bool set_aside;              /* it waits in the slow tier, where operations don't reach it: hessian_set_aside */
    uint64_t row_count;          /* calibration rows (sequences) added */
    uint16_t *order;             /* [K], after hessian_order: packed row -> input feature */
    float *diagonal;             /* [K], after hessian_order, until hessian_factor */
    double diagonal_mean;
};

/* What hessian_factor did. Times in nanoseconds. */
struct hessian_report {
    bool offloaded;
    int damping_attempts;        /* 1: the first damping was enough */
    float damping;               /* added to the diagonal in all */
    uint64_t permute_ns, cholesky_ns, invert_ns;
    uint64_t permute_peak_bytes[PLIM_TIER_COUNT];   /* requested bytes of the pool, this phase's own peak */
    uint64_t factor_peak_bytes[PLIM_TIER_COUNT];
    uint64_t tag_peak_bytes[PLIM_TIER_COUNT][PLIM_TAG_COUNT];   /* over both */
};

/* Allocates the matrix (tag hessian), zeroed. K is a multiple of 32 and at most 65536. */
int hessian_init(struct hessian *hessian, struct backend *backend, size_t in_features, struct plim_err *err);
/* The same on the slow tier, for a backend whose operations reach it: the same bits, and no room taken on the fast one. */
int hessian_init_on(struct hessian *hessian, struct backend *backend, enum plim_tier tier, size_t in_features,
                    struct plim_err *err);
void hessian_release(struct hessian *hessian);

/* Adds x^T x of one calibration row (a sequence): x [rows, K] fp32, device. */
int hessian_add(struct hessian *hessian, const float *x, size_t rows, struct plim_err *err);
/* The same for a piece of a sequence, in order; `first` tells where one begins. Other pieces are other sums: fix them. */
int hessian_add_piece(struct hessian *hessian, const float *x, size_t rows, bool first, struct plim_err *err);

/* Adds `weight` x^T x for one token that counts for more than the others: x [K]. */
int hessian_add_token(struct hessian *hessian, const float *x, float weight, struct plim_err *err);

/*
 * Makes room on the fast tier while another Hessian is at work: the matrix goes to the slow tier and comes back as it was.
 * Where it already is where it is wanted, or belongs to the slow tier, nothing happens.
 */
int hessian_set_aside(struct hessian *hessian, struct plim_err *err);
int hessian_bring_back(struct hessian *hessian, struct plim_err *err);

/*
 * Divides by the number of rows added (none: the identity) and orders the features by falling diagonal (stable). NaN or
 * infinity on the diagonal is an error (kind input) that `name` names.
 */
int hessian_order(struct hessian *hessian, const char *name, struct plim_err *err);

/*
 * After hessian_order: damps by a small share of the diagonal's geometric mean (as_exllamav2: max(0.12 mean(diagonal),
 * 1e-5)), factors, inverts. A matrix that is not positive definite is damped by twice as much (as_exllamav2: by as much
 * again), ten attempts in all; then it is an error (kind input).
 */
int hessian_factor(struct hessian *hessian, const char *name, int64_t offload_threshold_elements,
                   struct hessian_report *report, struct plim_err *err);

#endif
