/* Jobs: killed and gone on with, refused, out of disk, out of memory; and input that is no good. */

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "conversion_support.h"
#include "plimsoll/clock.h"
#include "plimsoll/file.h"
#include "plimsoll/random.h"

/* ---- killed ---- */

/* In a child: converts and exits, 0 when all went well. */
static pid_t start_conversion(const struct plim_quantize_options *options)
{
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child > 0)
        return child;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = parameters_from("cpu_threads=1");
    struct plim_engine *engine;
    if (plim_engine_open(&engine, "cpu", &parameters, NULL, &err) < 0 ||
        plim_quantize(engine, options, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        _exit(1);
    }
    _exit(0);
}

/* Kills it after `delay_s`, unless it ends before; true when it was killed. */
static bool kill_after(pid_t child, double delay_s)
{
    struct timespec delay = { (time_t)delay_s, (long)(fmod(delay_s, 1) * 1e9) };
    int status;
    nanosleep(&delay, NULL);
    kill(child, SIGKILL);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "the conversion failed");
    return WIFSIGNALED(status);
}

/*
 * Jobs are killed at random moments, `kills` times in all, and gone on with until they are done; a job that gets done is
 * compared and another one begun.
 */
static void kill_many(int kills, bool measure, uint64_t seed)
{
    struct scratch s;
    struct plim_random random;
    int jobs = 0, in_a_row = 0;
    char name[32];

    scratch_make(&s);
    plim_random_seed(&random, seed, 0);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "whole"));
    char whole[256];
    snprintf(whole, sizeof whole, "%s", options.output_directory);
    if (measure)
        options.measurement = NULL;
    options.sensitivity_rows = measure;
    uint64_t start = plim_now_ns();
    int status;
    waitpid(start_conversion(&options), &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    double whole_s = (double)(plim_now_ns() - start) / 1e9;

    /* Half the moments are then within a save of the states. */
    options.checkpoint_s = 1e-9;
    char output[256];
    for (int killed = 0; killed < kills || in_a_row > 0;) {
        snprintf(name, sizeof name, "out%d", jobs);
        snprintf(output, sizeof output, "%s", scratch_path(&s, name));
        options.output_directory = output;
        /* The last job is let go on in peace; kills come at any moment of what is left, the end included. */
        double delay_s = killed < kills ? plim_random_double(&random) * whole_s * 0.8 : 60;
        pid_t child = start_conversion(&options);
        bool was_killed;
        if (killed < kills) {
            was_killed = kill_after(child, delay_s);
        } else {
            waitpid(child, &status, 0);
            cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            was_killed = false;
        }
        killed += was_killed;
        in_a_row = was_killed ? in_a_row + 1 : 0;
        if (!was_killed) {
            check_same_model(whole, output);
            jobs++;
        }
    }
    cr_log_info("%d kills over %d jobs", kills, jobs);
    scratch_remove(&s);
}

Test(job, survives_ten_kills, .timeout = 300)
{
    kill_many(10, false, 1);
}

/* Measurement included, and many more: a minute or so, so only when asked for. */
Test(job, survives_fifty_kills_with_measurement, .timeout = 900)
{
    if (getenv("PLIMSOLL_SLOW_TESTS"))
        kill_many(50, true, 2);
    else
        kill_many(2, true, 2);
}

static void note_going_on(void *context, const char *line)
{
    bool *told = context;
    *told |= strstr(line, "goes on before block") != NULL;
}

static bool has_saved_states(const struct scratch *s, const char *stage)
{
    for (int block = 1; block <= 4; block++) {
        char name[64];
        snprintf(name, sizeof name, "out.job/states-%s-%05d.bin", stage, block);
        if (access(scratch_path(s, name), F_OK) == 0)
            return true;
    }
    return false;
}

/* Kills a conversion once it has saved states of `stage`, and goes on: from there, to the same bytes; nothing stays. */
static void go_on_from_saved_states(const char *stage, bool damaged)
{
    struct scratch s;
    bool told = false;
    int status;
    char whole[256], out[256];
    scratch_make(&s);
    snprintf(whole, sizeof whole, "%s", scratch_path(&s, "whole"));
    snprintf(out, sizeof out, "%s", scratch_path(&s, "out"));
    struct plim_quantize_options options = quick_options(whole);
    options.measurement = NULL;
    options.sensitivity_rows = 1;
    convert_well(&options, "cpu_threads=1", NULL);
    options.output_directory = out;
    options.checkpoint_s = 1e-9;
    pid_t child = start_conversion(&options);
    while (!has_saved_states(&s, stage) && waitpid(child, &status, WNOHANG) == 0)
        nanosleep(&(struct timespec){ 0, 200000 }, NULL);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    bool saved = has_saved_states(&s, stage);
    for (int block = 1; damaged && block <= 4; block++) {
        char name[64];
        snprintf(name, sizeof name, "out.job/states-%s-%05d.bin", stage, block);
        if (access(scratch_path(&s, name), F_OK) == 0)
            cr_assert_eq(truncate(scratch_path(&s, name), 1000), 0);
    }
    options.log = note_going_on;
    options.log_context = &told;
    convert_well(&options, "cpu_threads=1", NULL);
    cr_assert_eq(told, saved && !damaged);
    check_same_model(whole, out);
    cr_assert_not(has_saved_states(&s, "measure") || has_saved_states(&s, "sensitivity") || has_saved_states(&s, "quantise"));
    scratch_remove(&s);
}

