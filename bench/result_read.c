/* Reading results: strict about keys, types, ranges and names, since what it lets through is trusted from then on. */

#include "result.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "plimsoll/json.h"

/* A result of 1000 cases with 100 metrics of 20 samples has some 40 MB. cJSON needs about 64 bytes for each number. */
#define LIMIT_BYTES ((size_t)64 << 20)

/* Lists that are searched linearly; a hostile file must not make that quadratic in its size. */
#define LIMIT_CASES 20000
#define LIMIT_METRICS 2000
#define LIMIT_FACTS 500
#define LIMIT_RUNS 100

/* What this program knows, or anything in a document of a newer minor version. */
struct reader {
    bool newer;
    bool is_baseline;
    struct plim_err *err;
};

static int only_keys(struct reader *r, struct plim_json object, const char *const *names)
{
    return r->newer ? plim_json_object(object, r->err) : plim_json_only_keys(object, names, r->err);
}

static int read_string(struct reader *r, struct plim_json object, const char *key, char **out)
{
    const char *text;
    if (plim_json_string(plim_json_get(object, key), &text, r->err) < 0)
        return -1;
    return result_set_string(out, text, r->err);
}

/* As read_string, for a name that may become part of a path. */
static int read_plain_name(struct reader *r, struct plim_json object, const char *key, char **out)
{
    if (read_string(r, object, key, out) < 0)
        return -1;
    if (!result_name_is_plain(*out))
        return plim_json_err(plim_json_get(object, key), r->err,
                             "expected a name of letters, digits and . _ - + that does not begin with a dot");
    return 0;
}

static int check_length(struct reader *r, struct plim_json list, size_t limit)
{
    size_t length = plim_json_length(list);
    if (length > limit)
        return plim_json_err(list, r->err, "%zu entries, at most %zu expected", length, limit);
    return 0;
}

static int read_facts(struct reader *r, struct plim_json object, struct facts *facts)
{
    if (plim_json_object(object, r->err) < 0 || check_length(r, object, LIMIT_FACTS) < 0)
        return -1;
    for (const cJSON *node = object.node->child; node; node = node->next) {
        struct plim_json value = plim_json_get(object, node->string);
        int rc;
        if (cJSON_IsString(node)) {
            rc = facts_set_text(facts, node->string, node->valuestring, r->err);
        } else {
            double number;
            rc = plim_json_double(value, &number, r->err);
            if (rc == 0 && !isfinite(number))
                rc = plim_json_err(value, r->err, "the number is too large");
            if (rc == 0)
                rc = facts_set_number(facts, node->string, number, r->err);
        }
        if (rc < 0)
            return -1;
    }
    return 0;
}

static int read_gate(struct reader *r, struct plim_json object, struct metric_gate *gate)
{
    static const char *const keys[] = { "level", "relative", "absolute", NULL };
    if (!plim_json_has(object))
        return 0;
    int level;
    if (only_keys(r, object, keys) < 0 ||
        plim_json_choice(plim_json_get(object, "level"), gate_level_names, &level, r->err) < 0)
        return -1;
    gate->level = (enum gate_level)level;
    struct {
        const char *key;
        double *out;
    } limits[] = { { "relative", &gate->relative }, { "absolute", &gate->absolute } };
    for (size_t i = 0; i < 2; i++) {
        struct plim_json value = plim_json_get(object, limits[i].key);
        if (!plim_json_has(value))
            continue;
        if (plim_json_double(value, limits[i].out, r->err) < 0)
            return -1;
        if (!(*limits[i].out >= 0) || !isfinite(*limits[i].out))
            return plim_json_err(value, r->err, "expected a tolerance of 0 or more");
    }
    return 0;
}

static int read_samples(struct reader *r, struct plim_json array, struct metric *metric)
{
    if (plim_json_array(array, r->err) < 0)
        return -1;
    size_t index = 0;
    /* Walks the list itself: asking for item i walks from the start each time. */
    for (const cJSON *node = array.node->child; node; node = node->next, index++) {
        if (!cJSON_IsNumber(node) || !isfinite(node->valuedouble))
            return plim_json_err(plim_json_at(array, index), r->err, "expected a finite number");
        if (metric_add_sample(metric, node->valuedouble, r->err) < 0)
            return -1;
    }
    if (index == 0)
        return plim_json_err(array, r->err, "expected at least one sample");
    return 0;
}

