/* Results over commits: what is stored, what comes back as series, and where they are said to have changed. */

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare_support.h"
#include "heap.h"
#include "history.h"
#include "history_plot.h"
#include "plimsoll/random.h"

#define COMMITS 40

/* Commit `i` of a history: memory grows by 64 bytes at 25, speed falls by 12% at 20. */
static void make_commit(struct result *result, int i, const char *class)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    char text[40];
    plim_random_seed(&random, (uint64_t)i, 7);
    make_result(result, "smoke", class);
    snprintf(text, sizeof text, "c%07d", i);
    cr_assert_eq(facts_set_text(&result->recorded, "git_revision", text, &err), 0);
    snprintf(text, sizeof text, "2026-%02d-%02dT00:00:00Z", 1 + i / 28, 1 + i % 28);
    cr_assert_eq(result_set_string(&result->started_utc, text, &err), 0);
    struct result_case *c = add_case(result, "tiny/decode");
    add_exact(c, "peak_bytes", i >= 25 ? 4160 : 4096);
    double speed = (i >= 20 ? 88 : 100) * exp(0.01 * plim_random_normal(&random));
    add_rate(c, SAMPLES(speed * 0.99, speed, speed * 1.01));
    c = add_case(result, "tiny/broken");
    c->outcome = OUTCOME_CRASHED;
    add_exact(c, "peak_bytes", i);
}

static void add_commits(struct history *history, const char *path, const char *class)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(history_open(history, path, true, &err), 0, "%s", err.message);
    for (int i = 0; i < COMMITS; i++) {
        struct result result;
        bool added;
        make_commit(&result, i, class);
        cr_assert_eq(history_add(history, &result, NULL, NULL, &added, &err), 0, "%s", err.message);
        cr_assert(added);
        cr_assert_eq(history_add(history, &result, NULL, NULL, &added, &err), 0, "%s", err.message);
        cr_assert_not(added, "the same run twice");
        result_release(&result);
    }
}

static const struct series *find(const struct series_list *list, const char *metric, const char *class)
{
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->items[i].metric, metric) == 0 && strcmp(list->items[i].machine_class, class) == 0)
            return &list->items[i];
    }
    return NULL;
}

Test(history, finds_the_commit_that_changed_each_metric)
{
    struct history history;
    struct series_list list;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("history.sqlite");
    add_commits(&history, path, "abacus");
    history_close(&history);
    cr_assert_eq(history_open(&history, path, false, &err), 0, "%s", err.message);
    cr_assert_eq(history_read(&history, &(struct history_filter){ .suite = "smoke" }, &list, &err), 0, "%s",
                 err.message);
    cr_assert_eq(list.count, 2u, "%zu series; what crashed has none", list.count);
    const struct series *peak = find(&list, "peak_bytes", ""), *speed = find(&list, "tokens_per_s", "abacus");
    cr_assert_eq(peak->count, (size_t)COMMITS);
    cr_assert_eq(peak->changes.count, 1u);
    cr_assert_str_eq(peak->points[peak->changes.items[0].index].revision, "c0000025");
    cr_assert_float_eq(series_worsening(peak, &peak->changes.items[0]), 64.0 / 4096, 1e-12);
    cr_assert_eq(speed->changes.count, 1u);
    cr_assert_str_eq(speed->points[speed->changes.items[0].index].revision, "c0000020");
    cr_assert_float_eq(series_worsening(speed, &speed->changes.items[0]), 0.136, 0.02);
    series_list_release(&list);
    history_close(&history);
    free(path);
}

Test(history, timings_of_two_machines_are_two_series_and_bytes_are_one)
{
    struct history history;
    struct series_list list;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("history.sqlite");
    add_commits(&history, path, "abacus");
    history_close(&history);
    add_commits(&history, path, "sliderule");
    cr_assert_eq(history_read(&history, &(struct history_filter){ .case_pattern = "tiny/*" }, &list, &err), 0);
    cr_assert_eq(list.count, 3u);
    cr_assert_eq(find(&list, "peak_bytes", "")->count, (size_t)COMMITS, "runs of one commit are one point");
    cr_assert_eq(find(&list, "tokens_per_s", "sliderule")->count, (size_t)COMMITS);
    series_list_release(&list);
    history_close(&history);
    free(path);
}

Test(history, refuses_what_is_none)
{
    struct history history;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("notes.txt");
    cr_assert_eq(history_open(&history, path, false, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    plim_err_clear(&err);
    write_text(path, "these are notes and not a database of any kind, but long enough to look at, see?");
    cr_assert_eq(history_open(&history, path, true, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT, "%s", err.message);
    char *text = read_text(path);
    cr_assert(strncmp(text, "these are", 9) == 0, "and leaves it as it was");
    free(text);
    free(path);
}

Test(history, refuses_unfinished_runs_and_baselines)
{
    struct history history;
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    bool added;
    char *path = scratch_path("history.sqlite");
    cr_assert_eq(history_open(&history, path, true, &err), 0, "%s", err.message);
    make_commit(&result, 1, "abacus");
    result.complete = false;
    cr_assert_eq(history_add(&history, &result, NULL, NULL, &added, &err), -1);
    plim_err_clear(&err);
    result.complete = true;
    result.is_baseline = true;
    cr_assert_eq(history_add(&history, &result, NULL, NULL, &added, &err), -1);
    plim_err_clear(&err);
    result.is_baseline = false;
    facts_release(&result.recorded);
    cr_assert_eq(history_add(&history, &result, NULL, NULL, &added, &err), -1);
    cr_assert_not_null(strstr(err.message, "--revision"));
    plim_err_clear(&err);
    cr_assert_eq(history_add(&history, &result, "abc", "2026-01-01T00:00:00Z", &added, &err), 0, "%s", err.message);
    cr_assert(added);
    result_release(&result);
    history_close(&history);
    free(path);
}

Test(history, a_plot_marks_the_change_and_redraws)
{
    struct history history;
    struct series_list list;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = scratch_path("history.sqlite"), *name = NULL;
    add_commits(&history, path, "abacus");
    cr_assert_eq(history_read(&history, &(struct history_filter){ .metric_pattern = "tokens*" }, &list, &err), 0);
    cr_assert_eq(list.count, 1u);
    char *directory = heap_strdup(path, &err);
    *strrchr(directory, '/') = '\0';
    cr_assert_eq(history_plot_write(&list.items[0], directory, "svg", &name, &err), 0, "%s", err.message);
    cr_assert_str_eq(name, "history-smoke-tiny-decode-tokens_per_s");
    char *script_path = heap_printf(&err, "%s/%s.gp", directory, name), *script = read_text(script_path);
    cr_assert_not_null(strstr(script, "change_at[1] = 20"));
    cr_assert_not_null(strstr(script, "c0000020  -1"));
    if (system("gnuplot --version >/dev/null 2>&1") == 0) {
        char *command = heap_printf(&err, "cd '%s' && gnuplot %s.gp && grep -q c0000020 %s.svg", directory, name, name);
        cr_assert_eq(system(command), 0);
        free(command);
    }
    free(script);
    free(script_path);
    free(directory);
    free(name);
    series_list_release(&list);
    history_close(&history);
    free(path);
}
