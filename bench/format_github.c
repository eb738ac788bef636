/* GitHub Actions workflow commands: "::error title=...::message", which the Actions page and the pull request show. */

#include <math.h>
#include <string.h>

#include "format.h"
#include "table.h"

#define ANNOTATION_LIMIT 10   /* of each level; GitHub drops the rest of a step's */

void format_github_text(FILE *out, const char *text, bool property)
{
    for (; *text; text++) {
        if (*text == '%' || *text == '\r' || *text == '\n' || (property && (*text == ':' || *text == ',')))
            fprintf(out, "%%%02X", (unsigned)(unsigned char)*text);
        else
            fputc(*text, out);
    }
}

static void put_annotation(FILE *out, const char *level, const char *suite, const struct finding *f)
{
    char before[48], after[48], change[48], title[400];
    snprintf(title, sizeof title, "plimsoll %s: %s %s", suite, finding_case_id(f), verdict_name(f->verdict));
    fprintf(out, "::%s title=", level);
    format_github_text(out, title, true);
    fputs("::", out);
    if (*finding_metric(f)) {
        format_github_text(out, finding_metric(f), false);
        fputs(": ", out);
        if (isfinite(f->baseline_value) && isfinite(f->result_value)) {
            format_github_text(out, format_value(before, sizeof before, f->baseline_value, finding_unit(f)), false);
            fputs(" -> ", out);
            format_github_text(out, format_value(after, sizeof after, f->result_value, finding_unit(f)), false);
            fputs(" (", out);
            format_github_text(out, finding_change(change, sizeof change, f), false);
            fputs(") ", out);
        }
    }
    format_github_text(out, f->detail, false);
    fputc('\n', out);
}

void format_github(const struct comparison *c, int exit_status, FILE *out)
{
    size_t errors = 0, warnings = 0;
    for (size_t i = 0; i < c->finding_count; i++) {
        const struct finding *f = &c->findings[i];
        if (finding_is_bad(f) && ++errors < ANNOTATION_LIMIT)   /* one is left for the conclusion */
            put_annotation(out, "error", c->suite_name, f);
        else if ((f->verdict == VERDICT_WARN || f->verdict == VERDICT_STALE || f->verdict == VERDICT_MISSING) &&
                 ++warnings <= ANNOTATION_LIMIT)
            put_annotation(out, "warning", c->suite_name, f);
    }
    fprintf(out, "::%s title=plimsoll ", exit_status == 0 ? "notice" : "error");
    format_github_text(out, c->suite_name, true);
    fprintf(out, "::%s: ", comparison_conclusion(c, exit_status));
    comparison_print_counts(c, out);
    fputc('\n', out);
}