Test(job, goes_on_from_saved_states)
{
    go_on_from_saved_states("measure", false);
    go_on_from_saved_states("sensitivity", false);
    go_on_from_saved_states("quantise", false);
}

Test(job, computes_states_again_where_the_saved_ones_are_damaged)
{
    go_on_from_saved_states("quantise", true);
}

/* ---- refused ---- */

static void expect_refusal(const struct plim_quantize_options *options, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(convert(options, "", NULL, &err), -1, "not refused: %s", text);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT, "%s", err.message);
    cr_assert_not_null(strstr(err.message, text), "\"%s\" does not say \"%s\"", err.message, text);
}

Test(job, of_other_options_or_another_model_is_refused)
{
    struct scratch s;
    struct model_copy other;
    scratch_make(&s);
    char job[256];
    snprintf(job, sizeof job, "%s", scratch_path(&s, "job"));
    struct plim_quantize_options options = quick_options(scratch_path(&s, "out"));
    options.job_directory = job;
    convert_well(&options, "", NULL);

    struct plim_quantize_options changed = options;
    changed.bits_per_weight = 3;
    expect_refusal(&changed, "was begun with bits_per_weight 4, not 3");
    changed = options;
    changed.rows = 3;
    expect_refusal(&changed, "was begun with rows 2, not 3");
    changed = options;
    changed.round_to_nearest = true;
    expect_refusal(&changed, "round_to_nearest");
    changed = options;
    changed.measurement = NULL;
    expect_refusal(&changed, "was begun with measurement");
    model_copy_make(&other, DENSE,
                    &(struct edit){ EDIT_VALUE_F16, "model.layers.1.mlp.up_proj.weight", .index = 1, .value = 0x3c00 }, 1,
                    NULL, NULL);
    changed = options;
    changed.model_directory = other.directory;
    expect_refusal(&changed, "is of another model");
    model_copy_remove(&other);

    /* The right one again: done already, and the same. */
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_quantize_summary summary;
    cr_assert_eq(convert(&options, "", &summary, &err), 0, "%s", err.message);
    cr_assert(summary.resumed);

    /* Directories that hold something else. */
    changed = options;
    changed.job_directory = DENSE;
    expect_refusal(&changed, "is not a job directory");
    unlink(DENSE "/lock");
    changed = options;
    changed.job_directory = scratch_path(&s, "job2");
    expect_refusal(&changed, "exists and is not empty");
    scratch_remove(&s);
}

/* ---- the system says no ---- */

static int convert_with_file_limit(const struct plim_quantize_options *options, rlim_t limit_bytes)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = { limit_bytes, limit_bytes };
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_parameters parameters = parameters_from("cpu_threads=1");
        struct plim_engine *engine;
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        if (plim_engine_open(&engine, "cpu", &parameters, NULL, &err) == 0 &&
            plim_quantize(engine, options, NULL, &err) == 0)
            _exit(0);
        /* 10 + exit status, when nothing is left in the pool */
        _exit(plim_engine_close(engine) == 0 ? 10 + plim_err_exit_status(&err) : 99);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

Test(job, goes_on_after_a_full_disk)
{
    static const rlim_t limits[] = { 2000, 60000, 120000, 400000 };   /* job.json, spill, a block, the model */
    struct scratch s;
    scratch_make(&s);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "whole"));
    convert_well(&options, "", NULL);
    options.output_directory = scratch_path(&s, "full");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        cr_assert_eq(convert_with_file_limit(&options, limits[i]), 11, "limit %zu", (size_t)limits[i]);
        cr_assert_not(plim_path_exists(scratch_path(&s, "full/config.json")));
    }
    convert_well(&options, "", NULL);
    check_same_model(scratch_path(&s, "whole"), scratch_path(&s, "full"));
    scratch_remove(&s);
}

/* The N-th allocation fails: an error of the right kind, nothing leaked, and the job goes on to the same files. */
Test(job, goes_on_after_any_allocation_failed, .timeout = 300)
{
    struct scratch s;
    uint64_t nth = 1, step = getenv("PLIMSOLL_SLOW_TESTS") ? 7 : 97;
    int failures = 0;
    scratch_make(&s);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "whole"));
    convert_well(&options, "", NULL);
    options.output_directory = scratch_path(&s, "failed");
    for (;; nth += step) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_parameters parameters = parameters_from("cpu_threads=1");
        struct plim_quantize_summary summary;
        struct plim_engine *engine;
        cr_assert_eq(plim_engine_open(&engine, "cpu", &parameters, NULL, &err), 0);
        plim_pool_fail_allocation(plim_engine_pool(engine), nth);
        int rc = plim_quantize(engine, &options, &summary, &err);
        struct plim_pool_refusal refusal;
        plim_pool_last_refusal(plim_engine_pool(engine), &refusal);
        if (rc < 0) {
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
            cr_assert_not_null(strstr(err.message, "the failure was injected"), "%s", err.message);
            cr_assert_null(summary.modules);
            failures++;
        } else {
            cr_assert_not(refusal.valid, "allocation %zu failed and was swallowed", (size_t)nth);
        }
        plim_quantize_summary_release(&summary, engine);
        cr_assert_eq(plim_engine_close(engine), 0, "allocation %zu: pool blocks leaked", (size_t)nth);
        if (rc == 0)
            break;
    }
    cr_assert_gt(failures, 3);
    check_same_model(scratch_path(&s, "whole"), scratch_path(&s, "failed"));
    scratch_remove(&s);
}

