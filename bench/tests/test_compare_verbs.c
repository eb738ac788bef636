/* The verbs compare, gate, baseline and plot as a user meets them: the real program, its exit status and what it says. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "compare_support.h"
#include "heap.h"
#include "plimsoll/parameters.h"

/* Runs `plimsoll ARGUMENTS` in `directory`; what it says on both streams goes into `said`. Returns its exit status. */
static int run(const char *directory, char *said, size_t size, const char *arguments)
{
    char command[2000];
    snprintf(command, sizeof command, "cd '%s' && NO_COLOR=1 '%s' %s 2>&1", directory, PLIMSOLL_PROGRAM, arguments);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    size_t used = fread(said, 1, size - 1, pipe);
    said[used] = '\0';
    int status = pclose(pipe);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(const char *directory, int status, const char *words, const char *arguments)
{
    char said[20000];
    int got = run(directory, said, sizeof said, arguments);
    cr_assert_eq(got, status, "plimsoll %s: status %d, expected %d: %s", arguments, got, status, said);
    cr_assert_not_null(strstr(said, words), "plimsoll %s: no \"%s\" in: %s", arguments, words, said);
}

struct change {
    const char *started;
    double peak_bytes;
    double speed;
    size_t repeats;
    enum outcome outcome;
    const char *class;
};

static void write_result(const char *directory, const char *file, const struct change *change)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = heap_printf(&err, "%s/%s", directory, file);
    make_result(&result, "hull", change->class ? change->class : "abacus");
    if (change->started)
        cr_assert_eq(result_set_string(&result.started_utc, change->started, &err), 0);
    struct result_case *c = add_case(&result, "tiny/steady");
    add_exact(c, "peak_bytes", 100);
    c = add_case(&result, "tiny/prefill");
    c->outcome = change->outcome;
    if (c->outcome == OUTCOME_OK) {
        add_exact(c, "peak_requested_fast_bytes", change->peak_bytes);
        add_exact(c, "at_peak_dequant_bytes", change->peak_bytes - 1000)->gate.level = GATE_OFF;
        struct metric *speed = add_rate(c, NULL, 0);
        for (size_t i = 0; i < change->repeats; i++)
            cr_assert_eq(metric_add_sample(speed, change->speed * (1 + 0.001 * (double)i), &err), 0);
    }
    cr_assert_eq(result_write(&result, path, &err), 0, "%s", err.message);
    free(path);
    result_release(&result);
}

