#include "plot_sheet.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "plot.h"
#include "plot_parts.h"

int plot_sheet_open(struct plot_sheet *sheet, struct plim_err *err)
{
    sheet->data = open_memstream(&sheet->data_text, &sheet->data_bytes);
    sheet->preamble = open_memstream(&sheet->preamble_text, &sheet->preamble_bytes);
    if (!sheet->data || !sheet->preamble)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
    return 0;
}

static int close_streams(struct plot_sheet *sheet, struct plim_err *err)
{
    bool data_written = sheet->data && fclose(sheet->data) == 0;
    bool preamble_written = sheet->preamble && fclose(sheet->preamble) == 0;

    sheet->data = sheet->preamble = NULL;
    if (!data_written || !preamble_written)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
    return 0;
}

/* The script: a heading, the sheet's values, the common style and its own. */
static char *script_of(const struct plot_sheet *sheet, struct plim_err *err)
{
    char *style = plot_read_style("style.gp", err), *own = style ? plot_read_style(sheet->style, err) : NULL;
    char *script = NULL;
    size_t bytes;
    FILE *out = own ? open_memstream(&script, &bytes) : NULL;

    if (out) {
        fprintf(out, "# To redraw, in this directory: gnuplot %s.gp\n\n", sheet->name);
        put_variable(out, "name", sheet->name);
        fprintf(out, "data = name . '.tsv'\n");
        put_variable(out, "formats", sheet->formats);
        put_variable(out, "title", sheet->title);
        put_variable(out, "subtitle", sheet->subtitle);
        fprintf(out, "%s\n# ---- style.gp\n\n%s\n# ---- %s\n\n%s", sheet->preamble_text, style, sheet->style, own);
    }
    if (own && (!out || fclose(out) != 0)) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a plot");
        free(script);
        script = NULL;
    }
    free(own);
    free(style);
    return script;
}

static int write_file(const struct plot_sheet *sheet, const char *ending, const char *text, size_t bytes,
                      struct plim_err *err)
{
    char *path = heap_printf(err, "%s/%s.%s", sheet->directory, sheet->name, ending);
    int rc = path ? plim_write_file(path, text, bytes, err) : -1;

    free(path);
    return rc;
}

int plot_sheet_finish(struct plot_sheet *sheet, bool draw, struct plim_err *err)
{
    char *script = NULL;
    int rc = -1;

    if (close_streams(sheet, err) < 0 || !(script = script_of(sheet, err)) ||
        plim_make_directories(sheet->directory, err) < 0 ||
        write_file(sheet, "tsv", sheet->data_text, sheet->data_bytes, err) < 0 ||
        write_file(sheet, "gp", script, strlen(script), err) < 0)
        goto out;
    rc = draw ? plot_draw(sheet->directory, sheet->name, err) : 0;

out:
    free(script);
    free(sheet->data_text);
    free(sheet->preamble_text);
    sheet->data_text = sheet->preamble_text = NULL;
    return rc;
}
