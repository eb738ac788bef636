#include "history_plot.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/file.h"
#include "plot_parts.h"
#include "table.h"

/* "history-smoke-tiny-decode-decode_tokens_per_s": a plain file name. */
static char *make_name(const struct series *s, struct plim_err *err)
{
    char *name = heap_printf(err, "history-%s-%.120s-%s", s->suite, s->case_id, s->metric);
    for (char *at = name; at && *at; at++) {
        if (!isalnum((unsigned char)*at) && !strchr("._-+", *at))
            *at = '-';
    }
    return name;
}

/* Index, value, the level it belongs to, revision. */
static void put_data(FILE *out, const struct series *s, double scale)
{
    double level = s->changes.count ? s->changes.items[0].before : s->changes.last_level;
    size_t next = 0;
    fprintf(out, "# point\tvalue\tlevel\trevision\n");
    for (size_t i = 0; i < s->count; i++) {
        if (next < s->changes.count && s->changes.items[next].index == i) {
            fputc('\n', out);   /* breaks the line of levels */
            level = s->changes.items[next++].after;
        }
        fprintf(out, "%zu\t%.9g\t%.9g\t%.8s\n", i, s->points[i].value / scale, level / scale, s->points[i].revision);
    }
}

static void put_preamble(FILE *out, const struct series *s, const char *name, const char *formats, const char *unit)
{
    char text[200];
    fprintf(out, "# Drawn by plimsoll history plot. To redraw, in this directory: gnuplot %s.gp\n\n", name);
    put_variable(out, "name", name);
    fprintf(out, "data = name . '.tsv'\n");
    put_variable(out, "formats", formats);
    put_variable(out, "title", s->case_id);
    snprintf(text, sizeof text, "%s   (%s%s%s)", s->metric, s->suite, *s->machine_class ? ", " : "", s->machine_class);
    put_variable(out, "subtitle", text);
    put_variable(out, "unit", *unit ? unit : s->metric);
    fprintf(out, "points = %zu\nchanges = %zu\n", s->count, s->changes.count);
    fprintf(out, "array change_at[%zu]\narray change_text[%zu]\narray change_worse[%zu]\n", s->changes.count + 1,
            s->changes.count + 1, s->changes.count + 1);
    for (size_t i = 0; i < s->changes.count; i++) {
        const struct change_point *c = &s->changes.items[i];
        double worse = series_worsening(s, c);
        fprintf(out, "change_at[%zu] = %zu\nchange_worse[%zu] = %d\n", i + 1, c->index, i + 1, worse > 0);
        if (s->class == METRIC_EXACT && isfinite(c->after - c->before))
            format_difference(text, sizeof text, c->after - c->before, s->unit);
        else
            snprintf(text, sizeof text, "%+.1f%%", 100 * (c->after / c->before - 1));
        fprintf(out, "change_text[%zu] = ", i + 1);
        char label[260];
        snprintf(label, sizeof label, "%.8s  %s", s->points[c->index].revision, text);
        put_quoted(out, label);
        fputc('\n', out);
    }
}

static int write_text(const char *directory, const char *name, const char *ending, const char *text,
                      struct plim_err *err)
{
    char *path = heap_printf(err, "%s/%s%s", directory, name, ending);
    int rc = path ? plim_write_file(path, text, strlen(text), err) : -1;
    free(path);
    return rc;
}

int history_plot_write(const struct series *s, const char *directory, const char *formats, char **name,
                       struct plim_err *err)
{
    struct plot_text text = { 0 };
    struct plot_streams streams = { 0 };
    char *style = NULL, *own = NULL, *script = NULL;
    double most = 0;
    int rc = -1;

    *name = make_name(s, err);
    if (!*name)
        return -1;
    for (size_t i = 0; i < s->count; i++)
        most = fmax(most, s->points[i].value);
    struct plot_unit unit = plot_unit_for(s->unit, most);
    int opened = plot_streams_open(&streams, &text, err);
    if (opened == 0) {
        put_data(streams.data, s, unit.scale);
        put_preamble(streams.preamble, s, *name, formats, unit.unit);
    }
    if (plot_streams_close(&streams, err) < 0 || opened < 0)
        goto out;
    if (!(style = plot_read_style("style.gp", err)) || !(own = plot_read_style("history.gp", err)))
        goto out;
    script = heap_printf(err, "%s\n# ---- style.gp\n\n%s\n# ---- history.gp\n\n%s", text.preamble, style, own);
    if (!script)
        goto out;
    if (write_text(directory, *name, ".tsv", text.data, err) < 0 ||
        write_text(directory, *name, ".gp", script, err) < 0)
        goto out;
    rc = 0;

out:
    if (rc < 0) {
        free(*name);
        *name = NULL;
    }
    free(script);
    free(own);
    free(style);
    free(text.data);
    free(text.preamble);
    return rc;
}