/* A directory with a base result and what may become of it. */
static char *make_files(void)
{
    char *directory = scratch_path("");
    static const struct {
        const char *file;
        struct change change;
    } files[] = {
        { "base.json", { NULL, 4096, 100, 8, OUTCOME_OK, NULL } },
        { "same.json", { NULL, 4096, 100.2, 8, OUTCOME_OK, NULL } },
        { "more.json", { NULL, 8192, 100, 8, OUTCOME_OK, NULL } },
        { "less.json", { NULL, 4095, 100, 8, OUTCOME_OK, NULL } },
        { "slow.json", { NULL, 4096, 80, 8, OUTCOME_OK, NULL } },
        { "few.json", { NULL, 4096, 80, 2, OUTCOME_OK, NULL } },
        { "crash.json", { NULL, 0, 0, 0, OUTCOME_CRASHED, NULL } },
        { "other.json", { NULL, 4096, 80, 8, OUTCOME_OK, "sliderule" } },
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        write_result(directory, files[i].file, &files[i].change);
    return directory;
}

Test(verbs, compare_has_the_documented_exit_statuses)
{
    char *d = make_files();
    expect(d, 0, "no regression", "compare base.json same.json");
    expect(d, 1, "dequant +4096 B", "compare base.json more.json");
    expect(d, 0, "stale", "compare base.json less.json");
    expect(d, 1, "--strict", "compare --strict base.json less.json");
    expect(d, 1, "25.0% slower", "compare base.json slow.json");
    expect(d, 0, "no regression", "compare --exact-only base.json slow.json");
    expect(d, 0, "1 inconclusive timing not shown", "compare base.json few.json");
    expect(d, 4, "inconclusive", "compare --strict base.json few.json");
    expect(d, 5, "crashed, was ok", "compare base.json crash.json");
    expect(d, 0, "machine class is sliderule", "compare base.json other.json");
    expect(d, 3, "machine class is sliderule", "compare --timings base.json other.json");
    expect(d, 2, "two files are needed", "compare base.json");
    expect(d, 2, "missing.json", "compare base.json missing.json");
    expect(d, 2, "exclude each other", "compare --exact-only --timings base.json same.json");
    expect(d, 2, "", "compare --no-such-option");
    free(d);
}

Test(verbs, compare_reads_well_in_three_formats)
{
    char *d = make_files();
    expect(d, 1, "| **FAIL** |", "compare --markdown base.json more.json");
    expect(d, 1, "\"verdict\":\t\"fail\"", "compare --json base.json more.json");
    expect(d, 0, "peak_requested_fast_bytes", "compare --all base.json same.json");
    free(d);
}

Test(verbs, report_has_a_result_in_every_form)
{
    char *d = make_files(), path[400];
    expect(d, 0, "report.html: ", "report base.json");
    expect(d, 0, "tiny/prefill  ok", "report base.json --table");
    expect(d, 0, "### \xE2\x9C\x85 hull: 2 cases", "report base.json --markdown");
    expect(d, 0, "| tiny/prefill | **crashed** |", "report crash.json --markdown");
    expect(d, 0, "\"plimsoll-result\"", "report base.json --json");
    expect(d, 0, "::error title=plimsoll tiny/prefill::crashed", "report crash.json --github --junit r.xml --csv r.csv");
    snprintf(path, sizeof path, "%s/r.xml", d);
    char *text = read_text(path);
    cr_assert_not_null(strstr(text, "tests=\"2\" failures=\"0\" errors=\"1\""), "%s", text);
    cr_assert_not_null(strstr(text, "name=\"tiny/prefill\"><error type=\"crashed\""), "%s", text);
    free(text);
    snprintf(path, sizeof path, "%s/r.csv", d);
    text = read_text(path);
    cr_assert_not_null(strstr(text, "\r\nhull,tiny/steady,tiny,prefill,ok,peak_bytes,exact,bytes,2,100,100,100,\r\n"), "%s", text);
    cr_assert_not_null(strstr(text, "\r\nhull,tiny/prefill,tiny,prefill,crashed,,,,,,,,\r\n"), "%s", text);
    free(text);
    expect(d, 0, "| **FAIL** |", "report more.json --baseline base.json --markdown");
    expect(d, 0, "peak_requested_fast_bytes", "report more.json --baseline base.json --table --csv c.csv");
    expect(d, 2, "a result file is needed", "report --table");
    free(d);
}

Test(verbs, gate_accept_and_gate_again)
{
    char *d = make_files();
    expect(d, 3, "plimsoll baseline accept base.json", "gate base.json");
    expect(d, 0, "created, 3 new", "baseline accept base.json");
    expect(d, 0, "no regression", "gate --strict same.json");
    expect(d, 1, "dequant +4096 B", "gate more.json");
    expect(d, 0, "not gated: one session's timings", "gate slow.json");
    expect(d, 0, "no regression", "gate --exact-only slow.json");
    expect(d, 5, "crashed", "gate crash.json");
    expect(d, 6, "control missed", "gate --rehearse-blind --exact-only more.json");
    expect(d, 6, "control missed", "gate --rehearse-blind same.json");
    expect(d, 0, "no baseline of machine class sliderule", "gate other.json");
    expect(d, 3, "no timings of machine class sliderule", "gate --timings other.json");
    expect(d, 0, "4096", "baseline accept more.json --exact --reason 'room for the head'");
    expect(d, 0, "no regression", "gate more.json");
    expect(d, 0, "room for the head", "baseline show hull");
    expect(d, 0, "abacus", "baseline list");
    expect(d, 2, "no baseline of suite \"hul\"", "baseline show hul");
    expect(d, 2, "no verb", "baseline remove");
    free(d);
}

Test(verbs, stored_timings_are_gated_once_runs_of_several_days_are_pooled)
{
    static const char *const files[] = { "day1.json", "day2.json", "day3.json", "day4.json" };
    static const struct change days[] = {
        { "2026-11-21T07:30:00Z", 4096, 100, 8, OUTCOME_OK, NULL },
        { "2026-11-22T07:30:00Z", 4096, 101, 8, OUTCOME_OK, NULL },
        { "2026-11-23T07:30:00Z", 4096, 99.5, 8, OUTCOME_OK, NULL },
        { "2026-11-23T09:30:00Z", 8192, 100, 8, OUTCOME_OK, NULL },
    };
    char *d = make_files();
    for (size_t i = 0; i < 4; i++)
        write_result(d, files[i], &days[i]);
    expect(d, 2, "the same run", "baseline accept day1.json day1.json");
    expect(d, 2, "nondeterministic", "baseline accept day1.json day4.json");
    expect(d, 3, "sliderule", "baseline accept day1.json other.json");
    expect(d, 0, "created", "baseline accept day1.json day2.json day3.json");
    expect(d, 0, "24 in 3 runs", "baseline show hull --metric tokens_per_s");
    expect(d, 1, "slower", "gate slow.json");
    expect(d, 0, "no regression", "gate --strict --timings same.json");
    free(d);

    d = make_files();   /* one after the other, as a nightly job would */
    for (size_t i = 0; i < 3; i++)
        write_result(d, files[i], &days[i]);
    expect(d, 0, "three runs of different days", "baseline accept day1.json");
    expect(d, 3, "reported only", "gate --timings slow.json");
    expect(d, 0, "1 changed", "baseline accept --timings --pool day2.json");
    expect(d, 0, "", "baseline accept --timings --pool day3.json");
    expect(d, 0, "24 in 3 runs", "baseline show hull --metric tokens_per_s");
    expect(d, 1, "slower", "gate --timings slow.json");
    free(d);
}

Test(verbs, a_rise_can_be_allowed_for_a_while)
{
    char *d = make_files();
    expect(d, 0, "created", "baseline accept base.json");
    expect(d, 1, "dequant +4096 B", "gate --exact-only more.json");
    expect(d, 2, "--until is needed", "baseline allow hull --rise 4096 --reason why");
    expect(d, 2, "--reason is needed", "baseline allow hull --rise 4096 --until 2999-12-31");
    expect(d, 2, "no exact number matches", "baseline allow hull --case 'x*' --rise 1 --until 2999-12-31 --reason why");
    expect(d, 2, "no exact baseline of suite nave", "baseline allow nave --rise 1 --until 2999-12-31 --reason why");
    expect(d, 0, "1 value may rise",
           "baseline allow hull --metric 'peak_requested*' --rise 4096 --until 2999-12-31 --reason 'until the head is chunked'");
    expect(d, 0, "allowed until 2999-12-31: until the head is chunked", "gate --exact-only more.json");
    expect(d, 0, "| allowed |", "gate --exact-only --markdown more.json");
    expect(d, 0, "\"verdict\":\t\"allowed\"", "gate --exact-only --json more.json");
    expect(d, 0, "until the head is chunked", "baseline show hull");
    expect(d, 0, "1 value may rise",
           "baseline allow hull --metric 'peak_requested*' --rise 4096 --until 2020-01-01 --reason 'long ago'");
    expect(d, 1, "expired on 2020-01-01", "gate --exact-only more.json");
    expect(d, 0, "without an allowance", "baseline allow hull --rise 0");
    expect(d, 1, "dequant +4096 B", "gate --exact-only more.json");
    free(d);
}

Test(verbs, baselines_are_pruned_and_migrated)
{
    char *d = make_files(), path[400];
    static const char suite[] =
        "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"hull\", \"description\": \"d\","
        "  \"models\": { \"tiny\": { \"make\": { \"preset\": \"tiny\" } } },"
        "  \"cases\": [ { \"name\": \"steady\", \"model\": \"tiny\", \"workload\": { \"kind\": \"load\" } } ] }";
    expect(d, 0, "created", "baseline accept base.json");
    expect(d, 0, "left as it is", "baseline prune");
    snprintf(path, sizeof path, "mkdir '%s/suites'", d);
    cr_assert_eq(system(path), 0);
    snprintf(path, sizeof path, "%s/suites/hull.json", d);
    write_text(path, suite);
    expect(d, 0, "1 case that the suite no longer has", "baseline prune --dry-run");
    expect(d, 0, "tiny/prefill", "baseline show hull");
    expect(d, 0, "dropped", "baseline prune");
    expect(d, 0, "nothing to do", "baseline prune");
    expect(d, 0, "tiny/steady", "baseline show hull");

    expect(d, 0, "nothing to do", "baseline migrate");
    snprintf(path, sizeof path, "sed -i 's/\"minor\": 1/\"minor\": 0/' '%s/baselines/exact/hull.json'", d);
    cr_assert_eq(system(path), 0);
    expect(d, 0, "schema 1.0, could be 1.1", "baseline migrate --dry-run");
    expect(d, 0, "schema 1.0 became 1.1", "baseline migrate");
    expect(d, 0, "nothing to do", "baseline migrate");
    snprintf(path, sizeof path, "sed -i 's/\"minor\": 1/\"minor\": 7/' '%s/baselines/exact/hull.json'", d);
    cr_assert_eq(system(path), 0);
    expect(d, 3, "newer than this program's", "baseline migrate");
    free(d);
}

Test(verbs, another_schema_is_3_and_garbage_is_2)
{
    char *d = make_files(), path[400];
    snprintf(path, sizeof path, "%s/base.json", d);
    char *text = read_text(path);
    char *major = strstr(text, "\"major\": 1");
    major[9] = '9';
    snprintf(path, sizeof path, "%s/future.json", d);
    write_text(path, text);
    snprintf(path, sizeof path, "%s/cut.json", d);
    text[strlen(text) / 2] = '\0';
    write_text(path, text);
    expect(d, 3, "version 9.1", "compare future.json base.json");
    expect(d, 3, "version 9.1", "gate future.json");
    expect(d, 3, "version 9.1", "plot future.json");
    char *other = strstr(text, "\"major\": 9");
    other[9] = '1';
    write_text(path, text);
    expect(d, 2, "cut.json", "compare base.json cut.json");
    expect(d, 2, "cut.json", "gate cut.json");
    free(text);
    free(d);
}

Test(verbs, an_unfinished_run_is_not_gated)
{
    char *d = make_files(), path[400];
    snprintf(path, sizeof path, "%s/base.json", d);
    char *text = read_text(path), *complete = strstr(text, "true");
    memcpy(complete, "false,\n", 5);   /* "true," becomes "false", so a comma must follow */
    char *fixed = NULL;
    cr_assert_geq(asprintf(&fixed, "%.*s,%s", (int)(complete + 5 - text), text, complete + 5), 0);
    snprintf(path, sizeof path, "%s/half.json", d);
    write_text(path, fixed);
    expect(d, 0, "created", "baseline accept base.json");
    expect(d, 3, "--resume", "gate half.json");
    expect(d, 0, "incomplete", "compare base.json half.json");
    free(fixed);
    free(text);
    free(d);
}

Test(verbs, the_readme_lists_the_parameters_as_they_are)
{
    char said[20000], *readme = read_text(PLIMSOLL_SOURCE "/README.md");
    cr_assert_eq(run("/", said, sizeof said, "parameters --markdown"), 0);
    cr_assert_not_null(strstr(readme, said), "put this table into README.md:\n%s", said);
    free(readme);
}

/* As a large sweep makes it: 1,000 cases of 40 exact metrics and 4 timings. */
static void write_large(const char *directory, const char *file, double more)
{
    struct result result;
    struct plim_err err = PLIM_ERR_INIT;
    char *path = heap_printf(&err, "%s/%s", directory, file);
    make_result(&result, "hull", "abacus");
    for (int i = 0; i < 1000; i++) {
        char name[60];
        snprintf(name, sizeof name, "tiny/prefill/max_dq_size=%d", i);
        struct result_case *c = add_case(&result, name);
        for (int k = 0; k < 40; k++) {
            snprintf(name, sizeof name, "count_%d_bytes", k);
            add_exact(c, name, 4096 * k + (i == 500 && k == 7 ? more : 0));
        }
        for (int k = 0; k < 4; k++) {
            struct metric *timing = add_rate(c, SAMPLES(100, 101, 102, 103, 104, 105, 106));
            snprintf(name, sizeof name, "rate_%d", k);
            cr_assert_eq(result_set_string(&timing->name, name, &err), 0);
        }
    }
    cr_assert_eq(result_write(&result, path, &err), 0, "%s", err.message);
    free(path);
    result_release(&result);
}

static double children_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

Test(verbs, a_thousand_cases_compare_in_a_second_and_fit_a_page)
{
    char *d = scratch_path(""), path[400];
    struct stat page;
    write_large(d, "a.json", 0);
    write_large(d, "b.json", 4096);
    double start_s = children_s();
    expect(d, 1, "+4096 B", "compare a.json b.json");
    double spent_s = children_s() - start_s;
    cr_log_info("1,000 cases compared in %.2f s of processor time", spent_s);
#ifdef __OPTIMIZE__
#if !defined(__SANITIZE_ADDRESS__)
    cr_assert_lt(spent_s, 1.0, "processor time, so that others' work does not count");
#endif
#endif
    expect(d, 0, "KiB", "report b.json --baseline a.json -o page.html");
    snprintf(path, sizeof path, "%s/page.html", d);
    cr_assert_eq(stat(path, &page), 0);
    cr_assert_lt(page.st_size, 1000 * 1000);
    free(d);
}

Test(verbs, plot_writes_script_data_and_says_what_it_needs)
{
    char *d = make_files(), path[400];
    static const char suite[] =
        "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"hull\", \"description\": \"d\","
        "  \"cases\": [ { \"name\": \"nothing\", \"workload\": { \"kind\": \"null\" } } ],"
        "  \"plots\": [ { \"kind\": \"tag_bars\", \"name\": \"tags\", \"groups\": [\"model\", \"case\"] } ] }";
    snprintf(path, sizeof path, "%s/s.json", d);
    write_text(path, suite);
    expect(d, 0, "out/hull-tags.tsv", "plot base.json --suite s.json -o out --no-draw");
    expect(d, 2, "no plot missing", "plot base.json --suite s.json --only missing");
    expect(d, 2, "neither png nor svg", "plot base.json --suite s.json --format gif");
    expect(d, 2, "a result file is needed", "plot");
    snprintf(path, sizeof path, "%s/out/hull-tags.gp", d);
    char *script = read_text(path);
    cr_assert_not_null(strstr(script, "tag_name[1] = 'dequant'"));
    free(script);
    if (system("gnuplot --version >/dev/null 2>&1") == 0) {
        char command[800];
        expect(d, 0, "hull-tags.svg", "plot base.json --suite s.json --format svg");
        /* Anyone can redraw, with nothing of ours. */
        snprintf(command, sizeof command, "cd '%s/out' && gnuplot hull-tags.gp && test -s hull-tags.png", d);
        cr_assert_eq(system(command), 0);
    }
    free(d);
}

/* Whether this build can run on a GPU or not. */
Test(verbs, results_of_a_gpu_are_read_by_every_build)
{
    static const char suite[] =
        "{ \"schema\": { \"name\": \"plimsoll-suite\", \"major\": 1 }, \"name\": \"hull\", \"description\": \"d\","
        "  \"defaults\": { \"parameters\": { \"backend\": \"cuda\" } },"
        "  \"cases\": [ { \"name\": \"nothing\", \"workload\": { \"kind\": \"null\" },"
        "                 \"sweep\": { \"cuda_module_loading\": [\"lazy\", \"eager\"] } } ],"
        "  \"plots\": [ { \"kind\": \"tag_bars\", \"name\": \"tags\", \"groups\": [\"case\", \"cuda_module_loading\"] } ] }";
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;
    char *d = make_files(), path[400];

    snprintf(path, sizeof path, "%s/suites", d);
    cr_assert_eq(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/suites/hull.json", d);
    write_text(path, suite);
    expect(d, 0, "hull-tags.tsv", "plot base.json --no-draw");
    expect(d, 0, "tiny/prefill", "report base.json --table");
    expect(d, 1, "dequant +4096 B", "compare base.json more.json");
    expect(d, 0, "created", "baseline accept base.json --exact --reason test");
    expect(d, 1, "dequant +4096 B", "gate more.json");
    expect(d, 0, "the suite no longer has", "baseline prune --dry-run");
    expect(d, 0, "nothing/cuda_module_loading=eager", "run hull --list");

    plim_parameters_default(&parameters);
    cr_assert_eq(plim_parameters_set(&parameters, "backend", "cuda", &err), 0);
    if (plim_parameters_available(&parameters, &err) < 0)
        expect(d, 2, "nothing/cuda_module_loading=lazy: backend: cuda cannot be had", "run hull");
    free(d);
}
