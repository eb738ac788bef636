/* A table of flags: every kind of field is filled, and nothing else. */

#include <criterion/criterion.h>

#include "flag_table.h"
#include "plimsoll/units.h"

enum form { FORM_TABLE, FORM_JSON };

struct arguments {
    bool quiet, loud;
    enum form form;
    const char *output, *model;
    int bits;
    size_t rounds;
    int64_t from;
    uint64_t timeout_ns;
    double share;
    int own;
};

static const struct flag options[] = {
    { "quiet", NULL, "", FLAG_FIELD(struct arguments, quiet), .key = 'q' },
    { "loud", NULL, "", FLAG_FIELD(struct arguments, loud) },
    { "json", NULL, "", FLAG_FIELD(struct arguments, form), .value = FORM_JSON },
    { "output", "DIR", "", FLAG_FIELD(struct arguments, output), .key = 'o' },
    { "bits", "N", "", FLAG_FIELD(struct arguments, bits), .low = 2, .high = 8 },
    { "rounds", "N", "", FLAG_FIELD(struct arguments, rounds), .low = 1, .high = PLIM_MI },
    { "from", "N", "", FLAG_FIELD(struct arguments, from), .low = 1, .high = 100 },
    { "timeout", "SECONDS", "", FLAG_FIELD(struct arguments, timeout_ns), .low = 1, .high = 10, .unit = 1000000000 },
    { "share", "X", "", FLAG_FIELD(struct arguments, share) },
    { "own", NULL, "", .key = 1000 },
    { 0 }
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case 1000:
        a->own++;
        return 0;
    case ARGP_KEY_ARG:
        flag_only_argument(state, &a->model, "model", text);
        return 0;
    default:
        return flag_parse(options, key, text, state);
    }
}

static int parse(struct arguments *a, int count, char **words)
{
    struct argp_option listed[FLAG_LIMIT];
    struct argp argp = { flag_options(options, listed), parse_option, NULL, NULL, NULL, NULL, NULL };

    *a = (struct arguments){ .output = "results", .share = 0.5 };
    return (int)argp_parse(&argp, count, words, 0, NULL, a);
}

Test(flag_table, fills_every_kind_of_field)
{
    char *words[] = { "verb", "-q", "--json", "-o", "there", "--bits=6", "--rounds", "4Ki", "--from=7", "--timeout=3",
                      "--share", "0.25", "--own", "model", NULL };
    struct arguments a;

    cr_assert_eq(parse(&a, sizeof words / sizeof *words - 1, words), 0);
    cr_expect(a.quiet && !a.loud);
    cr_expect_eq(a.form, FORM_JSON);
    cr_expect_str_eq(a.output, "there");
    cr_expect_str_eq(a.model, "model");
    cr_expect_eq(a.bits, 6);
    cr_expect_eq(a.rounds, 4096);
    cr_expect_eq(a.from, 7);
    cr_expect_eq(a.timeout_ns, 3000000000);
    cr_expect_eq(a.share, 0.25);
    cr_expect_eq(a.own, 1);
}

Test(flag_table, leaves_what_is_not_given)
{
    char *words[] = { "verb", NULL };
    struct arguments a;

    cr_assert_eq(parse(&a, 1, words), 0);
    cr_expect_str_eq(a.output, "results");
    cr_expect_eq(a.share, 0.5);
    cr_expect(!a.quiet && !a.model && !a.bits && !a.rounds && !a.from && !a.timeout_ns && !a.own);
    cr_expect_eq(a.form, FORM_TABLE);
}

/* argp ends the process, with its own exit status for usage. */
Test(flag_table, refuses_what_is_out_of_range, .exit_code = 64)
{
    char *words[] = { "verb", "--bits=9", NULL };
    struct arguments a;

    parse(&a, 2, words);
}