static int read_texts(struct reader *r, struct plim_json object, struct metric *metric)
{
    if (read_facts(r, object, &metric->texts) < 0)
        return -1;
    for (size_t i = 0; i < metric->texts.count; i++) {
        if (!metric->texts.items[i].text)
            return plim_json_err(plim_json_get(object, metric->texts.items[i].name), r->err, "expected a string");
    }
    if (metric->texts.count == 0)
        return plim_json_err(object, r->err, "expected at least one text");
    return 0;
}

static int read_allowance(struct reader *r, struct plim_json object, struct metric *metric)
{
    static const char *const keys[] = { "rise", "until", "reason", NULL };
    struct plim_json rise = plim_json_get(object, "rise"), until = plim_json_get(object, "until");
    double value;
    const char *reason;
    if (!plim_json_has(object))
        return 0;
    if (only_keys(r, object, keys) < 0 || plim_json_double(rise, &value, r->err) < 0 ||
        plim_json_string(plim_json_get(object, "reason"), &reason, r->err) < 0 ||
        read_string(r, object, "until", &metric->allow.until) < 0)
        return -1;
    if (metric->class != METRIC_EXACT || !metric->sample_count)
        return plim_json_err(object, r->err, "only an exact number has an allowance");
    if (!(value > 0) || !isfinite(value))
        return plim_json_err(rise, r->err, "expected a rise of more than 0");
    if (!result_date_is_valid(metric->allow.until))
        return plim_json_err(until, r->err, "expected a day such as 2026-12-31");
    if (!*reason)
        return plim_json_err(plim_json_get(object, "reason"), r->err, "an allowance needs a reason");
    metric->allow.rise = value;
    return result_set_string(&metric->allow.reason, reason, r->err);
}

static int read_runs(struct reader *r, struct plim_json array, struct metric *metric)
{
    size_t runs[LIMIT_RUNS], count = 0, sum = 0;
    if (!plim_json_has(array))
        return 0;
    if (plim_json_array(array, r->err) < 0 || check_length(r, array, LIMIT_RUNS) < 0)
        return -1;
    for (size_t n = plim_json_length(array); count < n; count++) {
        int64_t samples;
        if (plim_json_int(plim_json_at(array, count), 1, INT32_MAX, &samples, r->err) < 0)
            return -1;
        runs[count] = (size_t)samples;
        sum += runs[count];
    }
    if (sum != metric->sample_count)
        return plim_json_err(array, r->err, "%zu samples in all, but there are %zu", sum, metric->sample_count);
    return metric_set_runs(metric, runs, count, r->err);
}

static int read_metric(struct reader *r, struct plim_json object, const char *name, struct result_case *c)
{
    static const char *const result_keys[] = { "unit", "class", "direction", "gate", "samples", "texts", "reason", NULL };
    static const char *const baseline_keys[] = { "unit",  "class",  "direction", "gate",  "samples",
                                                 "texts", "reason", "allow",     "runs",  NULL };
    const char *unit;
    int class, direction;
    if (only_keys(r, object, r->is_baseline ? baseline_keys : result_keys) < 0 ||
        plim_json_string(plim_json_get(object, "unit"), &unit, r->err) < 0 ||
        plim_json_choice(plim_json_get(object, "class"), metric_class_names, &class, r->err) < 0 ||
        plim_json_choice(plim_json_get(object, "direction"), metric_direction_names, &direction, r->err) < 0)
        return -1;
    struct metric *metric = case_add_metric(c, name, unit, (enum metric_class)class,
                                            (enum metric_direction)direction, r->err);
    if (!metric || read_gate(r, plim_json_get(object, "gate"), &metric->gate) < 0)
        return -1;

    struct plim_json samples = plim_json_get(object, "samples"), texts = plim_json_get(object, "texts");
    if (plim_json_has(samples) == plim_json_has(texts))
        return plim_json_err(object, r->err, "expected either samples or texts");
    if (plim_json_has(texts) && class != METRIC_EXACT)
        return plim_json_err(texts, r->err, "only an exact metric has texts");
    if (plim_json_has(samples) ? read_samples(r, samples, metric) : read_texts(r, texts, metric))
        return -1;
    if (r->is_baseline && (read_runs(r, plim_json_get(object, "runs"), metric) < 0 ||
                           read_allowance(r, plim_json_get(object, "allow"), metric) < 0))
        return -1;
    if (plim_json_has(plim_json_get(object, "reason")))
        return read_string(r, object, "reason", &metric->reason);
    return 0;
}

