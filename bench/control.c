#include "control.h"

#include <stddef.h>

#include "plimsoll/clock.h"

void control_delay(const struct control *control, uint64_t start_ns)
{
    uint64_t spent_ns = plim_now_ns() - start_ns;
    uint64_t end_ns = start_ns + spent_ns + (uint64_t)((double)spent_ns * control->delay_fraction);

    if (control->delay_fraction > 0)
        while (plim_now_ns() < end_ns)   /* a sleep would overshoot, and cool the processor down */
            continue;
}

int control_hold(const struct control *control, struct plim_pool *pool, void **block, struct plim_err *err)
{
    *block = NULL;
    if (control->extra_bytes)
        *block = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, control->extra_bytes, err);
    return control->extra_bytes && !*block ? -1 : 0;
}
