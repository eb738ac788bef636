/* What the formats share: a finding's parts, and writing what was asked for. */

#include "format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "table.h"

const char *finding_case_id(const struct finding *f)
{
    return f->result_case ? f->result_case->id : f->baseline_case ? f->baseline_case->id : "";
}

const char *finding_metric(const struct finding *f)
{
    return f->result ? f->result->name : f->baseline ? f->baseline->name : "";
}

const char *finding_unit(const struct finding *f)
{
    return f->result ? f->result->unit : f->baseline ? f->baseline->unit : "";
}

bool finding_is_bad(const struct finding *f)
{
    return f->verdict == VERDICT_FAIL || f->verdict == VERDICT_BROKEN;
}

bool finding_is_news(const struct finding *f)
{
    return f->verdict >= VERDICT_STALE || f->verdict == VERDICT_IMPROVED || f->verdict == VERDICT_ALLOWED;
}

char *finding_change(char *buffer, size_t size, const struct finding *f)
{
    double change = f->result_value - f->baseline_value;
    buffer[0] = '\0';
    if (!isfinite(change) || !*finding_metric(f))
        return buffer;
    if (f->class != METRIC_TIMING && f->class != METRIC_SYSTEM)
        return format_difference(buffer, size, change, finding_unit(f));
    if (f->baseline_value != 0)
        snprintf(buffer, size, "%+.1f%%", 100 * change / f->baseline_value);
    return buffer;
}

const char *comparison_conclusion(const struct comparison *c, int exit_status)
{
    switch (exit_status) {
    case 0:
        return c->counts[VERDICT_INCONCLUSIVE] ? "no regression seen; some timings are inconclusive" : "no regression";
    case 1:
        return c->counts[VERDICT_FAIL] ? "regression" : "the baseline is stale or incomplete (--strict)";
    case 3:
        return c->compared_count ? "cannot compare everything that was asked for" : "nothing was compared";
    case 4:
        return "inconclusive (--strict)";
    case 5:
        return "a case is broken";
    case 6:
        return "the gate's own control failed";
    default:
        return "";
    }
}

void comparison_print_counts(const struct comparison *c, FILE *out)
{
    static const enum verdict order[] = { VERDICT_BROKEN,       VERDICT_FAIL,     VERDICT_INVALID_OUTPUT,
                                          VERDICT_WARN,         VERDICT_STALE,
                                          VERDICT_INCONCLUSIVE, VERDICT_ALLOWED,  VERDICT_IMPROVED, VERDICT_PASS, VERDICT_MISSING,
                                          VERDICT_NEW,          VERDICT_SKIPPED };
    const char *separator = "";
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        enum verdict v = order[i];
        if (!c->counts[v])
            continue;
        fprintf(out, "%s%zu %s", separator, c->counts[v],
                v == VERDICT_FAIL ? "FAIL" : v == VERDICT_BROKEN ? "BROKEN" : verdict_name(v));
        separator = ", ";
    }
}

/* ---- writing ---- */

enum { OPTION_JUNIT = 2000, OPTION_CSV, OPTION_GITHUB };

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct format_outputs *outputs = state->input;
    switch (key) {
    case OPTION_JUNIT:
        outputs->junit = text;
        return 0;
    case OPTION_CSV:
        outputs->csv = text;
        return 0;
    case OPTION_GITHUB:
        outputs->github = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    { "junit", OPTION_JUNIT, "FILE", 0, "Also write JUnit XML", 0 },
    { "csv", OPTION_CSV, "FILE", 0, "Also write every finding as CSV", 0 },
    { "github", OPTION_GITHUB, NULL, 0, "Also print GitHub Actions annotations", 0 },
    { 0 }
};

const struct argp format_argp = { options, parse_option, NULL, NULL, NULL, NULL, NULL };

static int write_to(const char *path, void (*format)(const struct comparison *, FILE *),
                    const struct comparison *comparison, struct plim_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    int rc = -1;
    FILE *stream = open_memstream(&text, &bytes);
    if (!stream)
        return plim_err_errno(err, "writing %s", path);
    format(comparison, stream);
    bool whole = !ferror(stream);
    if (fclose(stream) != 0 || !whole)
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for %s", path);
    else
        rc = plim_write_file(path, text, bytes, err);
    free(text);
    return rc;
}

int format_outputs_write(const struct format_outputs *outputs, const struct comparison *comparison, int exit_status,
                         struct plim_err *err)
{
    if (outputs->junit && write_to(outputs->junit, format_junit, comparison, err) < 0)
        return -1;
    if (outputs->csv && write_to(outputs->csv, format_csv, comparison, err) < 0)
        return -1;
    if (outputs->github)
        format_github(comparison, exit_status, stdout);
    return 0;
}