/* ---- bad input ---- */

static void expect_input_refused(const struct plim_quantize_options *changed, const char *text)
{
    struct scratch s;
    scratch_make(&s);
    struct plim_quantize_options options = *changed;
    options.output_directory = scratch_path(&s, "out");
    expect_refusal(&options, text);
    cr_assert_not(plim_path_exists(scratch_path(&s, "out")), "half an output was left");
    scratch_remove(&s);
}

Test(job, bad_input_is_one_clear_error)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_quantize_options options = quick_options("");
    struct plim_quantize_options changed = options;
    static const char text[] = "a few words, far too few for calibration";

    scratch_make(&s);
    changed.bits_per_weight = 1;
    expect_input_refused(&changed, "2.");   /* the reachable range */
    changed.bits_per_weight = NAN;
    expect_input_refused(&changed, "bits per weight");
    changed = options;
    changed.head_bits = 7;
    expect_input_refused(&changed, "head bits 7");
    changed = options;
    changed.rows = 9;
    expect_input_refused(&changed, "input_ids is 8 x 256, 9 rows of 48 tokens are needed");
    changed = options;
    changed.calibration = scratch_path(&s, "short.txt");
    cr_assert_eq(plim_write_file(changed.calibration, text, sizeof text - 1, &err), 0);
    expect_input_refused(&changed, "tokens found, 96 needed");
    changed.calibration = scratch_path(&s, "lines.jsonl");
    cr_assert_eq(plim_write_file(changed.calibration, "{\"text\": \"one\"}\n\n{\"txt\": 2}\n", 28, &err), 0);
    expect_input_refused(&changed, "line 3: text");
    changed.calibration = scratch_path(&s, "notes.pdf");
    expect_input_refused(&changed, "expected a .txt, .jsonl or .safetensors file");
    changed.calibration = scratch_path(&s, "ids.safetensors");
    write_ids(changed.calibration, 2, 48, 100000);
    expect_input_refused(&changed, "expected 0 to 299 (the vocabulary)");
    changed = options;
    changed.model_directory = FIXTURES "/exl2-4.0";
    expect_input_refused(&changed, "is quantised already");
    changed = options;
    changed.measurement = FIXTURES "/reference.json";
    expect_input_refused(&changed, "measurement");
    scratch_remove(&s);
}

static void expect_bad_weight(const char *tensor, const char *text)
{
    struct model_copy copy;
    model_copy_make(&copy, DENSE, &(struct edit){ EDIT_VALUE_F16, tensor, .index = 5, .value = 0x7e00 }, 1, NULL, NULL);
    struct scratch s;
    scratch_make(&s);
    struct plim_quantize_options options = quick_options(scratch_path(&s, "out"));
    options.model_directory = copy.directory;
    expect_refusal(&options, text);
    model_copy_remove(&copy);
    scratch_remove(&s);
}

Test(job, weights_that_are_no_numbers_are_named)
{
    expect_bad_weight("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight");
    expect_bad_weight("model.layers.0.input_layernorm.weight", "model.layers.0.input_layernorm.weight");
    expect_bad_weight("lm_head.weight", "lm_head.weight");
}

/* Texts of both kinds, and the built-in mix, through the tokenizer. */
Test(job, calibrates_on_text)
{
    struct scratch s;
    struct plim_err err = PLIM_ERR_INIT;
    char text[6000], digest[3][33];
    static const char *const names[] = { "c.txt", "c.jsonl", NULL };
    scratch_make(&s);
    for (size_t i = 0; i < 2; i++) {
        size_t length = 0;
        for (int line = 0; line < 40; line++)
            length += (size_t)snprintf(text + length, sizeof text - length,
                                       i ? "{\"id\": %d, \"text\": \"the end of the line %d\\n\"}\n"
                                         : "%.0dthe end of the line %d\n", line, line);
        cr_assert_eq(plim_write_file(scratch_path(&s, names[i]), text, length, &err), 0);
    }
    for (size_t i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "out%zu", i);
        struct plim_quantize_options options = quick_options(scratch_path(&s, name));
        options.calibration = names[i] ? scratch_path(&s, names[i]) : NULL;
        options.seed = 7;
        convert_well(&options, "", digest[i]);
    }
    cr_assert_str_neq(digest[0], digest[2]);
    scratch_remove(&s);
}
