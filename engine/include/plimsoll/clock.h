#ifndef PLIMSOLL_CLOCK_H
#define PLIMSOLL_CLOCK_H

/* Time, through a clock that tests can replace. */

#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC, or of the clock that was set. */
uint64_t plim_now_ns(void);

/* Sleeps; with a replaced clock, advances nothing and returns at once. */
void plim_sleep_ns(uint64_t duration_ns);

/* Replaces the clock of this process; NULL restores the real one. Tests only. */
void plim_clock_replace(uint64_t (*now_ns)(void *context), void *context);

#endif
