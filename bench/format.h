#ifndef PLIM_FORMAT_H
#define PLIM_FORMAT_H

/*
 * A comparison for other programs and for pull requests:
 *
 *     --junit FILE   JUnit XML, as CI systems read it: one test case a finding, grouped by case
 *     --csv FILE     RFC 4180, one line a finding, numbers in base units
 *     --github       GitHub Actions annotations on standard output
 *     --markdown     a short comment, details collapsed (comparison_print calls it)
 *
 * Findings are written in the order they have: sort first. Nothing here decides anything. The same for one result, where a
 * case is a test that fails when it did not end as its suite expects.
 */

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>

#include "compare.h"
#include "suite.h"

/* What `compare` and `gate` write besides what they print. */
struct format_outputs {
    const char *junit, *csv;   /* files; NULL: none */
    bool github;
};

/* The options above as an argp child; its input is a struct format_outputs. */
extern const struct argp format_argp;

/* Writes all that is asked for; files atomically. */
int format_outputs_write(const struct format_outputs *outputs, const struct comparison *comparison, int exit_status,
                         struct plim_err *err);

/* ---- one result (format_result.c); `suite` may be NULL ---- */

int format_result_outputs_write(const struct format_outputs *outputs, const struct suite *suite,
                                const struct result *result, struct plim_err *err);
void format_result_junit(const struct suite *suite, const struct result *result, FILE *out);
/* A line a metric: numbers in base units, or a digest as text. */
void format_result_csv(const struct suite *suite, const struct result *result, FILE *out);
void format_result_github(const struct suite *suite, const struct result *result, FILE *out);

/* ---- a comparison ---- */

void format_junit(const struct comparison *comparison, FILE *out);
void format_csv(const struct comparison *comparison, FILE *out);
/* At most ten errors and ten warnings, as many as GitHub shows for a step; the last line has the conclusion. */
void format_github(const struct comparison *comparison, int exit_status, FILE *out);
int format_markdown(const struct comparison *comparison, const struct comparison_view *view, FILE *out,
                    struct plim_err *err);

/* ---- parts ---- */

/* A CSV field, quoted where it must be. */
void format_csv_text(FILE *out, const char *text);
/* The escapes of GitHub's workflow commands; inside a property ':' and ',' too. */
void format_github_text(FILE *out, const char *text, bool property);

/* ---- parts of a finding as text ---- */

const char *finding_case_id(const struct finding *finding);
const char *finding_metric(const struct finding *finding);   /* "" for findings about a case itself */
const char *finding_unit(const struct finding *finding);
bool finding_is_bad(const struct finding *finding);          /* fails the gate */
bool finding_is_news(const struct finding *finding);         /* anything that is neither passed nor left out */

/*
 * How far a finding moved, as gated: bytes and counts as a difference, timings and system metrics in percent; "" where
 * there is no number. 48 bytes are enough; returns `buffer`.
 */
char *finding_change(char *buffer, size_t size, const struct finding *finding);

/* "regression", "no regression" ...: the conclusion in words. */
const char *comparison_conclusion(const struct comparison *comparison, int exit_status);

/* Writes "1 FAIL, 3 warn, 40 pass", worst first. */
void comparison_print_counts(const struct comparison *comparison, FILE *out);

#endif
