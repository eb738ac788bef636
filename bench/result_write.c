/*
 * Writing results: a layout made for diffs. Environment facts and metrics have a line each; a case's parameters share
 * one. Keys have a fixed order, and nothing depends on when or where the file is written.
 */

#include "result.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "plimsoll/file.h"

struct writer {
    FILE *out;
    bool failed;          /* memory ran out while escaping */
};

/* Copies `text` with every byte that is no UTF-8 replaced by U+FFFD. NULL when memory is out. */
static char *to_utf8(const char *text)
{
    size_t left = strlen(text);
    char *copy = malloc(3 * left + 1);   /* the replacement takes three bytes */
    if (!copy)
        return NULL;
    char *to = copy;
    while (left > 0) {
        utf8proc_int32_t point;
        utf8proc_ssize_t taken = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)left, &point);
        if (taken > 0) {
            to = mempcpy(to, text, (size_t)taken);
        } else {
            to = mempcpy(to, "\xEF\xBF\xBD", 3);
            taken = 1;
        }
        text += taken;
        left -= (size_t)taken;
    }
    *to = '\0';
    return copy;
}

static void put_string(struct writer *w, const char *text)
{
    char *valid = to_utf8(text ? text : "");
    cJSON *node = valid ? cJSON_CreateStringReference(valid) : NULL;
    char *quoted = node ? cJSON_PrintUnformatted(node) : NULL;
    if (quoted)
        fputs(quoted, w->out);
    else
        w->failed = true;
    cJSON_free(quoted);
    cJSON_Delete(node);
    free(valid);
}

static void put_number(struct writer *w, double number)
{
    char text[32];
    fputs(format_number(text, sizeof text, number), w->out);
}

static void put_member(struct writer *w, const char *key, const char *text)
{
    fprintf(w->out, "\"%s\": ", key);
    put_string(w, text);
}

static void put_fact(struct writer *w, const struct fact *fact)
{
    put_string(w, fact->name);
    fputs(": ", w->out);
    if (fact->text)
        put_string(w, fact->text);
    else
        put_number(w, fact->number);
}

/* { "a": 1, "b": "x" } */
static void put_facts_inline(struct writer *w, const struct facts *facts)
{
    fputs("{", w->out);
    for (size_t i = 0; i < facts->count; i++) {
        fputs(i ? ", " : " ", w->out);
        put_fact(w, &facts->items[i]);
    }
    fputs(facts->count ? " }" : "}", w->out);
}

/* The same, one a line; `indent` is the closing brace's. */
static void put_facts_block(struct writer *w, const struct facts *facts, const char *indent)
{
    fputs("{", w->out);
    for (size_t i = 0; i < facts->count; i++) {
        fprintf(w->out, "%s\n%s  ", i ? "," : "", indent);
        put_fact(w, &facts->items[i]);
    }
    if (facts->count)
        fprintf(w->out, "\n%s", indent);
    fputs("}", w->out);
}

static void put_gate(struct writer *w, const struct metric_gate *gate)
{
    if (gate->level == GATE_FAIL && gate->relative == 0 && gate->absolute == 0)
        return;
    fprintf(w->out, ", \"gate\": { \"level\": \"%s\"", gate_level_name(gate->level));
    if (gate->relative != 0) {
        fputs(", \"relative\": ", w->out);
        put_number(w, gate->relative);
    }
    if (gate->absolute != 0) {
        fputs(", \"absolute\": ", w->out);
        put_number(w, gate->absolute);
    }
    fputs(" }", w->out);
}

/* What only baselines have: the runs behind the samples, and the allowance. */
static void put_pooled(struct writer *w, const struct metric *metric)
{
    for (size_t i = 0; i < metric->run_count; i++)
        fprintf(w->out, "%s%zu%s", i ? ", " : ", \"runs\": [", metric->run_samples[i], i + 1 < metric->run_count ? "" : "]");
    if (metric->allow.rise <= 0)
        return;
    fputs(", \"allow\": { \"rise\": ", w->out);
    put_number(w, metric->allow.rise);
    fputs(", ", w->out);
    put_member(w, "until", metric->allow.until);
    fputs(", ", w->out);
    put_member(w, "reason", metric->allow.reason);
    fputs(" }", w->out);
}

