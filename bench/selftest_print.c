/* The selftest's rates, as a table and as JSON. */

#include <cjson/cJSON.h>
#include <stdio.h>

#include "proportion.h"
#include "selftest.h"
#include "table.h"

#define LEVEL 0.95

static void planted_text(const struct selftest_row *row, char *text, size_t size)
{
    if (row->extra_bytes)
        snprintf(text, size, "%llu bytes", (unsigned long long)row->extra_bytes);
    else if (row->slowdown > 0)
        snprintf(text, size, "%g%% slower", 100 * row->slowdown);
    else
        snprintf(text, size, "nothing (A/A)");
}

static void rate_cells(struct table *t, size_t count, size_t n, enum text_style style)
{
    struct interval rate = proportion(count, n, LEVEL);

    table_cell(t, style, "%.1f%%", 100 * rate.estimate);
    table_cell(t, STYLE_DIM, "%.1f to %.1f%%", 100 * rate.low, 100 * rate.high);
}

/* What A/A pairs of neighbours would differ by. */
static double pair_spread(const struct selftest *selftest)
{
    static double differences[SELFTEST_RECORD_LIMIT / 2];
    size_t pairs = selftest->recorded_count / 2;

    for (size_t i = 0; i < pairs; i++)
        differences[i] = selftest->recorded[2 * i + 1] - selftest->recorded[2 * i];
    return pairs ? robust_deviation(differences, pairs) : 0;
}

int selftest_print(const struct selftest *selftest, FILE *out, struct plim_err *err)
{
    static const char *const titles[] = { "machine", "planted", "suites", "false alarms", "95%", "found", "95%",
                                          "passed", "inconclusive", "controls missed", "pairs a case", "s a case" };
    struct table t = TABLE_INIT;
    int rc;

    for (size_t i = 0; i < sizeof titles / sizeof titles[0]; i++)
        table_column(&t, titles[i], i < 2 ? TABLE_LEFT : TABLE_RIGHT);
    for (size_t i = 0; i < selftest->row_count; i++) {
        const struct selftest_row *row = &selftest->rows[i];
        char planted[40];

        if (!row->trials)
            continue;
        planted_text(row, planted, sizeof planted);
        table_cell(&t, STYLE_PLAIN, "%s", row->machine);
        table_cell(&t, STYLE_PLAIN, "%s", planted);
        table_cell(&t, STYLE_PLAIN, "%zu", row->trials);
        rate_cells(&t, row->alarms, row->trials, row->alarms ? STYLE_WARN : STYLE_PLAIN);
        if (row->slowdown > 0 || row->extra_bytes) {
            rate_cells(&t, row->found, row->trials, STYLE_STRONG);
            table_cell(&t, STYLE_PLAIN, "%.1f%%", 100.0 * (double)row->passed / (double)row->trials);
            table_cell(&t, STYLE_PLAIN, "%.1f%%", 100.0 * (double)row->inconclusive / (double)row->trials);
        } else {
            for (int k = 0; k < 4; k++)
                table_cell(&t, STYLE_PLAIN, "%s", "");
        }
        table_cell(&t, row->controls_missed ? STYLE_BAD : STYLE_PLAIN, "%zu", row->controls_missed);
        table_cell(&t, STYLE_PLAIN, "%.1f", row->pairs_a_case);
        if (row->seconds_a_case > 0)
            table_cell(&t, STYLE_PLAIN, "%.1f", row->seconds_a_case);
        else
            table_cell(&t, STYLE_PLAIN, "%s", "");
    }
    if (selftest->recorded_count)
        fprintf(out, "recorded %zu processes one after another, %.0f ms each, spread %.1f%% (of pairs %.1f%%); \"replayed\" "
                     "suites are made of blocks of them\n",
                selftest->recorded_count, 1e3 * selftest->process_s,
                100 * robust_deviation(selftest->recorded, selftest->recorded_count), 100 * pair_spread(selftest));
    rc = table_print(&t, out, table_colours(out), err);
    table_release(&t);
    return rc;
}

static void add_rate(cJSON *object, const char *name, size_t count, size_t n)
{
    struct interval rate = proportion(count, n, LEVEL);
    cJSON *item = cJSON_AddObjectToObject(object, name);

    cJSON_AddNumberToObject(item, "count", (double)count);
    cJSON_AddNumberToObject(item, "rate", rate.estimate);
    cJSON_AddNumberToObject(item, "low", rate.low);
    cJSON_AddNumberToObject(item, "high", rate.high);
}

char *selftest_json(const struct selftest *selftest, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject(), *rows = cJSON_AddArrayToObject(root, "rows");
    char *text;

    for (size_t i = 0; i < selftest->row_count; i++) {
        const struct selftest_row *row = &selftest->rows[i];
        cJSON *object = cJSON_CreateObject();

        cJSON_AddStringToObject(object, "machine", row->machine);
        cJSON_AddNumberToObject(object, "planted_slowdown", row->slowdown);
        cJSON_AddNumberToObject(object, "planted_bytes", (double)row->extra_bytes);
        cJSON_AddNumberToObject(object, "suites", (double)row->trials);
        if (row->trials) {
            add_rate(object, "false_alarms", row->alarms, row->trials);
            add_rate(object, "found", row->found, row->trials);
            add_rate(object, "controls_missed", row->controls_missed, row->trials);
        }
        cJSON_AddNumberToObject(object, "warned", (double)row->warned);
        cJSON_AddNumberToObject(object, "passed", (double)row->passed);
        cJSON_AddNumberToObject(object, "inconclusive", (double)row->inconclusive);
        cJSON_AddNumberToObject(object, "pairs_a_case", row->pairs_a_case);
        cJSON_AddNumberToObject(object, "seconds_a_case", row->seconds_a_case);
        cJSON_AddItemToArray(rows, object);
    }
    cJSON_AddNumberToObject(root, "recorded_processes", (double)selftest->recorded_count);
    cJSON_AddNumberToObject(root, "recorded_process_s", selftest->recorded_count ? selftest->process_s : 0);
    cJSON_AddNumberToObject(root, "recorded_spread",
                            selftest->recorded_count ? robust_deviation(selftest->recorded, selftest->recorded_count) : 0);
    cJSON_AddNumberToObject(root, "recorded_pair_spread", pair_spread(selftest));
    cJSON_AddItemToObject(root, "recorded", cJSON_CreateDoubleArray(selftest->recorded, (int)selftest->recorded_count));
    text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the selftest as JSON");
    return text;
}
