#include "plimsoll/clock.h"

#include <errno.h>
#include <stddef.h>
#include <time.h>

static uint64_t (*replaced_now_ns)(void *context);
static void *replaced_context;

uint64_t plim_now_ns(void)
{
    struct timespec now;
    if (replaced_now_ns)
        return replaced_now_ns(replaced_context);
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void plim_sleep_ns(uint64_t duration_ns)
{
    if (replaced_now_ns)
        return;
    struct timespec left = { (time_t)(duration_ns / 1000000000u), (long)(duration_ns % 1000000000u) };
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        continue;
}

void plim_clock_replace(uint64_t (*now_ns)(void *context), void *context)
{
    replaced_now_ns = now_ns;
    replaced_context = context;
}
