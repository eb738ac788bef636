#include "table.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

struct table_cell {
    char *text;
    enum text_style style;
};

/* ---- styles ---- */

/* The eight basic colours only: every terminal has them, and people's own themes keep them readable. */
static const char *const style_codes[STYLE_COUNT] = { "", "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[1;31m", "" };

bool table_colours(FILE *stream)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    if ((no_color && *no_color) || (term && strcmp(term, "dumb") == 0))
        return false;
    return isatty(fileno(stream)) == 1;
}

const char *style_begin(enum text_style style, bool colours)
{
    return colours ? style_codes[style] : "";
}

const char *style_end(enum text_style style, bool colours)
{
    return *style_begin(style, colours) ? "\033[0m" : "";
}

size_t text_columns(const char *text)
{
    size_t columns = 0, left = strlen(text);
    while (left > 0) {
        utf8proc_int32_t point;
        utf8proc_ssize_t taken = utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)left, &point);
        if (taken <= 0) {   /* not UTF-8: terminals show a replacement character */
            taken = 1;
            columns++;
        } else {
            columns += (size_t)utf8proc_charwidth(point);
        }
        text += taken;
        left -= (size_t)taken;
    }
    return columns;
}

/* ---- building ---- */

void table_column(struct table *table, const char *title, enum table_align align)
{
    if (table->column_count == TABLE_COLUMN_LIMIT)
        return;
    table->titles[table->column_count] = title;
    table->aligns[table->column_count] = align;
    table->column_count++;
}

void table_cell(struct table *table, enum text_style style, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    if (table->failed)
        return;
    /* Room doubles at powers of two. */
    if ((table->cell_count & (table->cell_count - 1)) == 0) {
        size_t room = table->cell_count ? 2 * table->cell_count : 1;
        struct table_cell *moved = reallocarray(table->cells, room, sizeof *moved);
        if (!moved) {
            table->failed = true;
            return;
        }
        table->cells = moved;
    }
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (!text) {
        table->failed = true;
        return;
    }
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ')   /* line breaks, and escapes of text that others wrote */
            *c = ' ';
    }
    table->cells[table->cell_count++] = (struct table_cell){ text, style };
}

void table_end_row(struct table *table)
{
    while (!table->failed && table->column_count && table->cell_count % table->column_count != 0)
        table_cell(table, STYLE_PLAIN, "%s", "");
}

void table_release(struct table *table)
{
    for (size_t i = 0; i < table->cell_count; i++)
        free(table->cells[i].text);
    free(table->cells);
    *table = (struct table)TABLE_INIT;
}

/* ---- printing ---- */

static int check(const struct table *table, struct plim_err *err)
{
    if (table->failed)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a table");
    return 0;
}

static int finish(FILE *out, struct plim_err *err)
{
    if (fflush(out) != 0 || ferror(out))
        return plim_err_errno(err, "writing a table");
    return 0;
}

static void print_padded(const struct table *table, size_t column, size_t width, const struct table_cell *cell,
                         FILE *out, bool colours)
{
    size_t padding = width - text_columns(cell->text);
    bool right = table->aligns[column] == TABLE_RIGHT, last = column + 1 == table->column_count;
    fprintf(out, "%*s%s%s%s", right ? (int)padding : 0, "", style_begin(cell->style, colours), cell->text,
            style_end(cell->style, colours));
    if (last)
        fputc('\n', out);
    else
        fprintf(out, "%*s", 2 + (right ? 0 : (int)padding), "");
}

