#include "meter.h"

#include "gptq.h"
#include "plimsoll/clock.h"
#include "plimsoll/units.h"
#include "quantize_ops.h"

const char *plim_quantize_phase_name(enum plim_quantize_phase phase)
{
    static const char *const names[] = {
#define PHASE_TEXT(name, text) text,
        PLIM_QUANTIZE_PHASES(PHASE_TEXT)
#undef PHASE_TEXT
    };
    return names[phase];
}

static void raise_to(uint64_t *peak, uint64_t value)
{
    *peak = plim_max(*peak, value);
}

/* The peaks since the last reset belong to the current phase. */
static void take_peaks(struct meter *m)
{
    struct plim_pool_stats stats;
    plim_pool_stats(m->pool, &stats);
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        uint64_t peak = stats.peak[tier].total_bytes;
        raise_to(&m->usage.peak_bytes[tier], peak);
        raise_to(&m->usage.phase_peak_bytes[tier][m->phase], peak);
        raise_to(&m->reserved_peak_bytes[tier], stats.reserved_peak_bytes[tier]);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            raise_to(&m->usage.tag_peak_bytes[tier][tag], stats.tag_peak_bytes[tier][tag]);
    }
    plim_pool_reset_peak(m->pool);
}

void meter_start(struct meter *m, struct backend *backend)
{
    *m = (struct meter){
        .backend = backend,
        .pool = backend->pool,
        .phase = PLIM_QUANTIZE_OTHER,
        .since_ns = plim_now_ns(),
        .reserved_peak_bytes = { m->reserved_peak_bytes[PLIM_FAST], m->reserved_peak_bytes[PLIM_SLOW] },
    };
    plim_pool_reset_peak(backend->pool);
}

/* What fails here fails again where a result is taken, and is said there. */
static void wait_for(struct backend *backend)
{
    const struct quantize_ops *ops = backend_quantize_ops(backend->ops->name);
    struct plim_err unsaid = PLIM_ERR_INIT;
    if (ops && ops->wait)
        (void)ops->wait(backend, &unsaid);
}

enum plim_quantize_phase meter_enter(struct meter *m, enum plim_quantize_phase phase)
{
    enum plim_quantize_phase ended = m->phase;
    wait_for(m->backend);
    uint64_t now = plim_now_ns();
    m->usage.phase_ns[ended] += now - m->since_ns;
    take_peaks(m);
    m->phase = phase;
    m->since_ns = now;
    return ended;
}

void meter_stop(struct meter *m, struct plim_quantize_usage *usage)
{
    meter_enter(m, PLIM_QUANTIZE_OTHER);
    *usage = m->usage;
}

/* Time that a function spent on `to` was counted under `from`: phases may overlap by clock granularity, never go below 0. */
static void move_time(struct meter *m, enum plim_quantize_phase from, enum plim_quantize_phase to, uint64_t ns)
{
    ns = plim_min(ns, m->usage.phase_ns[from]);
    m->usage.phase_ns[from] -= ns;
    m->usage.phase_ns[to] += ns;
}

void meter_add_hessian(struct meter *m, const struct hessian_report *report)
{
    meter_enter(m, PLIM_QUANTIZE_OTHER);
    move_time(m, PLIM_QUANTIZE_CHOLESKY, PLIM_QUANTIZE_PERMUTE, report->permute_ns);
    move_time(m, PLIM_QUANTIZE_CHOLESKY, PLIM_QUANTIZE_INVERT, report->invert_ns);
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            raise_to(&m->usage.tag_peak_bytes[tier][tag], report->tag_peak_bytes[tier][tag]);
        raise_to(&m->usage.peak_bytes[tier], report->permute_peak_bytes[tier]);
        raise_to(&m->usage.peak_bytes[tier], report->factor_peak_bytes[tier]);
        raise_to(&m->usage.phase_peak_bytes[tier][PLIM_QUANTIZE_PERMUTE], report->permute_peak_bytes[tier]);
        raise_to(&m->usage.phase_peak_bytes[tier][PLIM_QUANTIZE_CHOLESKY], report->factor_peak_bytes[tier]);
        raise_to(&m->usage.phase_peak_bytes[tier][PLIM_QUANTIZE_INVERT], report->factor_peak_bytes[tier]);
    }
}

void meter_add_gptq(struct meter *m, const struct gptq_result *result)
{
    meter_enter(m, PLIM_QUANTIZE_OTHER);
    move_time(m, PLIM_QUANTIZE_QUANTISE, PLIM_QUANTIZE_SEARCH, result->search_ns);
    move_time(m, PLIM_QUANTIZE_QUANTISE, PLIM_QUANTIZE_SPREAD, result->spread_ns);
    move_time(m, PLIM_QUANTIZE_QUANTISE, PLIM_QUANTIZE_PACK, result->pack_ns);
}

void usage_add(struct plim_quantize_usage *sum, const struct plim_quantize_usage *part)
{
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        sum->phase_ns[phase] += part->phase_ns[phase];
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        raise_to(&sum->peak_bytes[tier], part->peak_bytes[tier]);
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
            raise_to(&sum->phase_peak_bytes[tier][phase], part->phase_peak_bytes[tier][phase]);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            raise_to(&sum->tag_peak_bytes[tier][tag], part->tag_peak_bytes[tier][tag]);
    }
}
