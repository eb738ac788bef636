/* Tables: alignment in terminal columns, escapes, and values as people read them. */

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "table.h"

static char *print(const struct table *t, bool colours, bool markdown)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    cr_assert_eq(markdown ? table_print_markdown(t, out, &err) : table_print(t, out, colours, &err), 0);
    fclose(out);
    return text;
}

static void fill(struct table *t)
{
    table_column(t, "name", TABLE_LEFT);
    table_column(t, "n", TABLE_RIGHT);
    table_column(t, "why", TABLE_LEFT);
    table_cell(t, STYLE_PLAIN, "caf\xC3\xA9");
    table_cell(t, STYLE_BAD, "%d", 12345);
    table_cell(t, STYLE_DIM, "a\nb\033[31m");
    table_cell(t, STYLE_PLAIN, "\xE6\xBC\xA2\xE5\xAD\x97");   /* two wide characters, four columns */
    table_cell(t, STYLE_PLAIN, "|7");
    table_end_row(t);
    table_end_row(t);
}

Test(table, aligns_in_terminal_columns_and_drops_control_characters)
{
    struct table t = TABLE_INIT;
    fill(&t);
    char *text = print(&t, false, false);
    cr_assert_str_eq(text, "name      n  why\n"
                           "caf\xC3\xA9  12345  a b [31m\n"
                           "\xE6\xBC\xA2\xE5\xAD\x97     |7  \n");
    free(text);
    table_release(&t);
}

Test(table, colours_do_not_move_columns)
{
    struct table t = TABLE_INIT;
    fill(&t);
    char *text = print(&t, true, false);
    cr_assert_not_null(strstr(text, "caf\xC3\xA9  \033[1;31m12345\033[0m  \033[2ma b [31m\033[0m\n"), "%s", text);
    free(text);
    table_release(&t);
}

Test(table, markdown_escapes_what_would_end_a_cell)
{
    struct table t = TABLE_INIT;
    fill(&t);
    char *text = print(&t, false, true);
    cr_assert_not_null(strstr(text, "| --- | ---: | --- |\n"));
    cr_assert_not_null(strstr(text, "| \\|7 |"), "%s", text);
    cr_assert_not_null(strstr(text, "| **12345** |"));
    free(text);
    table_release(&t);
}

Test(table, markdown_leaves_names_as_they_are)
{
    struct table t = TABLE_INIT;
    table_column(&t, "a", TABLE_LEFT);
    table_cell(&t, STYLE_PLAIN, "peak_kv_cache_bytes of _x_");
    table_cell(&t, STYLE_CODE, "max_dq_size|a*b");
    char *text = print(&t, false, true);
    cr_assert_not_null(strstr(text, "| peak_kv_cache_bytes of \\_x\\_ |\n"), "%s", text);
    cr_assert_not_null(strstr(text, "| `max_dq_size\\|a*b` |\n"), "%s", text);
    free(text);
    text = print(&t, true, false);
    cr_assert_not_null(strstr(text, "\nmax_dq_size|a*b\n"), "%s", text);
    free(text);
    table_release(&t);
}

Test(table, values_are_readable)
{
    static const struct {
        double value;
        const char *unit, *text;
    } cases[] = {
        { 0, "bytes", "0 B" },           { 1023, "bytes", "1023 B" },       { 1024, "bytes", "1.00 KiB" },
        { 1536 * 1024.0, "bytes", "1.50 MiB" }, { 1073741824.0 * 12, "bytes", "12.0 GiB" },
        { 1048575, "bytes", "1.00 MiB" }, { 1.5e9, "ns", "1.50 s" },        { 13.44e6, "ns", "13.4 ms" },
        { 870, "ns", "870 ns" },         { 12.34e9, "bytes/s", "12.3 GB/s" }, { 88.1e9, "flop/s", "88.1 GFLOP/s" },
        { 51.2345, "tokens/s", "51.23 tokens/s" }, { 1234567, "", "1234567" }, { 0.61234, "", "0.6123" },
    };
    char text[40];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        cr_assert_str_eq(format_value(text, sizeof text, cases[i].value, cases[i].unit), cases[i].text);
}

Test(table, differences_have_a_sign_and_small_ones_every_byte)
{
    char text[40];
    cr_assert_str_eq(format_difference(text, sizeof text, 4096, "bytes"), "+4096 B");
    cr_assert_str_eq(format_difference(text, sizeof text, -1, "bytes"), "-1 B");
    cr_assert_str_eq(format_difference(text, sizeof text, 48 * 1048576.0, "bytes"), "+48.0 MiB");
    cr_assert_str_eq(format_difference(text, sizeof text, -2, ""), "-2");
}