int table_print(const struct table *table, FILE *out, bool colours, struct plim_err *err)
{
    size_t widths[TABLE_COLUMN_LIMIT], n = table->column_count;
    if (check(table, err) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        widths[i] = text_columns(table->titles[i]);
    for (size_t i = 0; i < table->cell_count; i++) {
        size_t columns = text_columns(table->cells[i].text);
        if (columns > widths[i % n])
            widths[i % n] = columns;
    }
    for (size_t i = 0; i < n; i++) {
        struct table_cell title = { (char *)table->titles[i], STYLE_DIM };
        print_padded(table, i, widths[i], &title, out, colours);
    }
    for (size_t i = 0; i < table->cell_count; i++)
        print_padded(table, i % n, widths[i % n], &table->cells[i], out, colours);
    return finish(out, err);
}

/* In the middle of a word an underscore is no emphasis: metrics' names stay readable. */
static bool is_inside_word(const char *text, const char *at)
{
    return *at == '_' && at > text && (isalnum((unsigned char)at[-1]) || at[-1] == '_') &&
           (isalnum((unsigned char)at[1]) || at[1] == '_');
}

static void print_escaped(const char *text, FILE *out)
{
    for (const char *at = text; *at; at++) {
        if (strchr("|<>&\\`*_", *at) && !is_inside_word(text, at))
            fputc('\\', out);
        fputc(*at, out);
    }
}

/* A code span; in a table '|' ends even that one's cell. */
static void print_code(const char *text, FILE *out)
{
    fputc('`', out);
    for (; *text; text++) {
        if (*text == '|')
            fputc('\\', out);
        fputc(*text == '`' ? '\'' : *text, out);
    }
    fputc('`', out);
}

int table_print_markdown(const struct table *table, FILE *out, struct plim_err *err)
{
    size_t n = table->column_count;
    if (check(table, err) < 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        fprintf(out, "| %s %s", table->titles[i], i + 1 == n ? "|\n" : "");
    for (size_t i = 0; i < n; i++)
        fprintf(out, "| %s %s", table->aligns[i] == TABLE_RIGHT ? "---:" : "---", i + 1 == n ? "|\n" : "");
    for (size_t i = 0; i < table->cell_count; i++) {
        const struct table_cell *cell = &table->cells[i];
        bool bold = *cell->text && (cell->style == STYLE_BAD || cell->style == STYLE_WARN);
        fputs(bold ? "| **" : "| ", out);
        if (cell->style == STYLE_CODE && *cell->text)
            print_code(cell->text, out);
        else
            print_escaped(cell->text, out);
        fprintf(out, "%s %s", bold ? "**" : "", i % n + 1 == n ? "|\n" : "");
    }
    return finish(out, err);
}

/* ---- values ---- */

/* Three significant digits: 1.23, 12.3, 123. */
static int digits_after_point(double scaled)
{
    double magnitude = fabs(scaled);
    return magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0;
}

struct scale {
    double factor;
    const char *unit;
};

static char *format_scaled(char *buffer, size_t size, double value, const struct scale *scales, const char *sign_flag)
{
    /* 0.9995 so that 1023.6 KiB is printed as 1.00 MiB. */
    while (scales[1].unit && fabs(value) >= 0.9995 * scales[1].factor)
        scales++;
    double scaled = value / scales->factor;
    bool whole = scales->factor == 1 && scaled == floor(scaled);
    char format[16];
    snprintf(format, sizeof format, "%%%s.*f %%s", sign_flag);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(buffer, size, format, whole ? 0 : digits_after_point(scaled), scaled, scales->unit);
#pragma GCC diagnostic pop
    return buffer;
}

static const struct scale *find_scales(const char *unit)
{
    static const struct scale bytes[] = { { 1, "B" },
                                          { 1024.0, "KiB" },
                                          { 1024.0 * 1024, "MiB" },
                                          { 1024.0 * 1024 * 1024, "GiB" },
                                          { 1024.0 * 1024 * 1024 * 1024, "TiB" },
                                          { 0, NULL } };
    static const struct scale ns[] = { { 1, "ns" }, { 1e3, "µs" }, { 1e6, "ms" }, { 1e9, "s" }, { 0, NULL } };
    static const struct scale bytes_per_s[] = { { 1, "B/s" },     { 1e3, "kB/s" }, { 1e6, "MB/s" },
                                                { 1e9, "GB/s" }, { 1e12, "TB/s" }, { 0, NULL } };
    static const struct scale flops[] = { { 1, "FLOP/s" },     { 1e6, "MFLOP/s" },  { 1e9, "GFLOP/s" },
                                          { 1e12, "TFLOP/s" }, { 1e15, "PFLOP/s" }, { 0, NULL } };
    if (strcmp(unit, "bytes") == 0)
        return bytes;
    if (strcmp(unit, "ns") == 0)
        return ns;
    if (strcmp(unit, "bytes/s") == 0)
        return bytes_per_s;
    if (strcmp(unit, "flop/s") == 0)
        return flops;
    return NULL;
}

static char *format_plain(char *buffer, size_t size, double value, const char *unit, bool sign)
{
    char number[40];
    if ((value == floor(value) || fabs(value) >= 1000) && fabs(value) < 1e15)
        snprintf(number, sizeof number, sign ? "%+.0f" : "%.0f", value);
    else
        snprintf(number, sizeof number, sign ? "%+.4g" : "%.4g", value);
    snprintf(buffer, size, "%s%s%s", number, *unit ? " " : "", unit);
    return buffer;
}

char *format_value(char *buffer, size_t size, double value, const char *unit)
{
    const struct scale *scales = find_scales(unit);
    if (scales)
        return format_scaled(buffer, size, value, scales, "");
    return format_plain(buffer, size, value, unit, false);
}

char *format_difference(char *buffer, size_t size, double difference, const char *unit)
{
    const struct scale *scales = find_scales(unit);
    if (scales && strcmp(unit, "bytes") == 0 && fabs(difference) < 1024.0 * 1024)
        return format_plain(buffer, size, difference, "B", true);
    if (scales)
        return format_scaled(buffer, size, difference, scales, "+");
    return format_plain(buffer, size, difference, unit, true);
}
