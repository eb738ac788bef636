/*
 * Files whose header has an odd length: every tensor lies at an odd address, which the format allows. The same logits
 * must come out, and the copies that EXL2 words need are counted and predicted.
 */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/file.h"
#include "test_model_support.h"

/* Rewrites DIRECTORY/model.safetensors with one more space behind its header. */
static void lengthen_header(const char *directory)
{
    struct plim_err err = PLIM_ERR_INIT;
    char path[256], *text;
    uint64_t header_bytes;
    size_t bytes;
    FILE *file;

    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    cr_assert_eq(plim_read_file(path, (size_t)1 << 30, &text, &bytes, &err), 0, "%s", err.message);
    memcpy(&header_bytes, text, sizeof header_bytes);
    size_t data = sizeof header_bytes + header_bytes;
    uint64_t longer = header_bytes + 1;
    file = fopen(path, "wb");
    cr_assert(file && fwrite(&longer, sizeof longer, 1, file) == 1 &&
              fwrite(text + sizeof longer, header_bytes, 1, file) == 1 && fputc(' ', file) == ' ' &&
              fwrite(text + data, bytes - data, 1, file) == 1);
    cr_assert_eq(fclose(file), 0);
    free(text);
}

static void check_same_logits(const char *source, const char *settings, bool copies)
{
    enum { COUNT = 40 };
    struct plim_parameters parameters = parameters_from(settings);
    struct plim_plan_request request = { .context_tokens = COUNT, .prompt_tokens = COUNT, .rows = PLIM_LOGITS_ALL };
    struct plim_plan plan;
    struct plim_pool_stats stats, plain_stats;
    struct plim_err err = PLIM_ERR_INIT;
    struct model_copy copy;
    struct rig plain, odd;

    model_copy_make(&copy, source, NULL, 0, NULL, NULL);
    lengthen_header(copy.directory);
    rig_open(&plain, source, settings, COUNT);
    rig_open(&odd, copy.directory, settings, COUNT);
    int32_t *ids = some_ids(COUNT, plain.info.vocab_size);
    float *wanted = forward_all(&plain, ids, COUNT), *got = forward_all(&odd, ids, COUNT);
    cr_expect_arr_eq(got, wanted, COUNT * plain.info.vocab_size * sizeof *got, "%s [%s]", source, settings);

    plim_pool_stats(plim_engine_pool(odd.engine), &stats);
    plim_pool_stats(plim_engine_pool(plain.engine), &plain_stats);
    cr_expect_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS] >
                     plain_stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS], copies);
    cr_assert_eq(plim_predict(copy.directory, "cpu", &parameters, &request, &plan, &err), 0, "%s", err.message);
    cr_expect_eq(plan.peak_bytes, stats.peak[PLIM_FAST].total_bytes);
    cr_expect_arr_eq(plan.tag_peak_bytes, stats.tag_peak_bytes[PLIM_FAST], sizeof plan.tag_peak_bytes);
    free(ids);
    free(wanted);
    free(got);
    rig_close(&plain);
    rig_close(&odd);
    model_copy_remove(&copy);
}

Test(model_unaligned, exl2_words_are_copied)
{
    check_same_logits(FIXTURES "/exl2-4.0", "", true);
    check_same_logits(FIXTURES "/exl2-4.0", "dq_rows=0", true);
}

Test(model_unaligned, dense_weights_are_used_where_they_lie)
{
    check_same_logits(FIXTURES "/dense", "", false);
    check_same_logits(FIXTURES "/dense", "dq_rows=0", false);
}
