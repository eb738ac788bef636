#include "synthetic_test.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char place[64];

void make_place(void)
{
    strcpy(place, "/tmp/plimsoll-synthetic-XXXXXX");
    cr_assert_not_null(mkdtemp(place));
}

void remove_place(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", place);
    cr_assert_eq(system(command), 0);
}

const char *at(const char *name)
{
    static char paths[4][160];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", place, name);
    return path;
}

int entries_of(const char *directory)
{
    int count = 0;
    DIR *entries = opendir(directory);
    if (!entries)
        return -1;
    for (struct dirent *entry; (entry = readdir(entries));)
        count += entry->d_name[0] != '.';
    closedir(entries);
    return count;
}

void make(const struct plim_synthetic *options, const char *directory)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_synthetic_make(options, directory, &err), 0, "%s", err.message);
}

void refused(struct plim_synthetic options, const char *directory, const char *why)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_synthetic_make(&options, directory, &err), -1, "accepted; wanted: %s", why);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT, "%s", err.message);
    cr_assert(strstr(err.message, why), "\"%s\" does not say \"%s\"", err.message, why);
}
void tensors_of(const char *directory, struct plim_pool **pool, struct tensor_store **store)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_pool_open(pool, NULL, &err), 0);
    cr_assert_eq(tensor_store_open_directory(store, *pool, directory, false, &err), 0, "%s", err.message);
}
