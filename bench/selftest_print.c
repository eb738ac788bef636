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

/* In how many pairs the watch of real runs sees a disturbance. */
static size_t disturbed_pairs(const struct recording *recording)
{
    size_t count = 0;
    char why[80];

    for (size_t i = 0; i < recording->count; i++)
        count += recording_disturbed(recording, i, why, sizeof why);
    return count;
}

static void print_recording(const struct recording *recording, FILE *out)
{
    fprintf(out,
            "recorded %zu pairs of processes one after another, %.0f ms a process, spread %.1f%% (of pairs %.1f%%), %zu pairs "
            "disturbed; \"replayed\" suites are made of blocks of them\n",
            recording->count, 1e3 * recording_process_s(recording), 100 * recording_spread(recording),
            100 * recording_pair_spread(recording), disturbed_pairs(recording));
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
    if (selftest->recording.count)
        print_recording(&selftest->recording, out);
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

/* The values in the order of time, two of each pair, and which pairs were disturbed. */
static void add_recording(cJSON *root, const struct recording *recording)
{
    cJSON *values = cJSON_AddArrayToObject(root, "recorded"), *disturbed = cJSON_AddArrayToObject(root, "disturbed_pairs");
    char why[80];

    for (size_t i = 0; i < recording->count; i++) {
        for (int k = 0; k < 2; k++)
            cJSON_AddItemToArray(values, cJSON_CreateNumber(recording->pairs[i].values[k]));
        if (recording_disturbed(recording, i, why, sizeof why))
            cJSON_AddItemToArray(disturbed, cJSON_CreateNumber((double)i));
    }
    cJSON_AddNumberToObject(root, "recorded_process_s", recording_process_s(recording));
    cJSON_AddNumberToObject(root, "recorded_spread", recording_spread(recording));
    cJSON_AddNumberToObject(root, "recorded_pair_spread", recording_pair_spread(recording));
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
    if (selftest->recording.count)
        add_recording(root, &selftest->recording);
    text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the selftest as JSON");
    return text;
}
