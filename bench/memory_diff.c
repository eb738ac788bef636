#include "memory_diff.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/units.h"
#include "table.h"

#define ROWS_PRINTED 12   /* of each level; the rest is counted */

static const char *const level_names[DIFF_LEVEL_COUNT] = { "tag", "module", "site" };

/* ---- making ---- */

static char *row_name(const struct trace_holder *holder, enum memory_diff_level level, struct plim_err *err)
{
    const char *tag = plim_tag_name(holder->tag);

    if (level == DIFF_TAG)
        return heap_strdup(tag, err);
    if (level == DIFF_SCOPE)
        return heap_strdup(*holder->scope ? holder->scope : "(outside)", err);
    return heap_printf(err, "%s%s%s, by %s", tag, *holder->scope ? " in " : "", holder->scope, holder->site);
}

static struct memory_diff_row *find_row(struct memory_diff *diff, enum plim_tier tier, enum memory_diff_level level,
                                        const char *name)
{
    for (size_t i = 0; i < diff->row_count[tier]; i++) {
        struct memory_diff_row *row = &diff->rows[tier][i];

        if (row->level == level && strcmp(row->name, name) == 0)
            return row;
    }
    return NULL;
}

static int add_holder(struct memory_diff *diff, enum plim_tier tier, enum memory_diff_level level,
                      const struct trace_holder *holder, bool is_after, struct plim_err *err)
{
    char *name = row_name(holder, level, err);
    struct memory_diff_row *row = name ? find_row(diff, tier, level, name) : NULL;

    if (name && !row) {
        struct memory_diff_row *moved = heap_room(diff->rows[tier], diff->row_count[tier], sizeof *moved, err);

        if (moved) {
            diff->rows[tier] = moved;
            row = &moved[diff->row_count[tier]++];
            row->level = level;
            row->name = name;
            name = NULL;
        }
    }
    free(name);
    if (!row)
        return -1;
    *(is_after ? &row->after : &row->before) += holder->bytes;
    return 0;
}

static int add_peak(struct memory_diff *diff, const struct trace_peak *peak, bool is_after, struct plim_err *err)
{
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++)
        for (size_t i = 0; i < peak->holder_count[tier]; i++)
            for (enum memory_diff_level level = 0; level < DIFF_LEVEL_COUNT; level++)
                if (peak->holders[tier][i].tag != PLIM_TAG_WEIGHTS_MAPPED &&   /* no part of the peak */
                    add_holder(diff, tier, level, &peak->holders[tier][i], is_after, err) < 0)
                    return -1;
    return 0;
}

static void drop_equal_rows(struct memory_diff *diff, enum plim_tier tier)
{
    size_t kept = 0;

    for (size_t i = 0; i < diff->row_count[tier]; i++) {
        struct memory_diff_row *row = &diff->rows[tier][i];

        if (row->before == row->after)
            free(row->name);
        else
            diff->rows[tier][kept++] = *row;
    }
    diff->row_count[tier] = kept;
}

static int64_t change(const struct memory_diff_row *row)
{
    return (int64_t)(row->after - row->before);
}

static int by_level_and_growth(const void *a, const void *b)
{
    const struct memory_diff_row *x = a, *y = b;

    if (x->level != y->level)
        return x->level < y->level ? -1 : 1;
    if (change(x) != change(y))
        return change(x) > change(y) ? -1 : 1;
    return strcmp(x->name, y->name);
}

int memory_diff_make(struct memory_diff *diff, const struct trace_peak *before, const struct trace_peak *after,
                     struct plim_err *err)
{
    *diff = (struct memory_diff){ .before = before, .after = after };
    if (add_peak(diff, before, false, err) < 0 || add_peak(diff, after, true, err) < 0) {
        memory_diff_release(diff);
        return -1;
    }
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        drop_equal_rows(diff, tier);
        if (diff->row_count[tier])
            qsort(diff->rows[tier], diff->row_count[tier], sizeof *diff->rows[tier], by_level_and_growth);
    }
    return 0;
}

void memory_diff_release(struct memory_diff *diff)
{
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (size_t i = 0; i < diff->row_count[tier]; i++)
            free(diff->rows[tier][i].name);
        free(diff->rows[tier]);
    }
    *diff = (struct memory_diff){ 0 };
}

bool memory_diff_grew(const struct memory_diff *diff)
{
    for (int tier = 0; tier < PLIM_TIER_COUNT; tier++)
        if (diff->after->held[tier].total_bytes > diff->before->held[tier].total_bytes)
            return true;
    return false;
}

/* ---- for people ---- */

static const char *scope_text(const char *scope)
{
    return *scope ? scope : "(outside)";
}

