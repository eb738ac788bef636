#include "quantize_report.h"

#include <stdio.h>

#include "gpu_case.h"
#include "metrics.h"
#include "plimsoll/cpu.h"

static int report_of_phase(struct model_run *m, const char *format_before, int phase, const char *after, double value,
                           struct plim_err *err)
{
    char name[80];

    snprintf(name, sizeof name, "%s%s%s", format_before, plim_quantize_phase_name((enum plim_quantize_phase)phase), after);
    return report_number(m, name, value, err);
}

int report_usage(struct model_run *m, const struct plim_quantize_usage *u, struct plim_err *err)
{
    if (report_number(m, "peak_requested_fast_bytes", (double)u->peak_bytes[PLIM_FAST], err) < 0 ||
        report_number(m, "peak_requested_slow_bytes", (double)u->peak_bytes[PLIM_SLOW], err) < 0 ||
        report_tags(m, "peak", u->tag_peak_bytes[PLIM_FAST], err) < 0 ||
        report_tags(m, "peak_slow", u->tag_peak_bytes[PLIM_SLOW], err) < 0)
        return -1;
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++) {
        uint64_t fast = u->phase_peak_bytes[PLIM_FAST][phase], slow = u->phase_peak_bytes[PLIM_SLOW][phase];

        if ((u->phase_ns[phase] &&
             report_of_phase(m, "phase_", phase, "_time_ns", (double)u->phase_ns[phase], err) < 0) ||
            (fast && report_of_phase(m, "peak_in_", phase, "_bytes", (double)fast, err) < 0) ||
            (slow && report_of_phase(m, "peak_slow_in_", phase, "_bytes", (double)slow, err) < 0))
            return -1;
    }
    return 0;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

int report_usage_prediction(struct model_run *m, const struct plim_quantize_usage *usage,
                            const struct plim_quantize_usage *predicted,
                            const struct plim_pool_usage held[PLIM_TIER_COUNT], struct plim_err *err)
{
    struct plim_quantize_usage p = *predicted;
    uint64_t error = 0;

    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        p.peak_bytes[tier] += held[tier].total_bytes;
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            p.tag_peak_bytes[tier][tag] += held[tier].bytes[tag];
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
            if (p.phase_peak_bytes[tier][phase])
                p.phase_peak_bytes[tier][phase] += held[tier].total_bytes;
    }

    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        error += distance(usage->peak_bytes[tier], p.peak_bytes[tier]);
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            error += distance(usage->tag_peak_bytes[tier][tag], p.tag_peak_bytes[tier][tag]);
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++) {
            uint64_t bytes = p.phase_peak_bytes[tier][phase];

            error += distance(usage->phase_peak_bytes[tier][phase], bytes);
            if (bytes && report_of_phase(m, tier == PLIM_FAST ? "predicted_in_" : "predicted_slow_in_", phase, "_bytes",
                                         (double)bytes, err) < 0)
                return -1;
        }
    }
    if (report_number(m, "predicted_peak_bytes", (double)p.peak_bytes[PLIM_FAST], err) < 0 ||
        report_tags(m, "predicted", p.tag_peak_bytes[PLIM_FAST], err) < 0)
        return -1;
    return report_number(m, "prediction_error_bytes", (double)error, err);
}

uint64_t stopwatch_planted_ns(const struct stopwatch *spent, uint64_t worked_ns)
{
    return spent->wall_ns > worked_ns ? spent->wall_ns - worked_ns : 0;
}

int report_quantised_digest(struct model_run *m, const char *digest, struct plim_err *err)
{
    struct metric *metric = metric_of_case(&m->run->report, "quantised_digest", err);
    struct plim_err ignored = PLIM_ERR_INIT;
    enum plim_isa isa = PLIM_ISA_PORTABLE;
    char key[256], card[160];

    kernels_key(key, sizeof key);
    if (gpu_case_is_cuda(m)) {
        plim_isa_select(&isa, &ignored);
        gpu_case_key(m, card, sizeof card);
        snprintf(key, sizeof key, "%s/%s", card, plim_isa_name(isa));
    }
    return metric ? metric_set_text(metric, digest, key, err) : -1;
}
