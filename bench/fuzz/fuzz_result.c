/*
 * A result or baseline file. What is accepted reads back as it was written, and compared with itself it has no finding but
 * repeats that differ; refused, it leaves nothing.
 */

#include <string.h>

#include "compare.h"
#include "fuzz.h"
#include "result.h"

static void check_round_trip(const struct result *result)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct result again;
    char *text = result_format(result, &err);
    FUZZ_CLAIM(text);
    bool read_back = result_parse(&again, "again", text, strlen(text), &err) == 0;
    if (!read_back)
        fprintf(stderr, "%s\n%s\n", text, err.message);
    FUZZ_CLAIM(read_back);
    char *second = result_format(&again, &err);
    FUZZ_CLAIM(second && strcmp(text, second) == 0);
    free(second);
    free(text);
    result_release(&again);
}

static void check_comparison(const struct result *result)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct comparison comparison = COMPARISON_INIT;
    struct compare_policy policy = compare_policy_default();
    FUZZ_CLAIM(compare_results(&comparison, result, result, &policy, &err) == 0);
    comparison_sort(&comparison);
    FUZZ_CLAIM(comparison.counts[VERDICT_BROKEN] == 0 && comparison.counts[VERDICT_NEW] == 0);
    FUZZ_CLAIM(comparison.counts[VERDICT_MISSING] == 0 && comparison.counts[VERDICT_STALE] == 0);
    for (size_t i = 0; i < comparison.counts[VERDICT_FAIL]; i++)
        FUZZ_CLAIM(strstr(comparison.findings[i].detail, "nondeterministic"));

    for (int format = COMPARISON_TERMINAL; format <= COMPARISON_JSON; format++) {
        struct comparison_view view = { (enum comparison_format)format, true, 0 };
        char *text = NULL;
        size_t bytes;
        FILE *out = open_memstream(&text, &bytes);
        FUZZ_CLAIM(out && comparison_print(&comparison, &view, out, &err) == 0);
        fclose(out);
        free(text);
    }
    comparison_release(&comparison);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct result result;
    if (result_parse(&result, "input", (const char *)data, size, &err) < 0) {
        FUZZ_CLAIM(err.kind == PLIM_ERR_INPUT || err.kind == PLIM_ERR_COMPARE);
        FUZZ_CLAIM(!strchr(err.message, '\n'));
        FUZZ_CLAIM(!result.suite_name && !result.cases && result.case_count == 0);
        return 0;
    }
    check_round_trip(&result);
    check_comparison(&result);
    result_release(&result);
    return 0;
}
