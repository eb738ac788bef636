#include "history.h"

#include <fnmatch.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "statistics.h"

#define APPLICATION_ID 0x504c494d   /* "PLIM" */
#define SCHEMA_VERSION 1

static const char schema[] =
    "CREATE TABLE runs ("
    "  id INTEGER PRIMARY KEY, suite TEXT NOT NULL, revision TEXT NOT NULL, at_utc TEXT NOT NULL,"
    "  machine_class TEXT NOT NULL, path TEXT NOT NULL, started_utc TEXT NOT NULL,"
    "  UNIQUE (suite, revision, started_utc, machine_class));"
    "CREATE TABLE measurements ("
    "  run INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE, case_id TEXT NOT NULL, metric TEXT NOT NULL,"
    "  unit TEXT NOT NULL, class TEXT NOT NULL, direction TEXT NOT NULL, value REAL NOT NULL, samples INTEGER NOT NULL,"
    "  PRIMARY KEY (case_id, metric, run)) WITHOUT ROWID;"
    "CREATE INDEX runs_by_time ON runs(suite, at_utc);";

static int fail(const struct history *h, struct plim_err *err)
{
    int code = sqlite3_errcode(h->database);
    enum plim_err_kind kind = code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? PLIM_ERR_INPUT
                              : code == SQLITE_NOMEM                          ? PLIM_ERR_MEMORY
                                                                              : PLIM_ERR_SYSTEM;
    return plim_err_set(err, kind, "%s: %s", h->path, sqlite3_errmsg(h->database));
}

static int execute(const struct history *h, const char *sql, struct plim_err *err)
{
    return sqlite3_exec(h->database, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(h, err);
}

static int read_pragma(const struct history *h, const char *name, int *value, struct plim_err *err)
{
    char sql[60];
    sqlite3_stmt *statement = NULL;
    int rc = -1;
    snprintf(sql, sizeof sql, "PRAGMA %s", name);
    if (sqlite3_prepare_v2(h->database, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        *value = sqlite3_column_int(statement, 0);
        rc = 0;
    } else {
        fail(h, err);
    }
    sqlite3_finalize(statement);
    return rc;
}

static int create_schema(const struct history *h, struct plim_err *err)
{
    char pragmas[100];
    snprintf(pragmas, sizeof pragmas, "PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT", APPLICATION_ID,
             SCHEMA_VERSION);
    if (execute(h, "BEGIN IMMEDIATE", err) < 0)
        return -1;
    return execute(h, schema, err) < 0 || execute(h, pragmas, err) < 0 ? -1 : 0;
}

static int check_schema(const struct history *h, bool empty, struct plim_err *err)
{
    int id = 0, version = 0;
    if (read_pragma(h, "application_id", &id, err) < 0 || read_pragma(h, "user_version", &version, err) < 0)
        return -1;
    if (id == 0 && version == 0 && empty)
        return create_schema(h, err);
    if (id != APPLICATION_ID)
        return plim_err_input(err, "%s: an SQLite file, but no history of plimsoll", h->path);
    if (version != SCHEMA_VERSION)
        return plim_err_set(err, PLIM_ERR_COMPARE, "%s: history version %d; this program knows %d", h->path, version,
                            SCHEMA_VERSION);
    return 0;
}

int history_open(struct history *h, const char *path, bool create, struct plim_err *err)
{
    bool exists = plim_path_exists(path);
    *h = (struct history){ .path = path };
    if (!exists && !create)
        return plim_err_input(err, "%s: no history there; plimsoll history add RESULT begins one", path);
    if (sqlite3_open_v2(path, &h->database, SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0), NULL) !=
        SQLITE_OK) {
        plim_err_set(err, PLIM_ERR_SYSTEM, "opening %s: %s", path,
                     h->database ? sqlite3_errmsg(h->database) : "out of memory");
        history_close(h);
        return -1;
    }
    sqlite3_busy_timeout(h->database, 10000);
    if (execute(h, "PRAGMA foreign_keys = ON", err) < 0 || check_schema(h, !exists, err) < 0) {
        history_close(h);
        return -1;
    }
    return 0;
}

void history_close(struct history *h)
{
    sqlite3_close(h->database);
    h->database = NULL;
}

/* ---- adding ---- */

static void bind(sqlite3_stmt *statement, int at, const char *text)
{
    sqlite3_bind_text(statement, at, text ? text : "", -1, SQLITE_STATIC);
}

static int add_measurement(const struct history *h, sqlite3_stmt *insert, const struct result_case *c,
                           const struct metric *m, struct plim_err *err)
{
    bind(insert, 2, c->id);
    bind(insert, 3, m->name);
    bind(insert, 4, m->unit);
    bind(insert, 5, metric_class_name(m->class));
    bind(insert, 6, metric_direction_name(m->direction));
    sqlite3_bind_double(insert, 7, metric_median(m));
    sqlite3_bind_int64(insert, 8, (sqlite3_int64)m->sample_count);
    int code = sqlite3_step(insert);
    sqlite3_reset(insert);
    return code == SQLITE_DONE ? 0 : fail(h, err);
}

static int add_measurements(const struct history *h, const struct result *result, sqlite3_int64 run,
                            struct plim_err *err)
{
    sqlite3_stmt *insert = NULL;
    if (sqlite3_prepare_v2(h->database, "INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?, ?)", -1, &insert,
                           NULL) != SQLITE_OK)
        return fail(h, err);
    int rc = 0;
    sqlite3_bind_int64(insert, 1, run);
    for (size_t i = 0; i < result->case_count && rc == 0; i++) {
        const struct result_case *c = &result->cases[i];
        for (size_t k = 0; c->outcome == OUTCOME_OK && k < c->metric_count && rc == 0; k++) {
            if (c->metrics[k].sample_count)
                rc = add_measurement(h, insert, c, &c->metrics[k], err);
        }
    }
    sqlite3_finalize(insert);
    return rc;
}

static int add_run(const struct history *h, const struct result *result, const char *revision, const char *at_utc,
                   bool *added, struct plim_err *err)
{
    sqlite3_stmt *insert = NULL;
    if (sqlite3_prepare_v2(h->database,
                           "INSERT INTO runs (suite, revision, at_utc, machine_class, path, started_utc) "
                           "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                           -1, &insert, NULL) != SQLITE_OK)
        return fail(h, err);
    bind(insert, 1, result->suite_name);
    bind(insert, 2, revision);
    bind(insert, 3, at_utc ? at_utc : result->started_utc);
    bind(insert, 4, result->machine_class);
    bind(insert, 5, result->path);
    bind(insert, 6, result->started_utc);
    int code = sqlite3_step(insert);
    sqlite3_finalize(insert);
    if (code != SQLITE_DONE)
        return fail(h, err);
    *added = sqlite3_changes(h->database) == 1;
    return *added ? add_measurements(h, result, sqlite3_last_insert_rowid(h->database), err) : 0;
}

int history_add(struct history *h, const struct result *result, const char *revision, const char *at_utc, bool *added,
                struct plim_err *err)
{
    const struct fact *recorded = facts_find(&result->recorded, "git_revision");
    const char *path = result->path ? result->path : "the result";
    *added = false;
    if (result->is_baseline)
        return plim_err_input(err, "%s: a baseline; results are added", path);
    if (!result->complete)
        return plim_err_input(err, "%s: the run is incomplete", path);
    if (!revision && recorded)
        revision = recorded->text;
    if (!revision || !*revision)
        return plim_err_input(err, "%s: names no git revision; give one with --revision", path);
    if (execute(h, "BEGIN IMMEDIATE", err) < 0)
        return -1;
    if (add_run(h, result, revision, at_utc, added, err) < 0) {
        struct plim_err ignored = PLIM_ERR_INIT;
        execute(h, "ROLLBACK", &ignored);
        return -1;
    }
    return execute(h, "COMMIT", err);
}

/* ---- reading ---- */

static bool matches(const char *pattern, const char *text)
{
    return !pattern || fnmatch(pattern, text, 0) == 0;
}

static int find_name(const char *const *names, const char *text)
{
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], text) == 0)
            return i;
    }
    return 0;
}