static int read_case_body(struct reader *r, struct plim_json object, struct result_case *c, bool is_baseline)
{
    int outcome;
    if (read_string(r, object, "model", &c->model) < 0 || read_string(r, object, "workload", &c->workload) < 0 ||
        read_facts(r, plim_json_get(object, "arguments"), &c->arguments) < 0 ||
        plim_json_choice(plim_json_get(object, "outcome"), outcome_names, &outcome, r->err) < 0 ||
        read_string(r, object, "detail", &c->detail) < 0)
        return -1;
    c->outcome = (enum outcome)outcome;
    if (!is_baseline && read_facts(r, plim_json_get(object, "parameters"), &c->parameters) < 0)
        return -1;
    struct plim_json refusal = plim_json_get(object, "refusal");
    if (plim_json_has(refusal) && read_facts(r, refusal, &c->refusal) < 0)
        return -1;

    struct plim_json metrics = plim_json_get(object, "metrics");
    if (plim_json_object(metrics, r->err) < 0 || check_length(r, metrics, LIMIT_METRICS) < 0)
        return -1;
    for (const cJSON *node = metrics.node->child; node; node = node->next) {
        if (read_metric(r, plim_json_get(metrics, node->string), node->string, c) < 0)
            return -1;
    }
    return 0;
}

