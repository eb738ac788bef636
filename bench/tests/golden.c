#include "golden.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "compare_support.h"

void check_golden(const char *name, const char *text)
{
    char path[1000];
    snprintf(path, sizeof path, "%s/golden/%s", PLIMSOLL_TEST_DATA, name);
    if (getenv("PLIMSOLL_UPDATE_GOLDEN")) {
        write_text(path, text);
        return;
    }
    char *expected = read_text(path);
    cr_assert(strcmp(expected, text) == 0, "%s: expected\n%s\ngot\n%s", name, expected, text);
    free(expected);
}

char *written(void (*write)(const void *context, FILE *out), const void *context)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    cr_assert_not_null(out);
    write(context, out);
    cr_assert_eq(fclose(out), 0);
    return text;
}