static const char *text_of(sqlite3_stmt *row, int column)
{
    const unsigned char *text = sqlite3_column_text(row, column);
    return text ? (const char *)text : "";
}

enum { SUITE, CASE, METRIC, CLASS_OF_MACHINE, UNIT, CLASS, DIRECTION, REVISION, AT, VALUE };

/* Rows come sorted by what names a series, then by time. */
static const char query[] = "SELECT r.suite, m.case_id, m.metric, CASE WHEN m.class IN ('exact', 'bounded') THEN '' "
                            "ELSE r.machine_class END AS k,"
                            "  m.unit, m.class, m.direction, r.revision, r.at_utc, m.value "
                            "FROM measurements m JOIN runs r ON r.id = m.run "
                            "WHERE (?1 IS NULL OR r.suite = ?1) AND (?2 IS NULL OR r.machine_class = ?2) "
                            "ORDER BY r.suite, m.case_id, m.metric, k, r.at_utc, r.id";

static bool continues(const struct series *s, sqlite3_stmt *row)
{
    return strcmp(s->suite, text_of(row, SUITE)) == 0 && strcmp(s->case_id, text_of(row, CASE)) == 0 &&
           strcmp(s->metric, text_of(row, METRIC)) == 0 &&
           strcmp(s->machine_class, text_of(row, CLASS_OF_MACHINE)) == 0;
}