static void put_metric(struct writer *w, const struct metric *metric)
{
    put_string(w, metric->name);
    fputs(": { ", w->out);
    put_member(w, "unit", metric->unit);
    fprintf(w->out, ", \"class\": \"%s\", \"direction\": \"%s\"", metric_class_name(metric->class),
            metric_direction_name(metric->direction));
    put_gate(w, &metric->gate);
    if (metric->texts.count) {
        fputs(", \"texts\": ", w->out);
        put_facts_inline(w, &metric->texts);
    } else {
        fputs(", \"samples\": [", w->out);
        for (size_t i = 0; i < metric->sample_count; i++) {
            fputs(i ? ", " : "", w->out);
            put_number(w, metric->samples[i]);
        }
        fputs("]", w->out);
    }
    put_pooled(w, metric);
    if (metric->reason) {
        fputs(", ", w->out);
        put_member(w, "reason", metric->reason);
    }
    fputs(" }", w->out);
}

static void put_case(struct writer *w, const struct result_case *c, bool is_baseline)
{
    fputs("    {\n      ", w->out);
    put_member(w, "id", c->id);
    fputs(",\n      ", w->out);
    put_member(w, "model", c->model);
    fputs(", ", w->out);
    put_member(w, "workload", c->workload);
    if (!is_baseline) {
        fputs(",\n      \"parameters\": ", w->out);
        put_facts_inline(w, &c->parameters);
    }
    fputs(",\n      \"arguments\": ", w->out);
    put_facts_inline(w, &c->arguments);
    fprintf(w->out, ",\n      \"outcome\": \"%s\", ", outcome_name(c->outcome));
    put_member(w, "detail", c->detail);
    if (c->refusal.count) {
        fputs(",\n      \"refusal\": ", w->out);
        put_facts_inline(w, &c->refusal);
    }
    fputs(",\n      \"metrics\": {", w->out);
    for (size_t i = 0; i < c->metric_count; i++) {
        fputs(i ? ",\n        " : "\n        ", w->out);
        put_metric(w, &c->metrics[i]);
    }
    fputs(c->metric_count ? "\n      }\n    }" : "}\n    }", w->out);
}

static void put_machine(struct writer *w, const struct result *r)
{
    fputs(",\n  \"machine\": {\n    ", w->out);
    put_member(w, "class", r->machine_class);
    fputs(",\n    \"facts\": ", w->out);
    put_facts_block(w, &r->machine, "    ");
    fputs("\n  }", w->out);
}

static void put_document(struct writer *w, const struct result *r)
{
    fprintf(w->out, "{\n  \"schema\": { \"name\": \"%s\", \"major\": %d, \"minor\": %d },\n  \"suite\": { ",
            r->is_baseline ? RESULT_BASELINE_SCHEMA : RESULT_SCHEMA, RESULT_SCHEMA_MAJOR, RESULT_SCHEMA_MINOR);
    put_member(w, "name", r->suite_name);
    fputs(", ", w->out);
    put_member(w, "digest", r->suite_digest);
    fputs(" }", w->out);
    if (!r->is_baseline) {
        fputs(",\n  ", w->out);
        put_member(w, "started_utc", r->started_utc);
        fprintf(w->out, ",\n  \"complete\": %s", r->complete ? "true" : "false");
    }
    if (!r->is_baseline || r->machine_class)
        put_machine(w, r);
    if (!r->is_baseline) {
        fputs(",\n  \"recorded\": ", w->out);
        put_facts_block(w, &r->recorded, "  ");
        fputs(",\n  \"yardsticks\": ", w->out);
        put_facts_block(w, &r->yardsticks, "  ");
    }
    fputs(",\n  \"cases\": [", w->out);
    for (size_t i = 0; i < r->case_count; i++) {
        fputs(i ? ",\n" : "\n", w->out);
        put_case(w, &r->cases[i], r->is_baseline);
    }
    fputs(r->case_count ? "\n  ]\n}\n" : "]\n}\n", w->out);
}

char *result_format(const struct result *result, struct plim_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    struct writer w = { open_memstream(&text, &bytes), false };
    if (w.out) {
        put_document(&w, result);
        w.failed |= ferror(w.out) != 0;
        w.failed |= fclose(w.out) != 0;
    }
    if (!w.out || w.failed) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory while writing a result of %zu cases", result->case_count);
        free(text);
        return NULL;
    }
    return text;
}

static int write_result(const struct result *result, const char *path, bool unsynced, struct plim_err *err)
{
    struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
    char *text = result_format(result, err);
    int rc = -1;
    if (!text || plim_atomic_open(&file, path, err) < 0 || plim_atomic_write(&file, text, strlen(text), err) < 0)
        goto out;
    file.unsynced = unsynced;
    rc = plim_atomic_commit(&file, err);
out:
    plim_atomic_release(&file);
    free(text);
    return rc;
}

int result_write(const struct result *result, const char *path, struct plim_err *err)
{
    return write_result(result, path, false, err);
}

int result_write_unsynced(const struct result *result, const char *path, struct plim_err *err)
{
    return write_result(result, path, true, err);
}
