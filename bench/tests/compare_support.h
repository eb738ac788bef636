#ifndef PLIM_COMPARE_SUPPORT_H
#define PLIM_COMPARE_SUPPORT_H

/* Small results for the tests of comparing, accepting and plotting. Every failure in here fails the test. */

#include <stddef.h>

#include "result.h"

/* A complete result of `suite` on machine class `class`, without cases. */
void make_result(struct result *result, const char *suite, const char *class);

/* A case that is ok. The pointer is valid until the next. */
struct result_case *add_case(struct result *result, const char *id);

/* Metrics with `count` samples given as doubles. */
#define SAMPLES(...) (const double[]){ __VA_ARGS__ }, sizeof((const double[]){ __VA_ARGS__ }) / sizeof(double)

struct metric *add_exact(struct result_case *c, const char *name, double value);
struct metric *add_bytes(struct result_case *c, const char *name, enum metric_class class, const double *samples,
                         size_t count);
struct metric *add_rate(struct result_case *c, const double *samples, size_t count);   /* tokens_per_s */
struct metric *add_digest(struct result_case *c, const char *key, const char *text);

/* `path` with a fresh directory in front, "/tmp/plimsoll-test-XXXXXX/path", which goes when the test's process does. */
char *scratch_path(const char *path);

/* A whole file; free(). */
char *read_text(const char *path);
void write_text(const char *path, const char *text);

#endif
