/* Usage as JSON, for the job's records: {"ns": {phase: n}, "fast": {"peak": n, "phases": {}, "tags": {}}, "slow": ...} */

#include "conversion.h"
#include "plimsoll/json.h"

static int add_number(cJSON *object, const char *name, uint64_t value)
{
    return value == 0 || cJSON_AddNumberToObject(object, name, (double)value) ? 0 : -1;
}

static int add_tier(cJSON *object, const struct plim_quantize_usage *u, enum plim_tier tier)
{
    cJSON *json = cJSON_AddObjectToObject(object, plim_tier_name(tier)), *phases = NULL, *tags = NULL;
    if (!json || add_number(json, "peak_bytes", u->peak_bytes[tier]) < 0 ||
        !(phases = cJSON_AddObjectToObject(json, "phases")) || !(tags = cJSON_AddObjectToObject(json, "tags")))
        return -1;
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        if (add_number(phases, plim_quantize_phase_name((enum plim_quantize_phase)phase),
                       u->phase_peak_bytes[tier][phase]) < 0)
            return -1;
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        if (add_number(tags, plim_tag_name((enum plim_tag)tag), u->tag_peak_bytes[tier][tag]) < 0)
            return -1;
    return 0;
}

cJSON *usage_to_json(const struct plim_quantize_usage *u, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *times = root ? cJSON_AddObjectToObject(root, "ns") : NULL;
    bool fine = times != NULL;
    for (int phase = 0; fine && phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        fine = add_number(times, plim_quantize_phase_name((enum plim_quantize_phase)phase), u->phase_ns[phase]) == 0;
    if (!fine || add_tier(root, u, PLIM_FAST) < 0 || add_tier(root, u, PLIM_SLOW) < 0) {
        cJSON_Delete(root);
        json_memory(err);
        return NULL;
    }
    return root;
}

/* Zero when absent. */
static int get_number(struct plim_json object, const char *name, uint64_t *value, struct plim_err *err)
{
    struct plim_json item = plim_json_get(object, name);
    int64_t number = 0;
    if (plim_json_has(item) && plim_json_int(item, 0, (int64_t)1 << 53, &number, err) < 0)
        return -1;
    *value = (uint64_t)number;
    return 0;
}

int usage_from_json(struct plim_quantize_usage *u, struct plim_json json, struct plim_err *err)
{
    *u = (struct plim_quantize_usage){ 0 };
    for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
        if (get_number(plim_json_get(json, "ns"), plim_quantize_phase_name((enum plim_quantize_phase)phase),
                       &u->phase_ns[phase], err) < 0)
            return -1;
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        struct plim_json of_tier = plim_json_get(json, plim_tier_name((enum plim_tier)tier));
        struct plim_json phases = plim_json_get(of_tier, "phases"), tags = plim_json_get(of_tier, "tags");
        if (get_number(of_tier, "peak_bytes", &u->peak_bytes[tier], err) < 0)
            return -1;
        for (int phase = 0; phase < PLIM_QUANTIZE_PHASE_COUNT; phase++)
            if (get_number(phases, plim_quantize_phase_name((enum plim_quantize_phase)phase),
                           &u->phase_peak_bytes[tier][phase], err) < 0)
                return -1;
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
            if (get_number(tags, plim_tag_name((enum plim_tag)tag), &u->tag_peak_bytes[tier][tag], err) < 0)
                return -1;
    }
    return 0;
}
