/* Results in memory: building them up, finding things in them, letting them go. */

#include "result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "statistics.h"

const char *const metric_class_names[] = { "exact", "bounded", "system", "timing", NULL };
const char *const metric_direction_names[] = { "lower", "higher", "none", NULL };
const char *const gate_level_names[] = { "fail", "warn", "off", NULL };
const char *const outcome_names[] = { "ok", "out_of_memory", "timeout", "crashed", "failed", NULL };

const char *metric_class_name(enum metric_class class)
{
    return metric_class_names[class];
}

const char *metric_direction_name(enum metric_direction direction)
{
    return metric_direction_names[direction];
}

const char *gate_level_name(enum gate_level level)
{
    return gate_level_names[level];
}

const char *outcome_name(enum outcome outcome)
{
    return outcome_names[outcome];
}

bool result_name_is_plain(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+";
    size_t length = strlen(name);
    return length > 0 && length <= 100 && name[0] != '.' && strspn(name, allowed) == length;
}

bool result_date_is_valid(const char *text)
{
    static const char days[] = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    static const char shape[] = "dddd-dd-dd";
    if (strlen(text) != sizeof shape - 1)
        return false;
    for (size_t i = 0; shape[i]; i++) {
        if (shape[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != '-')
            return false;
    }
    int month = 10 * (text[5] - '0') + text[6] - '0', day = 10 * (text[8] - '0') + text[9] - '0';
    return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
}

char *format_number(char *buffer, size_t size, double number)
{
    if (number == floor(number) && fabs(number) < 9007199254740992.0) {
        snprintf(buffer, size, "%.0f", number);
        return buffer;
    }
    for (int digits = 15; digits <= 17; digits++) {   /* 17 always read back: IEEE 754, binary64 */
        snprintf(buffer, size, "%.*g", digits, number);
        if (strtod(buffer, NULL) == number)
            break;
    }
    return buffer;
}

int result_set_string(char **field, const char *text, struct plim_err *err)
{
    char *copy = text ? heap_strdup(text, err) : NULL;
    if (text && !copy)
        return -1;
    free(*field);
    *field = copy;
    return 0;
}

/* ---- facts ---- */

static struct fact *facts_slot(struct facts *facts, const char *name, struct plim_err *err)
{
    for (size_t i = 0; i < facts->count; i++) {
        if (strcmp(facts->items[i].name, name) == 0)
            return &facts->items[i];
    }
    struct fact *items = heap_room(facts->items, facts->count, sizeof *items, err);
    if (!items)
        return NULL;
    facts->items = items;
    struct fact *fact = &items[facts->count];
    if (result_set_string(&fact->name, name, err) < 0)
        return NULL;
    facts->count++;
    return fact;
}

int facts_set_text(struct facts *facts, const char *name, const char *text, struct plim_err *err)
{
    struct fact *fact = facts_slot(facts, name, err);
    if (!fact || result_set_string(&fact->text, text ? text : "", err) < 0)
        return -1;
    fact->number = 0;
    return 0;
}

int facts_set_number(struct facts *facts, const char *name, double number, struct plim_err *err)
{
    if (!isfinite(number))
        return plim_err_set(err, PLIM_ERR_INTERNAL, "fact %s: not a finite number", name);
    struct fact *fact = facts_slot(facts, name, err);
    if (!fact)
        return -1;
    free(fact->text);
    fact->text = NULL;
    fact->number = number;
    return 0;
}

const char *result_engine(const struct result *result)
{
    const struct fact *engine = facts_find(&result->recorded, "engine");
    return engine && engine->text ? engine->text : "plimsoll";
}

const struct fact *facts_find(const struct facts *facts, const char *name)
{
    for (size_t i = 0; i < facts->count; i++) {
        if (strcmp(facts->items[i].name, name) == 0)
            return &facts->items[i];
    }
    return NULL;
}

void facts_release(struct facts *facts)
{
    for (size_t i = 0; i < facts->count; i++) {
        free(facts->items[i].name);
        free(facts->items[i].text);
    }
    free(facts->items);
    *facts = (struct facts){ 0 };
}

/* ---- metrics ---- */

struct metric *case_find_metric(const struct result_case *c, const char *name)
{
    for (size_t i = 0; i < c->metric_count; i++) {
        if (strcmp(c->metrics[i].name, name) == 0)
            return &c->metrics[i];
    }
    return NULL;
}

struct metric *case_add_metric(struct result_case *c, const char *name, const char *unit, enum metric_class class,
                               enum metric_direction direction, struct plim_err *err)
{
    struct metric *items = heap_room(c->metrics, c->metric_count, sizeof *items, err);
    if (!items)
        return NULL;
    c->metrics = items;
    struct metric *metric = &items[c->metric_count];
    metric->class = class;
    metric->direction = direction;
    if (result_set_string(&metric->name, name, err) < 0 || result_set_string(&metric->unit, unit, err) < 0) {
        metric_release(metric);
        return NULL;
    }
    c->metric_count++;
    return metric;
}

int metric_add_sample(struct metric *metric, double value, struct plim_err *err)
{
    if (!isfinite(value))
        return plim_err_set(err, PLIM_ERR_INTERNAL, "metric %s: the sample is not a finite number", metric->name);
    double *samples = heap_room(metric->samples, metric->sample_count, sizeof *samples, err);
    if (!samples)
        return -1;
    metric->samples = samples;
    samples[metric->sample_count++] = value;
    return 0;
}

int metric_set_text(struct metric *metric, const char *text, const char *key, struct plim_err *err)
{
    return facts_set_text(&metric->texts, key && *key ? key : "any", text, err);
}

int metric_set_runs(struct metric *metric, const size_t *run_samples, size_t run_count, struct plim_err *err)
{
    size_t *copy = run_count ? heap_calloc(run_count, sizeof *copy, err) : NULL;
    if (run_count && !copy)
        return -1;
    for (size_t i = 0; i < run_count; i++)
        copy[i] = run_samples[i];
    free(metric->run_samples);
    metric->run_samples = copy;
    metric->run_count = run_count;
    return 0;
}

int metric_set_allowance(struct metric *metric, double rise, const char *until, const char *reason, struct plim_err *err)
{
    metric->allow.rise = rise;
    if (result_set_string(&metric->allow.until, until, err) < 0)
        return -1;
    return result_set_string(&metric->allow.reason, reason, err);
}

void metric_clear_allowance(struct metric *metric)
{
    free(metric->allow.until);
    free(metric->allow.reason);
    metric->allow = (struct allowance){ 0 };
}

double metric_median(const struct metric *metric)
{
    return median(metric->samples, metric->sample_count);
}

void metric_release(struct metric *metric)
{
    free(metric->name);
    free(metric->unit);
    free(metric->samples);
    free(metric->reason);
    free(metric->run_samples);
    metric_clear_allowance(metric);
    facts_release(&metric->texts);
    *metric = (struct metric){ 0 };
}

/* ---- cases and results ---- */

struct result_case *result_find_case(const struct result *result, const char *id)
{
    for (size_t i = 0; i < result->case_count; i++) {
        if (strcmp(result->cases[i].id, id) == 0)
            return &result->cases[i];
    }
    return NULL;
}

struct result_case *result_add_case(struct result *result, const char *id, struct plim_err *err)
{
    struct result_case *items = heap_room(result->cases, result->case_count, sizeof *items, err);
    if (!items)
        return NULL;
    result->cases = items;
    struct result_case *c = &items[result->case_count];
    if (result_set_string(&c->id, id, err) < 0)
        return NULL;
    result->case_count++;
    return c;
}

void case_release(struct result_case *c)
{
    for (size_t i = 0; i < c->metric_count; i++)
        metric_release(&c->metrics[i]);
    free(c->metrics);
    free(c->id);
    free(c->model);
    free(c->workload);
    free(c->detail);
    facts_release(&c->parameters);
    facts_release(&c->arguments);
    facts_release(&c->refusal);
    *c = (struct result_case){ 0 };
}

void result_release(struct result *result)
{
    for (size_t i = 0; i < result->case_count; i++)
        case_release(&result->cases[i]);
    free(result->cases);
    free(result->path);
    free(result->suite_name);
    free(result->suite_digest);
    free(result->started_utc);
    free(result->machine_class);
    facts_release(&result->machine);
    facts_release(&result->recorded);
    facts_release(&result->yardsticks);
    *result = (struct result){ 0 };
}
