#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

#include "plimsoll/cpu.h"
#include "plimsoll/parameters.h"

static struct plim_parameters defaults(void)
{
    struct plim_parameters parameters;
    plim_parameters_default(&parameters);
    return parameters;
}

static void set_ok(struct plim_parameters *parameters, const char *name, const char *text)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_parameters_set(parameters, name, text, &err), 0, "%s", err.message);
}

static void set_refused(const char *name, const char *text, const char *message)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = defaults(), before = defaults();
    cr_assert_eq(plim_parameters_set(&parameters, name, text, &err), -1, "%s=%s was accepted", name, text);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert_str_eq(err.message, message);
    cr_assert_eq(memcmp(&parameters, &before, sizeof before), 0, "a refused value changed something");
}

Test(parameters, the_table_is_whole_and_in_the_order_of_the_enum)
{
    const char *const *names = plim_parameter_names();
    for (enum plim_parameter p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        const struct plim_parameter_row *row = plim_parameter_row(p);
        enum plim_parameter found;
        struct plim_err err = PLIM_ERR_INIT;
        cr_assert_not_null(row->name);
        cr_assert_str_eq(names[p], row->name);
        cr_assert(row->unit && row->help && *row->help && row->origin, "%s", row->name);
        cr_assert_eq(plim_parameter_find(row->name, &found, &err), 0);
        cr_assert_eq(found, p);
        if (row->type == PLIM_TYPE_COUNT) {
            cr_assert_leq(row->low, row->high);
            cr_assert(row->default_count == -1 ||
                      (row->default_count >= row->low && row->default_count <= row->high));
        }
        cr_assert_eq(row->choices != NULL || row->check != NULL, row->type == PLIM_TYPE_CHOICE || row->type == PLIM_TYPE_TEXT);
    }
    cr_assert_null(names[PLIM_PARAMETER_COUNT]);
}

/* What is printed is read back as the same value, for the default and for other values of every row. */
Test(parameters, every_row_makes_the_round_trip_through_text)
{
    static const int64_t counts[] = { 1, 32, 33, 100, 1000, 1024, 1536, 2048, 4096, 1 << 20, 600000000, 3 << 28,
                                      (int64_t)1 << 40 };
    static const char *const checked[] = { "auto", "10", "20,9.5,6000Mi", NULL };   /* gpu_split is the only one */
    for (enum plim_parameter p = 0; p < PLIM_PARAMETER_COUNT; p++) {
        const struct plim_parameter_row *row = plim_parameter_row(p);
        struct plim_parameters from = defaults();
        size_t tried = 0, values = row->type == PLIM_TYPE_COUNT ? sizeof counts / sizeof *counts + 1 : 40;
        for (size_t i = 0; i < values; i++) {
            struct plim_parameters to = defaults();
            struct plim_err err = PLIM_ERR_INIT;
            char text[64];
            if (i > 0 && row->type == PLIM_TYPE_COUNT) {
                if (counts[i - 1] < row->low || counts[i - 1] > row->high)
                    continue;
                from.count[p] = counts[i - 1];
            } else if (i > 0 && row->type == PLIM_TYPE_SWITCH) {
                from.count[p] = i & 1;
            } else if (i > 0 && row->check) {
                if (!checked[i - 1])
                    break;
                snprintf(from.text[p], sizeof from.text[p], "%s", checked[i - 1]);
            } else if (i > 0 && !row->choices[i - 1]) {
                break;
            } else if (i > 0 && row->type == PLIM_TYPE_CHOICE) {
                from.count[p] = (int64_t)i - 1;
            } else if (i > 0) {
                snprintf(from.text[p], sizeof from.text[p], "%s", row->choices[i - 1]);
            }
            plim_parameters_format(&from, p, text, sizeof text);
            cr_assert_eq(plim_parameters_set(&to, row->name, text, &err), 0, "%s", err.message);
            cr_assert_eq(to.count[p], from.count[p], "%s=%s", row->name, text);
            cr_assert_str_eq(to.text[p], from.text[p]);
            cr_assert(to.set[p]);
            tried++;
        }
        cr_assert_gt(tried, 0, "%s", row->name);
    }
}

Test(parameters, a_split_is_auto_or_sizes)
{
    static const char *const bad[] = { "automatic", "1,", ",1", "1,,2", "0", "1,0", "-1", "1 2", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                                       "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1" };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_split split;

    cr_assert_eq(plim_split_parse("", &split, &err), 0);
    cr_assert(!split.automatic && split.count == 1);
    cr_assert_eq(plim_split_parse("auto", &split, &err), 0);
    cr_assert(split.automatic);
    cr_assert_eq(plim_split_parse("20,9.5,6000Mi", &split, &err), 0);
    cr_assert(!split.automatic && split.count == 3);
    cr_assert_eq(split.bytes[0], (uint64_t)20 << 30);
    cr_assert_eq(split.bytes[1], (uint64_t)19 << 29);
    cr_assert_eq(split.bytes[2], (uint64_t)6000 << 20);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct plim_parameters parameters = defaults();
        cr_expect_eq(plim_parameters_set(&parameters, "gpu_split", bad[i], &err), -1, "%s", bad[i]);
        cr_expect_eq(err.kind, PLIM_ERR_INPUT);
        plim_err_clear(&err);
    }
}

