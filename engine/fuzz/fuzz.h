#ifndef PLIM_FUZZ_H
#define PLIM_FUZZ_H

/*
 * What a fuzz target has: the function that libFuzzer (or replay.c) calls with each input, and claims about it.
 *
 * A target reads its input as the program would; where it is accepted the target uses it and claims what must then
 * hold. A broken claim, a leak, a sanitizer's finding or a timeout is a bug; a refused input is not.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A claim stops the program where a debugger or libFuzzer sees it. */
#define FUZZ_CLAIM(condition)                                                                                         \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: claim is false: %s\n", __FILE__, __LINE__, #condition);                           \
            abort();                                                                                                  \
        }                                                                                                             \
    } while (0)

#endif
