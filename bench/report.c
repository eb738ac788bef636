#include "report.h"

#include <stdlib.h>
#include <string.h>

#include "markup.h"
#include "report_parts.h"
#include "version.h"

void report_put_id(FILE *out, const char *id)
{
    char piece[200];
    while (*id) {
        size_t length = strcspn(id, "/,=");
        length += id[length] != '\0';
        snprintf(piece, sizeof piece, "%.*s", (int)length, id);
        markup_put(out, piece);
        id += length;
        if (*id)
            fputs("<wbr/>", out);
    }
}

void report_fold(FILE *out, size_t count, const char *what)
{
    fprintf(out, "<details class=\"fold\"><summary>%zu more %s</summary>\n", count, what);
}

static void put_head(const struct report_input *input, FILE *out)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\"><head><meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>",
          out);
    markup_printf(out, "%s: Plimsoll report", input->result->suite_name);
    fputs("</title>\n<style>\n", out);
    fputs(report_style, out);
    fputs("</style></head><body>\n", out);
}

static void put_sources(const struct report_input *input, FILE *out)
{
    const struct comparison *c = input->comparison;
    fputs("<footer>", out);
    if (input->result->path) {
        fputs("Result: ", out);
        markup_put(out, input->result->path);
    }
    for (size_t i = 0; c && i < c->baseline_count; i++) {
        fputs(i ? ", " : ". Before: ", out);
        markup_put(out, c->baseline_paths[i] ? c->baseline_paths[i] : "");
    }
    fputs(". Made by plimsoll ", out);
    markup_put(out, plim_version);
    fputs(".</footer>\n", out);
}

/* Everything but the cases, whose room is what the rest leaves. */
static int put_charts(const struct report_input *input, FILE *out, struct plim_err *err)
{
    report_summary(input, out);
    if (report_memory(input, out, err) < 0 || report_traces(input, out, err) < 0 ||
        report_fronts(input, out, err) < 0 || report_curves(input, out, err) < 0 || report_timings(input, out, err) < 0)
        return -1;
    report_environment(input, out);
    return 0;
}

int report_write(const struct report_input *input, FILE *out, struct plim_err *err)
{
    char *charts = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&charts, &bytes);
    if (!stream)
        return plim_err_errno(err, "writing the report");
    put_head(input, stream);
    int rc = put_charts(input, stream, err);
    if (fclose(stream) != 0 && rc == 0)
        rc = plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for the report");
    if (rc == 0) {
        fwrite(charts, 1, bytes, out);
        size_t tail = 4000;   /* the footer */
        rc = report_cases(input, bytes + tail < REPORT_BYTES_LIMIT ? REPORT_BYTES_LIMIT - bytes - tail : 0, out, err);
        put_sources(input, out);
        fputs("</body></html>\n", out);
    }
    free(charts);
    return rc;
}