Test(parameters, values_as_people_write_them)
{
    struct plim_parameters parameters = defaults();
    char text[32];
    set_ok(&parameters, "max-dq-size", "512Ki");
    cr_assert_eq(parameters.count[PLIM_MAX_DQ_SIZE], 512 * 1024);
    cr_assert_str_eq(plim_parameters_format(&parameters, PLIM_MAX_DQ_SIZE, text, sizeof text), "512Ki");
    set_ok(&parameters, "low_mem", "on");
    set_ok(&parameters, "dq_mode", "gated");
    cr_assert_eq(parameters.count[PLIM_DQ_MODE], PLIM_DQ_GATED);
    set_ok(&parameters, "blas_core", "skylakex");
    cr_assert_str_eq(parameters.text[PLIM_BLAS_CORE], "SkylakeX");
    set_ok(&parameters, "blas_core", "");
    cr_assert_str_eq(parameters.text[PLIM_BLAS_CORE], "");
    set_ok(&parameters, "memory_budget", "1.5Gi");
    set_ok(&parameters, "max_input_len", "2048");
    cr_assert_str_eq(plim_parameters_format(&parameters, PLIM_MAX_INPUT_LEN, text, sizeof text), "2048");
    set_ok(&parameters, "kv_cache", "fp16");
    cr_assert(parameters.set[PLIM_KV_CACHE] && !parameters.set[PLIM_DQ_ROWS]);
}

Test(parameters, bad_values_are_refused_with_what_would_be_right)
{
    set_refused("max_dq_sise", "1", "unknown parameter max_dq_sise; did you mean max_dq_size?");
    set_refused("temperature", "1", "unknown parameter temperature; `plimsoll parameters` lists them");
    set_refused("max_dq_size", "31", "max_dq_size: 31 is out of range; expected 32 to 1 Ti elements");
    set_refused("max_input_len", "0", "max_input_len: 0 is out of range; expected 1 to 1 Mi tokens");
    set_refused("max_input_len", "auto",
                "max_input_len: \"auto\" is not a count; write it like 4096, 512Mi, 1.5Gi or 6e8");
    set_refused("low_mem", "yes", "low_mem: \"yes\" is neither on nor off");
    set_refused("dq_mode", "gatd", "dq_mode: unknown value \"gatd\"; did you mean gated?");
    set_refused("dq_mode", "", "dq_mode: unknown value \"\"; one of: chunked, gated");
    set_refused("blas_core", "Haswel", "blas_core: unknown value \"Haswel\"; did you mean Haswell?");
}

/* Any build reads a suite for a GPU; one without CUDA refuses to run it. */
Test(parameters, what_a_build_lacks_is_refused_only_where_it_would_run)
{
    static const char *const cuda_only[][3] = {
        { "cuda_module_loading", "lazy", "cuda_module_loading: cannot be set: the CUDA backend is not part of this build" },
        { "backend", "cuda", "backend: cuda cannot be had: the CUDA backend is not part of this build" },
    };
    for (size_t i = 0; i < 2; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_parameters parameters = defaults();
        cr_assert_eq(plim_parameters_available(&parameters, &err), 0, "%s", err.message);
        set_ok(&parameters, cuda_only[i][0], cuda_only[i][1]);
#ifdef PLIMSOLL_HAVE_CUDA
        cr_assert_eq(plim_parameters_available(&parameters, &err), 0, "%s", err.message);
#else
        cr_assert_eq(plim_parameters_available(&parameters, &err), -1);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
        cr_assert_str_eq(err.message, cuda_only[i][2]);
#endif
    }
}

Test(parameters, resolving_decides_what_is_open)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters = defaults();
    cr_assert_eq(plim_parameters_resolve(&parameters, &err), 0, "%s", err.message);
    cr_assert_eq(parameters.count[PLIM_CPU_THREADS], plim_cpu_core_count());
    cr_assert_eq(parameters.count[PLIM_MAX_INPUT_LEN], 2048);
    cr_assert_eq(parameters.count[PLIM_MAX_ATTENTION_SIZE], 2048 * 2048);

    parameters = defaults();
    set_ok(&parameters, "cpu_threads", "3");
    set_ok(&parameters, "low_mem", "on");
    set_ok(&parameters, "max_input_len", "4096");
    set_ok(&parameters, "max_attention_size", "1000");
    cr_assert_eq(plim_parameters_resolve(&parameters, &err), 0, "%s", err.message);
    cr_assert_eq(parameters.count[PLIM_CPU_THREADS], 3);
    cr_assert_eq(parameters.count[PLIM_MAX_INPUT_LEN], 1024, "low_mem caps what was given");
    cr_assert_eq(parameters.count[PLIM_MAX_ATTENTION_SIZE], 1000, "and leaves what is smaller");

    parameters.count[PLIM_DQ_ROWS] = -5;
    cr_assert_eq(plim_parameters_resolve(&parameters, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INTERNAL);
}
