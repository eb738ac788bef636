/* Findings as comma-separated values: RFC 4180, numbers in base units as the shortest text that reads back the same. */

#include <math.h>
#include <string.h>

#include "format.h"

void format_csv_text(FILE *out, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void put_number(FILE *out, double value)
{
    char text[40];
    fprintf(out, ",%s", isfinite(value) ? format_number(text, sizeof text, value) : "");
}

static void put_finding(FILE *out, const char *suite, const struct finding *f)
{
    const struct result_case *c = f->result_case ? f->result_case : f->baseline_case;
    bool metric = *finding_metric(f), timing = f->slowdown.estimate > 0;
    const char *texts[] = {
        suite, finding_case_id(f), c && c->model ? c->model : "", c && c->workload ? c->workload : "",
        finding_metric(f), metric ? metric_class_name(f->class) : "", finding_unit(f), verdict_name(f->verdict),
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fputs(i ? "," : "", out);
        format_csv_text(out, texts[i]);
    }
    put_number(out, metric ? f->baseline_value : NAN);
    put_number(out, metric ? f->result_value : NAN);
    put_number(out, timing ? f->slowdown.estimate : NAN);
    put_number(out, timing ? f->slowdown.low : NAN);
    put_number(out, timing ? f->slowdown.high : NAN);
    fputc(',', out);
    format_csv_text(out, f->detail);
    fputs("\r\n", out);
}

void format_csv(const struct comparison *c, FILE *out)
{
    fputs("suite,case,model,workload,metric,class,unit,verdict,baseline,result,slowdown,slowdown_low,slowdown_high,"
          "detail\r\n",
          out);
    for (size_t i = 0; i < c->finding_count; i++)
        put_finding(out, c->suite_name, &c->findings[i]);
}
