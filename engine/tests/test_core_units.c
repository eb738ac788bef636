#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "plimsoll/err.h"
#include "plimsoll/units.h"

Test(units, counts_that_are_read)
{
    static const struct {
        const char *text;
        int64_t count;
    } cases[] = {
        { "0", 0 },
        { "536870912", 536870912 },
        { "512Mi", 536870912 },
        { "512MiB", 536870912 },
        { "1.5Gi", 1610612736 },
        { "6e8", 600000000 },
        { "6E8", 600000000 },
        { "6e+8", 600000000 },
        { "2K", 2000 },
        { "2Ki", 2048 },
        { "100B", 100 },
        { "0.5K", 500 },
        { ".5K", 500 },
        { "1.0000", 1 },
        { "0.0009765625Mi", 1024 },
        { "25e-1K", 2500 },
        { "3T", 3000000000000 },
        { "4Ti", (int64_t)4 << 40 },
        { "9223372036854775807", INT64_MAX },
        { "0e999999999", 0 },
        { "10000000000000000000e-3", 10000000000000000 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        int64_t count = -1;
        cr_assert_eq(plim_parse_count(cases[i].text, &count, &err), 0, "%s: %s", cases[i].text, err.message);
        cr_assert_eq(count, cases[i].count, "%s gave %lld", cases[i].text, (long long)count);
    }
}

Test(units, counts_that_are_refused)
{
    static const char *const cases[] = {
        "", " ", "-1", "+1", "x", "1 Mi", "1m", "1KB2", "1Mib", "1.5", "1.0001Ki", "0.1Gi", "1e", "1e+", "1..2", ".",
        "9223372036854775808", "8388608Ti", "1e19", "1e-1", "123456789012345678901234567890", "1e400", "12Pi",
        "1e-400", "0x10", "nan", "inf", "5,000",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct plim_err err = PLIM_ERR_INIT;
        int64_t count = -7;
        cr_assert_eq(plim_parse_count(cases[i], &count, &err), -1, "\"%s\" was read as %lld", cases[i],
                     (long long)count);
        cr_assert_eq(err.kind, PLIM_ERR_INPUT);
        cr_assert_eq(count, -7, "\"%s\" changed the output", cases[i]);
        cr_assert(strstr(err.message, cases[i]), "\"%s\" is not named in: %s", cases[i], err.message);
    }
}

Test(units, sizes_multiply_and_add_or_say_no)
{
    size_t out = 5;
    cr_assert(plim_size_mul(1u << 20, 1u << 20, &out));
    cr_assert_eq(out, (size_t)1 << 40);
    cr_assert_not(plim_size_mul((size_t)1 << 40, (size_t)1 << 40, &out));
    cr_assert_not(plim_size_add(SIZE_MAX, 1, &out));
    cr_assert_eq(out, (size_t)1 << 40);
    cr_assert(plim_size_add(SIZE_MAX - 1, 1, &out));
    cr_assert_eq(out, SIZE_MAX);
    cr_assert_eq(plim_round_up(65, 64), 128u);
    cr_assert_eq(plim_round_up(64, 64), 64u);
    cr_assert_eq(plim_ceil_div(65, 64), 2u);
    cr_assert_eq(plim_ceil_div(SIZE_MAX, 2), SIZE_MAX / 2 + 1);
}

static void bytes_read(uint64_t bytes, const char *wanted)
{
    char text[16];
    cr_assert_str_eq(plim_format_bytes(text, sizeof text, bytes), wanted);
}

Test(units, bytes_are_printed_in_three_digits)
{
    bytes_read(0, "0 B");
    bytes_read(512, "512 B");
    bytes_read(1023, "1023 B");
    bytes_read(1024, "1 KiB");
    bytes_read(1536, "1.5 KiB");
    bytes_read(10 * 1024 + 512, "10.5 KiB");
    bytes_read(1047552, "1023 KiB");
    bytes_read(1048575, "1 MiB");
    bytes_read(536870912, "512 MiB");
    bytes_read((uint64_t)3 << 29, "1.5 GiB");
    bytes_read(UINT64_MAX, "16 EiB");
}

Test(units, counts_and_durations_are_printed)
{
    char text[16];
    cr_assert_str_eq(plim_format_count(text, sizeof text, 300), "300");
    cr_assert_str_eq(plim_format_count(text, sizeof text, 536870912), "512 Mi");
    cr_assert_str_eq(plim_format_count(text, sizeof text, 1536), "1.5 Ki");
    cr_assert_str_eq(plim_format_duration(text, sizeof text, 870), "870 ns");
    cr_assert_str_eq(plim_format_duration(text, sizeof text, 13400000), "13.4 ms");
    cr_assert_str_eq(plim_format_duration(text, sizeof text, 1520000000), "1.52 s");
    cr_assert_str_eq(plim_format_duration(text, sizeof text, 999999), "1 ms");
    cr_assert_str_eq(plim_format_duration(text, sizeof text, 3600000000000), "3600 s");
}

Test(units, formatting_never_writes_past_the_buffer)
{
    for (size_t size = 1; size <= 16; size++) {
        char guarded[20];
        memset(guarded, 'x', sizeof guarded);
        plim_format_bytes(guarded, size, 1023u << 10);
        cr_assert_eq(guarded[size], 'x');
        cr_assert_lt(strlen(guarded), size);
    }
}

/* ---- errors ---- */

Test(err, the_first_error_wins_and_context_goes_in_front)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_err_exit_status(&err), 0);
    cr_assert_eq(plim_err_wrap(&err, "nothing"), -1);
    cr_assert_eq(err.kind, PLIM_ERR_NONE);
    plim_err_input(&err, "line %d", 3);
    plim_err_set(&err, PLIM_ERR_MEMORY, "later");
    plim_err_wrap(&err, "reading %s", "x.json");
    cr_assert_str_eq(err.message, "reading x.json: line 3");
    cr_assert_eq(plim_err_exit_status(&err), 2);
}

Test(err, long_messages_are_cut_with_dots_and_stay_one_line)
{
    struct plim_err err = PLIM_ERR_INIT;
    char text[1500];
    memset(text, 'a', sizeof text);
    text[3] = '\n';
    text[sizeof text - 1] = '\0';
    plim_err_input(&err, "%s", text);
    cr_assert_eq(strlen(err.message), sizeof err.message - 1);
    cr_assert_str_eq(err.message + strlen(err.message) - 4, "a...");
    cr_assert_null(strchr(err.message, '\n'));
    plim_err_wrap(&err, "outer");
    cr_assert_eq(strncmp(err.message, "outer: aaa ", 11), 0);
}