/* "fast tier: peak 12.3 MiB in layers.1.mlp -> 14.0 MiB in head: +1.7 MiB (1782579 bytes)" */
static void print_heading(const struct memory_diff *diff, enum plim_tier tier, FILE *out, bool colours)
{
    uint64_t before = diff->before->held[tier].total_bytes, after = diff->after->held[tier].total_bytes;
    enum text_style style = after > before ? STYLE_BAD : after < before ? STYLE_GOOD : STYLE_PLAIN;
    char was[40], is[40], by[40];

    fprintf(out, "%s tier: peak %s in %s -> %s in %s: %s", plim_tier_name(tier),
            format_value(was, sizeof was, (double)before, "bytes"), scope_text(diff->before->scope[tier]),
            format_value(is, sizeof is, (double)after, "bytes"), scope_text(diff->after->scope[tier]),
            style_begin(style, colours));
    if (after == before)
        fputs("the same", out);
    else
        fprintf(out, "%s (%+" PRId64 " bytes)", format_difference(by, sizeof by, (double)after - (double)before, "bytes"),
                (int64_t)(after - before));
    fprintf(out, "%s\n", style_end(style, colours));
}

static void row_cells(struct table *t, const struct memory_diff_row *row)
{
    char text[40];

    table_cell(t, STYLE_DIM, "%s", level_names[row->level]);
    table_cell(t, STYLE_PLAIN, "%s", row->name);
    table_cell(t, STYLE_PLAIN, "%s", format_value(text, sizeof text, (double)row->before, "bytes"));
    table_cell(t, STYLE_PLAIN, "%s", format_value(text, sizeof text, (double)row->after, "bytes"));
    table_cell(t, row->after > row->before ? STYLE_WARN : STYLE_GOOD, "%s",
               format_difference(text, sizeof text, (double)row->after - (double)row->before, "bytes"));
}

static int print_rows(const struct memory_diff *diff, enum plim_tier tier, FILE *out, bool colours,
                      struct plim_err *err)
{
    struct table t = TABLE_INIT;
    size_t printed[DIFF_LEVEL_COUNT] = { 0 };
    int rc;

    table_column(&t, "", TABLE_LEFT);
    table_column(&t, "at the peak", TABLE_LEFT);
    table_column(&t, "before", TABLE_RIGHT);
    table_column(&t, "after", TABLE_RIGHT);
    table_column(&t, "change", TABLE_RIGHT);
    for (size_t i = 0; i < diff->row_count[tier]; i++)
        if (printed[diff->rows[tier][i].level]++ < ROWS_PRINTED)
            row_cells(&t, &diff->rows[tier][i]);
    rc = table_print(&t, out, colours, err);
    table_release(&t);
    for (int level = 0; level < DIFF_LEVEL_COUNT && rc == 0; level++)
        if (printed[level] > ROWS_PRINTED)
            fprintf(out, "%zu more by %s; --json has them\n", printed[level] - ROWS_PRINTED, level_names[level]);
    return rc;
}

int memory_diff_print(const struct memory_diff *diff, FILE *out, bool colours, struct plim_err *err)
{
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        if (!diff->before->held[tier].total_bytes && !diff->after->held[tier].total_bytes)
            continue;
        print_heading(diff, tier, out, colours);
        if (diff->row_count[tier] && print_rows(diff, tier, out, colours, err) < 0)
            return -1;
    }
    if (!diff->before->complete || !diff->after->complete)
        fprintf(out, "note: the trace %s was cut off before its end\n", diff->after->complete ? "before" : "after");
    return 0;
}

/* ---- for programs ---- */

static bool add_rows(cJSON *object, const struct memory_diff *diff, enum plim_tier tier)
{
    static const char *const keys[DIFF_LEVEL_COUNT] = { "tags", "modules", "sites" };
    cJSON *arrays[DIFF_LEVEL_COUNT];

    for (int level = 0; level < DIFF_LEVEL_COUNT; level++)
        if (!(arrays[level] = cJSON_AddArrayToObject(object, keys[level])))
            return false;
    for (size_t i = 0; i < diff->row_count[tier]; i++) {
        const struct memory_diff_row *row = &diff->rows[tier][i];
        cJSON *item = cJSON_CreateObject();

        if (!item || !cJSON_AddItemToArray(arrays[row->level], item) ||
            !cJSON_AddStringToObject(item, "name", row->name) ||
            !cJSON_AddNumberToObject(item, "before_bytes", (double)row->before) ||
            !cJSON_AddNumberToObject(item, "after_bytes", (double)row->after))
            return false;
    }
    return true;
}

static bool add_tier(cJSON *root, const struct memory_diff *diff, enum plim_tier tier)
{
    cJSON *object = cJSON_AddObjectToObject(root, plim_tier_name(tier));

    return object && cJSON_AddNumberToObject(object, "before_bytes", (double)diff->before->held[tier].total_bytes) &&
           cJSON_AddNumberToObject(object, "after_bytes", (double)diff->after->held[tier].total_bytes) &&
           cJSON_AddStringToObject(object, "before_scope", diff->before->scope[tier]) &&
           cJSON_AddStringToObject(object, "after_scope", diff->after->scope[tier]) && add_rows(object, diff, tier);
}

char *memory_diff_format(const struct memory_diff *diff, struct plim_err *err)
{
    cJSON *root = cJSON_CreateObject();
    bool complete = root && cJSON_AddBoolToObject(root, "grew", memory_diff_grew(diff)) &&
                    cJSON_AddBoolToObject(root, "complete", diff->before->complete && diff->after->complete) &&
                    add_tier(root, diff, PLIM_FAST) && add_tier(root, diff, PLIM_SLOW);
    char *text = complete ? cJSON_Print(root) : NULL;

    cJSON_Delete(root);
    if (!text)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    return text;
}