static int read_case(struct reader *r, struct plim_json object, struct result *result)
{
    static const char *const result_keys[] = { "id",      "model",  "workload", "parameters", "arguments",
                                               "outcome", "detail", "refusal",  "metrics",    NULL };
    static const char *const baseline_keys[] = { "id",     "model",   "workload", "arguments", "outcome",
                                                 "detail", "refusal", "metrics",  NULL };
    const char *id;
    if (only_keys(r, object, result->is_baseline ? baseline_keys : result_keys) < 0 ||
        plim_json_string(plim_json_get(object, "id"), &id, r->err) < 0)
        return -1;
    if (!*id)
        return plim_json_err(plim_json_get(object, "id"), r->err, "a case needs an id");
    struct result_case *c = result_add_case(result, id, r->err);
    return c ? read_case_body(r, object, c, result->is_baseline) : -1;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted pointers, so that many cases stay cheap. */
static int check_ids_differ(struct reader *r, struct plim_json cases, const struct result *result)
{
    size_t n = result->case_count;
    const char **ids = malloc((n + 1) * sizeof *ids);
    int rc = 0;
    if (!ids)
        return plim_err_set(r->err, PLIM_ERR_MEMORY, "out of memory for %zu cases", n);
    for (size_t i = 0; i < n; i++)
        ids[i] = result->cases[i].id;
    qsort(ids, n, sizeof *ids, compare_ids);
    for (size_t i = 1; i < n && rc == 0; i++) {
        if (strcmp(ids[i - 1], ids[i]) == 0)
            rc = plim_json_err(cases, r->err, "two cases have the id %s", ids[i]);
    }
    free(ids);
    return rc;
}

static int read_cases(struct reader *r, struct plim_json cases, struct result *result)
{
    if (plim_json_array(cases, r->err) < 0 || check_length(r, cases, LIMIT_CASES) < 0)
        return -1;
    for (size_t i = 0, n = plim_json_length(cases); i < n; i++) {
        if (read_case(r, plim_json_at(cases, i), result) < 0)
            return -1;
    }
    return check_ids_differ(r, cases, result);
}

/* Which kind of document this is, and whether this program can read it. Nothing else is looked at before. */
static int read_schema(struct reader *r, struct plim_json root, struct result *result)
{
    struct plim_json schema = plim_json_get(root, "schema");
    const char *name;
    int64_t major, minor;
    if (plim_json_object(root, r->err) < 0 || plim_json_object(schema, r->err) < 0 ||
        plim_json_string(plim_json_get(schema, "name"), &name, r->err) < 0 ||
        plim_json_int(plim_json_get(schema, "major"), 0, INT32_MAX, &major, r->err) < 0 ||
        plim_json_int(plim_json_get(schema, "minor"), 0, INT32_MAX, &minor, r->err) < 0)
        return -1;
    result->is_baseline = strcmp(name, RESULT_BASELINE_SCHEMA) == 0;
    if (!result->is_baseline && strcmp(name, RESULT_SCHEMA) != 0)
        return plim_err_set(r->err, PLIM_ERR_COMPARE, "%s: schema %.60s, expected %s or %s", root.document, name,
                            RESULT_SCHEMA, RESULT_BASELINE_SCHEMA);
    if (major != RESULT_SCHEMA_MAJOR)
        return plim_err_set(r->err, PLIM_ERR_COMPARE, "%s: schema %s version %d.%d, this program reads %d.x",
                            root.document, name, (int)major, (int)minor, RESULT_SCHEMA_MAJOR);
    r->newer = minor > RESULT_SCHEMA_MINOR;
    r->is_baseline = result->is_baseline;
    result->minor = (int)minor;
    static const char *const keys[] = { "name", "major", "minor", NULL };
    return only_keys(r, schema, keys);
}

static int read_machine(struct reader *r, struct plim_json machine, struct result *result)
{
    static const char *const keys[] = { "class", "facts", NULL };
    if (only_keys(r, machine, keys) < 0 || read_plain_name(r, machine, "class", &result->machine_class) < 0)
        return -1;
    return read_facts(r, plim_json_get(machine, "facts"), &result->machine);
}

/* What a result has and a baseline has not. */
static int read_run(struct reader *r, struct plim_json root, struct result *result)
{
    if (read_string(r, root, "started_utc", &result->started_utc) < 0 ||
        plim_json_bool(plim_json_get(root, "complete"), &result->complete, r->err) < 0 ||
        read_facts(r, plim_json_get(root, "recorded"), &result->recorded) < 0)
        return -1;
    return read_facts(r, plim_json_get(root, "yardsticks"), &result->yardsticks);
}

static int read_document(struct reader *r, struct plim_json root, struct result *result)
{
    static const char *const result_keys[] = { "schema",   "suite",      "started_utc", "complete", "machine",
                                               "recorded", "yardsticks", "cases",       NULL };
    static const char *const baseline_keys[] = { "schema", "suite", "machine", "cases", NULL };
    static const char *const suite_keys[] = { "name", "digest", NULL };
    if (read_schema(r, root, result) < 0 ||
        only_keys(r, root, result->is_baseline ? baseline_keys : result_keys) < 0)
        return -1;
    struct plim_json suite = plim_json_get(root, "suite"), machine = plim_json_get(root, "machine");
    if (plim_json_object(suite, r->err) < 0 || only_keys(r, suite, suite_keys) < 0 ||
        read_plain_name(r, suite, "name", &result->suite_name) < 0 ||
        read_string(r, suite, "digest", &result->suite_digest) < 0)
        return -1;
    if (!result->is_baseline || plim_json_has(machine)) {
        if (plim_json_object(machine, r->err) < 0 || read_machine(r, machine, result) < 0)
            return -1;
    }
    if (!result->is_baseline && read_run(r, root, result) < 0)
        return -1;
    return read_cases(r, plim_json_get(root, "cases"), result);
}

static int read_root(struct result *result, const char *path, const cJSON *root, struct plim_err *err)
{
    struct reader r = { .err = err };
    if (read_document(&r, plim_json_root(root, path), result) < 0 ||
        result_set_string(&result->path, path, err) < 0) {
        result_release(result);
        return -1;
    }
    return 0;
}

int result_parse(struct result *result, const char *path, const char *text, size_t length, struct plim_err *err)
{
    cJSON *root = NULL;
    *result = (struct result){ 0 };
    if (plim_json_parse(path, text, length, &root, err) < 0)
        return -1;
    int rc = read_root(result, path, root, err);
    cJSON_Delete(root);
    return rc;
}

int result_read(struct result *result, const char *path, struct plim_err *err)
{
    cJSON *root = NULL;
    *result = (struct result){ 0 };
    if (plim_json_read(path, LIMIT_BYTES, &root, err) < 0)
        return -1;
    int rc = read_root(result, path, root, err);
    cJSON_Delete(root);
    return rc;
}
