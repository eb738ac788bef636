#ifndef PLIM_SYNTHETIC_TEST_H
#define PLIM_SYNTHETIC_TEST_H

/* What the tests of synthetic models share: a directory of the test's own, and models made in it. */

#include "plimsoll/synthetic.h"
#include "safetensors.h"

extern char place[64];

/* For TestSuite's .init and .fini. */
void make_place(void);
void remove_place(void);

/* PLACE/NAME; the last four are valid. */
const char *at(const char *name);

/* Files in a directory but hidden ones; -1: there is none. */
int entries_of(const char *directory);

static const struct plim_synthetic tiny_exl2 = { .preset = "tiny", .exl2 = true, .bits_per_weight = 4, .head_bits = 6,
                                                 .seed = 1 };
static const struct plim_synthetic tiny_dense = { .preset = "tiny", .seed = 1 };

void make(const struct plim_synthetic *options, const char *directory);

/* Bad options: kind input, and a message that says `why`. */
void refused(struct plim_synthetic options, const char *directory, const char *why);

void tensors_of(const char *directory, struct plim_pool **pool, struct tensor_store **store);

#endif
