/*
 * Findings as JUnit XML. There is no standard; this is the common subset that GitLab, Jenkins and the Actions reporters
 * read: testsuite, testcase with classname and name, failure, error, skipped, system-out.
 */

#include <math.h>

#include "format.h"
#include "markup.h"
#include "table.h"

static void put_message(FILE *out, const struct finding *f)
{
    char before[48], after[48], change[48];
    if (*finding_metric(f) && isfinite(f->baseline_value) && isfinite(f->result_value))
        markup_printf(out, "%s -> %s (%s)%s", format_value(before, sizeof before, f->baseline_value, finding_unit(f)),
                      format_value(after, sizeof after, f->result_value, finding_unit(f)),
                      finding_change(change, sizeof change, f), *f->detail ? ": " : "");
    markup_put(out, f->detail);
}

static void put_finding(FILE *out, const char *suite, const struct finding *f)
{
    const char *element = NULL, *metric = finding_metric(f);
    if (f->verdict == VERDICT_FAIL)
        element = "failure";
    else if (f->verdict == VERDICT_BROKEN)
        element = "error";
    else if (f->verdict == VERDICT_SKIPPED || f->verdict == VERDICT_NEW || f->verdict == VERDICT_INCONCLUSIVE)
        element = "skipped";
    fputs("    <testcase classname=\"", out);
    markup_printf(out, "%s.%s", suite, finding_case_id(f));
    fputs("\" name=\"", out);
    markup_put(out, *metric ? metric : "outcome");
    if (f->verdict == VERDICT_PASS) {
        fputs("\"/>\n", out);
        return;
    }
    fputs("\">", out);
    if (element) {
        fprintf(out, "<%s ", element);
        if (f->verdict == VERDICT_FAIL || f->verdict == VERDICT_BROKEN)
            fprintf(out, "type=\"%s\" ", verdict_name(f->verdict));
        fprintf(out, "message=\"%s: ", verdict_name(f->verdict));
        put_message(out, f);
        fputs("\"/>", out);
    } else {
        fprintf(out, "<system-out>%s: ", verdict_name(f->verdict));
        put_message(out, f);
        fputs("</system-out>", out);
    }
    fputs("</testcase>\n", out);
}

void format_junit(const struct comparison *c, FILE *out)
{
    const size_t *n = c->counts;
    char counts[160];
    snprintf(counts, sizeof counts, "tests=\"%zu\" failures=\"%zu\" errors=\"%zu\" skipped=\"%zu\"", c->finding_count,
             n[VERDICT_FAIL], n[VERDICT_BROKEN], n[VERDICT_SKIPPED] + n[VERDICT_NEW] + n[VERDICT_INCONCLUSIVE]);
    fprintf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"plimsoll\" %s>\n  <testsuite name=\"",
            counts);
    markup_put(out, c->suite_name);
    fprintf(out, "\" %s>\n", counts);
    for (size_t i = 0; i < c->finding_count; i++)
        put_finding(out, c->suite_name, &c->findings[i]);
    fputs("  </testsuite>\n</testsuites>\n", out);
}
