/* The verbs compare, gate, baseline and plot as a user meets them: the real program, its exit status and what it says. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "compare_support.h"
#include "heap.h"

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
        { "base.json", { 4096, 100, 8, OUTCOME_OK, NULL } },
        { "same.json", { 4096, 100.2, 8, OUTCOME_OK, NULL } },
        { "more.json", { 8192, 100, 8, OUTCOME_OK, NULL } },
        { "less.json", { 4095, 100, 8, OUTCOME_OK, NULL } },
        { "slow.json", { 4096, 80, 8, OUTCOME_OK, NULL } },
        { "few.json", { 4096, 80, 2, OUTCOME_OK, NULL } },
        { "crash.json", { 0, 0, 0, OUTCOME_CRASHED, NULL } },
        { "other.json", { 4096, 80, 8, OUTCOME_OK, "sliderule" } },
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

Test(verbs, gate_accept_and_gate_again)
{
    char *d = make_files();
    expect(d, 3, "plimsoll baseline accept base.json", "gate base.json");
    expect(d, 0, "created, 3 new", "baseline accept base.json");
    expect(d, 0, "no regression", "gate --strict same.json");
    expect(d, 1, "dequant +4096 B", "gate more.json");
    expect(d, 1, "slower", "gate slow.json");
    expect(d, 0, "no regression", "gate --exact-only slow.json");
    expect(d, 5, "crashed", "gate crash.json");
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
    expect(d, 3, "version 9.0", "compare future.json base.json");
    expect(d, 3, "version 9.0", "gate future.json");
    expect(d, 3, "version 9.0", "plot future.json");
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
