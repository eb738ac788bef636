#include "compare_support.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap.h"
#include "plimsoll/file.h"

static void check(int rc, const struct plim_err *err)
{
    cr_assert_eq(rc, 0, "%s", err->message);
}

void make_result(struct result *result, const char *suite, const char *class)
{
    struct plim_err err = PLIM_ERR_INIT;
    *result = (struct result){ .complete = true };
    check(result_set_string(&result->suite_name, suite, &err), &err);
    check(result_set_string(&result->suite_digest, "00ff", &err), &err);
    check(result_set_string(&result->started_utc, "2026-11-24T07:30:00Z", &err), &err);
    check(result_set_string(&result->machine_class, class, &err), &err);
    check(facts_set_text(&result->machine, "cpu_model", "Abacus 9000", &err), &err);
    check(facts_set_number(&result->machine, "cores", 2, &err), &err);
    check(facts_set_number(&result->recorded, "load_average", 0.25, &err), &err);
}

struct result_case *add_case(struct result *result, const char *id)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct result_case *c = result_add_case(result, id, &err);
    cr_assert_not_null(c, "%s", err.message);
    check(result_set_string(&c->model, "tiny", &err), &err);
    check(result_set_string(&c->workload, "prefill", &err), &err);
    check(result_set_string(&c->detail, "", &err), &err);
    check(facts_set_number(&c->arguments, "prompt_tokens", 32, &err), &err);
    return c;
}

static struct metric *add(struct result_case *c, const char *name, const char *unit, enum metric_class class,
                          enum metric_direction direction, const double *samples, size_t count)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct metric *metric = case_add_metric(c, name, unit, class, direction, &err);
    cr_assert_not_null(metric, "%s", err.message);
    for (size_t i = 0; i < count; i++)
        check(metric_add_sample(metric, samples[i], &err), &err);
    return metric;
}

struct metric *add_exact(struct result_case *c, const char *name, double value)
{
    return add(c, name, "bytes", METRIC_EXACT, DIRECTION_LOWER, SAMPLES(value, value));
}

struct metric *add_bytes(struct result_case *c, const char *name, enum metric_class class, const double *samples,
                         size_t count)
{
    return add(c, name, "bytes", class, DIRECTION_LOWER, samples, count);
}

struct metric *add_rate(struct result_case *c, const double *samples, size_t count)
{
    return add(c, "tokens_per_s", "tokens/s", METRIC_TIMING, DIRECTION_HIGHER, samples, count);
}

struct metric *add_digest(struct result_case *c, const char *key, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct metric *metric = case_find_metric(c, "digest");
    if (!metric)
        metric = case_add_metric(c, "digest", "", METRIC_EXACT, DIRECTION_NONE, &err);
    cr_assert_not_null(metric, "%s", err.message);
    check(metric_set_text(metric, text, key, &err), &err);
    return metric;
}

static char scratch_directories[8][32];
static size_t scratch_count;
static pid_t scratch_owner;

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    (void)place;
    return remove(path);
}

static void remove_scratch(void)
{
    for (size_t i = 0; i < scratch_count && getpid() == scratch_owner; i++)
        nftw(scratch_directories[i], remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

char *scratch_path(const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_lt(scratch_count, sizeof scratch_directories / sizeof scratch_directories[0]);
    char *directory = scratch_directories[scratch_count];
    strcpy(directory, "/tmp/plimsoll-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    if (scratch_count++ == 0) {   /* each test has a process of its own */
        scratch_owner = getpid();
        atexit(remove_scratch);
    }
    char *joined = plim_path_join(directory, path, &err);
    cr_assert_not_null(joined, "%s", err.message);
    return joined;
}

char *read_text(const char *path)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *text;
    size_t bytes;
    check(plim_read_file(path, 1 << 22, &text, &bytes, &err), &err);
    return text;
}

void write_text(const char *path, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    check(plim_write_file(path, text, strlen(text), &err), &err);
}