static struct series *begin_series(struct series_list *list, sqlite3_stmt *row, struct plim_err *err)
{
    struct series *items = heap_room(list->items, list->count, sizeof *items, err);
    if (!items)
        return NULL;
    list->items = items;
    struct series *s = &items[list->count++];
    s->class = (enum metric_class)find_name(metric_class_names, text_of(row, CLASS));
    s->direction = (enum metric_direction)find_name(metric_direction_names, text_of(row, DIRECTION));
    if (!(s->suite = heap_strdup(text_of(row, SUITE), err)) || !(s->case_id = heap_strdup(text_of(row, CASE), err)) ||
        !(s->metric = heap_strdup(text_of(row, METRIC), err)) || !(s->unit = heap_strdup(text_of(row, UNIT), err)) ||
        !(s->machine_class = heap_strdup(text_of(row, CLASS_OF_MACHINE), err)))
        return NULL;
    return s;
}

static int add_point(struct series *s, sqlite3_stmt *row, struct plim_err *err)
{
    struct series_point *points = heap_room(s->points, s->count, sizeof *points, err);
    if (!points)
        return -1;
    s->points = points;
    struct series_point *p = &points[s->count++];
    p->value = sqlite3_column_double(row, VALUE);
    p->revision = heap_strdup(text_of(row, REVISION), err);
    p->at_utc = heap_strdup(text_of(row, AT), err);
    return p->revision && p->at_utc ? 0 : -1;
}

static int read_rows(const struct history_filter *filter, sqlite3_stmt *row, struct series_list *list,
                     struct plim_err *err)
{
    struct series *s = NULL;
    int code;
    while ((code = sqlite3_step(row)) == SQLITE_ROW) {
        if (!matches(filter->case_pattern, text_of(row, CASE)) ||
            !matches(filter->metric_pattern, text_of(row, METRIC)))
            continue;
        if ((!s || !continues(s, row)) && !(s = begin_series(list, row, err)))
            return -1;
        if (add_point(s, row, err) < 0)
            return -1;
    }
    return code == SQLITE_DONE ? 0 : 1;
}

/* The runs of one revision in a row become one point, so that repeating a run does not make its level look lasting. */
static int pool_revisions(struct series *s, struct plim_err *err)
{
    double *values = heap_calloc(s->count, sizeof *values, err);
    size_t kept = 0;
    if (!values)
        return -1;
    for (size_t i = 0; i < s->count;) {
        size_t n = 0, first = i;
        for (; i < s->count && strcmp(s->points[i].revision, s->points[first].revision) == 0; i++)
            values[n++] = s->points[i].value;
        struct series_point pooled = s->points[first];
        pooled.value = median(values, n);
        for (size_t k = first + 1; k < i; k++) {
            free(s->points[k].revision);
            free(s->points[k].at_utc);
        }
        s->points[kept++] = pooled;
    }
    s->count = kept;
    free(values);
    return 0;
}

static int judge_series(struct series *s, struct plim_err *err)
{
    if (pool_revisions(s, err) < 0)
        return -1;
    double *values = heap_calloc(s->count, sizeof *values, err);
    if (!values)
        return -1;
    bool positive = true;
    for (size_t i = 0; i < s->count; i++) {
        values[i] = s->points[i].value;
        positive &= values[i] > 0;
    }
    /* What can be 0 (a count, a difference) and is no timing is read as exact. */
    bool exact = s->class == METRIC_EXACT || !positive;
    int rc = change_points_find(&s->changes, values, s->count, s->direction == DIRECTION_HIGHER, exact, err);
    free(values);
    return rc;
}

int history_read(struct history *h, const struct history_filter *filter, struct series_list *list, struct plim_err *err)
{
    sqlite3_stmt *row = NULL;
    *list = (struct series_list){ 0 };
    if (sqlite3_prepare_v2(h->database, query, -1, &row, NULL) != SQLITE_OK)
        return fail(h, err);
    if (filter->suite)
        bind(row, 1, filter->suite);
    if (filter->machine_class)
        bind(row, 2, filter->machine_class);
    int rc = read_rows(filter, row, list, err);
    if (rc > 0)
        rc = fail(h, err);
    sqlite3_finalize(row);
    for (size_t i = 0; i < list->count && rc == 0; i++)
        rc = judge_series(&list->items[i], err);
    if (rc < 0)
        series_list_release(list);
    return rc;
}

void series_list_release(struct series_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        struct series *s = &list->items[i];
        for (size_t k = 0; k < s->count; k++) {
            free(s->points[k].revision);
            free(s->points[k].at_utc);
        }
        free(s->points);
        free(s->suite);
        free(s->case_id);
        free(s->metric);
        free(s->unit);
        free(s->machine_class);
    }
    free(list->items);
    *list = (struct series_list){ 0 };
}

double series_worsening(const struct series *s, const struct change_point *change)
{
    double relative = change->before != 0 ? (change->after - change->before) / fabs(change->before)
                                          : change->after > 0 ? INFINITY : -INFINITY;
    if (s->direction == DIRECTION_HIGHER)
        return change->after > 0 ? change->before / change->after - 1 : INFINITY;
    return s->direction == DIRECTION_LOWER ? relative : fabs(relative);
}
