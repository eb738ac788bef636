/* Lying bars, so that their labels can be read: rows, headings and labels of all plots that have them. */

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plot_parts.h"
#include "table.h"

int plot_rows_add(struct plot_rows *rows, const struct plot_case *item, struct plim_err *err)
{
    for (size_t i = 0; i < rows->count; i++) {
        if (strcmp(rows->items[i].like->label, item->label) == 0)
            return plim_err_input(err, "%s and %s are one bar: add what tells them apart to \"groups\"",
                                  rows->items[i].like->c->id, item->c->id);
    }
    struct plot_row *items = heap_room(rows->items, rows->count, sizeof *items, err);
    if (!items)
        return -1;
    rows->items = items;
    items[rows->count++] = (struct plot_row){ .like = item };
    rows->grouped |= *item->rest != '\0';
    return 0;
}

/* Rows from the top, bars with one first value together, in the order in which they appear. */
void plot_rows_lay_out(struct plot_rows *rows)
{
    double y = 0;
    for (size_t i = 0; i < rows->count; i++)
        rows->items[i].y = -1;
    for (size_t i = 0; i < rows->count; i++) {
        if (rows->items[i].y >= 0)
            continue;
        const char *first = rows->items[i].like->first;
        if (rows->grouped && rows->heading_count < PLOT_HEADING_LIMIT) {
            rows->headings[rows->heading_count].text = first;
            rows->headings[rows->heading_count++].y = y + 0.15;
            y += 0.85;
        }
        for (size_t k = i; k < rows->count; k++) {
            if (!rows->grouped ? k == i : strcmp(rows->items[k].like->first, first) == 0)
                rows->items[k].y = y++;
        }
        y += rows->grouped ? 0.25 : 0;
    }
    rows->height = y;
}

static const char *row_label(const struct plot_rows *rows, const struct plot_row *row)
{
    const char *label = rows->grouped ? row->like->rest : row->like->label;
    return *label ? label : row->like->c->id;
}

void plot_rows_put(FILE *out, const struct plot_rows *rows)
{
    size_t n = rows->count, widest = 0;
    char number[32];
    fprintf(out, "bars = %zu\narray bar_y[%zu]\narray bar_label[%zu]\narray bar_note[%zu]\n", n, n, n, n);
    for (size_t i = 0; i < n; i++) {
        const struct plot_row *row = &rows->items[i];
        fprintf(out, "bar_y[%zu] = %s; bar_label[%zu] = ", i + 1, format_number(number, sizeof number, row->y), i + 1);
        put_quoted(out, row_label(rows, row));
        size_t columns = text_columns(row_label(rows, row));
        widest = columns > widest ? columns : widest;
        fprintf(out, "; bar_note[%zu] = ", i + 1);
        put_quoted(out, row->like->c->outcome == OUTCOME_OK ? "" : outcome_name(row->like->c->outcome));
        fputc('\n', out);
    }
    size_t h = rows->heading_count;
    for (size_t i = 0; i < h; i++) {
        size_t columns = text_columns(rows->headings[i].text);
        widest = columns > widest ? columns : widest;
    }
    put_real(out, "label_columns", (double)(widest < 60 ? widest : 60));
    fprintf(out, "headings = %zu\narray heading[%zu]\narray heading_y[%zu]\n", h, h ? h : 1, h ? h : 1);
    for (size_t i = 0; i < h; i++) {
        fprintf(out, "heading_y[%zu] = %s; heading[%zu] = ", i + 1,
                format_number(number, sizeof number, rows->headings[i].y), i + 1);
        put_quoted(out, rows->headings[i].text);
        fputc('\n', out);
    }
}

void plot_rows_release(struct plot_rows *rows)
{
    free(rows->items);
    *rows = (struct plot_rows){ 0 };
}
