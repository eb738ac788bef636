#ifndef PLIM_TEST_GOLDEN_H
#define PLIM_TEST_GOLDEN_H

/*
 * Expected output, committed under tests/data/golden, so that a change of a format is a diff to review. After looking at
 * the difference, PLIMSOLL_UPDATE_GOLDEN=1 writes the new text there.
 */

#include <stdio.h>

/* Fails the test unless `text` is what tests/data/golden/NAME holds. */
void check_golden(const char *name, const char *text);

/* What `write(context, stream)` writes; free(). */
char *written(void (*write)(const void *context, FILE *out), const void *context);

#endif
