#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "plimsoll/file.h"

static char directory[64];

static void make_directory(void)
{
    strcpy(directory, "/tmp/plimsoll-file-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static int files_in_directory(void)
{
    int count = 0;
    DIR *entries = opendir(directory);
    for (struct dirent *entry; (entry = readdir(entries));)
        count += entry->d_name[0] != '.';
    closedir(entries);
    return count;
}

static void remove_directory(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(file, .init = make_directory, .fini = remove_directory);

static char *path_of(const char *name)
{
    struct plim_err err = PLIM_ERR_INIT;
    return plim_path_join(directory, name, &err);
}

static void contents_are(const char *path, const char *wanted)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *data = NULL;
    size_t bytes = 0;
    cr_assert_eq(plim_read_file(path, 1 << 20, &data, &bytes, &err), 0, "%s", err.message);
    cr_assert_eq(bytes, strlen(wanted));
    cr_assert_str_eq(data, wanted);
    free(data);
}

Test(file, a_written_file_replaces_the_old_one_whole)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = path_of("a");
    cr_assert_eq(plim_write_file(path, "first version", 13, &err), 0, "%s", err.message);
    cr_assert_eq(plim_write_file(path, "second", 6, &err), 0, "%s", err.message);
    contents_are(path, "second");
    cr_assert_eq(files_in_directory(), 1);
    struct stat info;
    mode_t mask = umask(0);
    umask(mask);
    stat(path, &info);
    cr_assert_eq(info.st_mode & 0777, 0666 & ~mask);
    free(path);
}

Test(file, release_without_commit_leaves_the_old_file)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
    char *path = path_of("a");
    cr_assert_eq(plim_write_file(path, "old", 3, &err), 0);
    cr_assert_eq(plim_atomic_open(&file, path, &err), 0);
    cr_assert_eq(plim_atomic_write(&file, "new", 3, &err), 0);
    plim_atomic_release(&file);
    plim_atomic_release(&file);
    contents_are(path, "old");
    cr_assert_eq(files_in_directory(), 1);
    free(path);
}

Test(file, a_kill_before_the_commit_leaves_the_old_file)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = path_of("a");
    cr_assert_eq(plim_write_file(path, "old", 3, &err), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
        if (plim_atomic_open(&file, path, &err) == 0 && plim_atomic_write(&file, "half", 4, &err) == 0)
            raise(SIGKILL);
        _exit(1);
    }
    int status;
    waitpid(pid, &status, 0);
    cr_assert(WIFSIGNALED(status));
    contents_are(path, "old");
    /* What it left behind stops nobody. */
    cr_assert_eq(plim_write_file(path, "new", 3, &err), 0, "%s", err.message);
    contents_are(path, "new");
    free(path);
}

Test(file, a_full_disk_is_an_error_and_leaves_the_old_file)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = path_of("a"), *data = calloc(1, 1 << 20);
    cr_assert_eq(plim_write_file(path, "old", 3, &err), 0);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 4096, 4096 });
    cr_assert_eq(plim_write_file(path, data, 1 << 20, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_SYSTEM);
    cr_assert(strstr(err.message, path), "%s", err.message);
    contents_are(path, "old");
    cr_assert_eq(files_in_directory(), 1);
    free(data);
    free(path);
}

Test(file, devices_and_directories_are_not_overwritten)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(plim_write_file("/dev/null", "x", 1, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    plim_err_clear(&err);
    cr_assert_eq(plim_write_file(directory, "x", 1, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    plim_err_clear(&err);
    char *path = path_of("no/such/file");
    cr_assert_eq(plim_write_file(path, "x", 1, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    cr_assert(strstr(err.message, path), "%s", err.message);
    free(path);
}

Test(file, maps_of_whole_and_empty_files)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_map map;
    char *path = path_of("a");
    cr_assert_eq(plim_write_file(path, "mapped", 6, &err), 0);
    cr_assert_eq(plim_map_open(&map, path, &err), 0, "%s", err.message);
    cr_assert_eq(map.bytes, 6u);
    cr_assert_eq(memcmp(map.data, "mapped", 6), 0);
    plim_map_close(&map);
    plim_map_close(&map);
    cr_assert_eq(plim_write_file(path, "", 0, &err), 0);
    cr_assert_eq(plim_map_open(&map, path, &err), 0, "%s", err.message);
    cr_assert_null(map.data);
    cr_assert_eq(map.bytes, 0u);
    plim_map_close(&map);
    cr_assert_eq(plim_map_open(&map, directory, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    free(path);
}

Test(file, reading_has_a_limit_and_takes_files_without_a_size)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = path_of("a"), *data = NULL;
    size_t bytes = 0;
    cr_assert_eq(plim_write_file(path, "12345678", 8, &err), 0);
    cr_assert_eq(plim_read_file(path, 8, &data, &bytes, &err), 0);
    cr_assert_eq(bytes, 8u);
    cr_assert_eq(data[8], '\0');
    free(data);
    cr_assert_eq(plim_read_file(path, 7, &data, &bytes, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    plim_err_clear(&err);
    cr_assert_eq(plim_read_file("/proc/self/status", 1 << 20, &data, &bytes, &err), 0, "%s", err.message);
    cr_assert(strstr(data, "VmHWM"));
    free(data);
    cr_assert_eq(plim_read_file("/dev/zero", 100000, &data, &bytes, &err), -1);
    cr_assert(strstr(err.message, "limit"));
    plim_err_clear(&err);
    cr_assert_eq(plim_read_file(directory, 100, &data, &bytes, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT, "%s", err.message);
    free(path);
}

Test(file, directories_are_made_with_their_parents)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *path = path_of("x/y//z/"), *file = path_of("file"), *below = path_of("file/z");
    struct stat info;
    cr_assert_eq(plim_make_directories(path, &err), 0, "%s", err.message);
    cr_assert_eq(plim_make_directories(path, &err), 0, "%s", err.message);
    cr_assert(stat(path, &info) == 0 && S_ISDIR(info.st_mode));
    cr_assert(plim_path_exists(path));
    cr_assert_eq(plim_make_directories(directory, &err), 0);
    cr_assert_eq(plim_write_file(file, "x", 1, &err), 0);
    cr_assert_eq(plim_make_directories(file, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    plim_err_clear(&err);
    cr_assert_eq(plim_make_directories(below, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
    plim_err_clear(&err);
    cr_assert_eq(plim_make_directories("", &err), -1);
    free(path);
    free(file);
    free(below);
}

Test(file, paths_are_joined)
{
    struct plim_err err = PLIM_ERR_INIT;
    static const char *const cases[][3] = { { "a/b", "c", "a/b/c" }, { "a/", "c", "a/c" }, { "", "c", "c" },
                                            { "/", "c", "/c" } };
    for (size_t i = 0; i < 4; i++) {
        char *path = plim_path_join(cases[i][0], cases[i][1], &err);
        cr_assert_str_eq(path, cases[i][2]);
        free(path);
    }
}
