#include "scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "directory.h"
#include "heap.h"

#define PREFIX "plimsoll-scratch-"

static const char *temporary_directory(void)
{
    const char *below = getenv("TMPDIR");
    return below && *below == '/' ? below : "/tmp";
}

static int make_directory(struct scratch *scratch, struct plim_err *err)
{
    scratch->path = heap_printf(err, "%s/" PREFIX "XXXXXX", temporary_directory());
    if (!scratch->path)
        return -1;
    if (!mkdtemp(scratch->path)) {
        plim_err_errno(err, "making a directory like %s", scratch->path);
        free(scratch->path);
        scratch->path = NULL;
        return -1;
    }
    scratch->lock = directory_lock(scratch->path, LOCK_EX);
    return 0;
}

int scratch_open(struct scratch *scratch, struct plim_err *err)
{
    *scratch = (struct scratch)SCRATCH_INIT;
    scratch_sweep();
    if (make_directory(scratch, err) < 0)
        return -1;
    scratch->home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Between its making and its locking a directory can be swept away. */
    if (scratch->lock < 0 || access(scratch->path, F_OK) < 0 || scratch->home < 0 || chdir(scratch->path) < 0) {
        plim_err_errno(err, "going to %s", scratch->path);
        scratch_close(scratch);
        return -1;
    }
    return 0;
}

void scratch_close(struct scratch *scratch)
{
    if (scratch->home >= 0) {
        if (fchdir(scratch->home) < 0)
            fprintf(stderr, "plimsoll: cannot leave %s\n", scratch->path);
        close(scratch->home);
    }
    if (scratch->path)
        directory_remove(scratch->path);
    if (scratch->lock >= 0)
        close(scratch->lock);
    free(scratch->path);
    *scratch = (struct scratch)SCRATCH_INIT;
}

static void sweep_one(const char *path)
{
    int lock = directory_lock(path, LOCK_EX | LOCK_NB);

    if (lock < 0)
        return;
    directory_remove(path);
    close(lock);
}

void scratch_sweep(void)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    const char *below = temporary_directory();
    DIR *directory = opendir(below);
    const struct dirent *entry;

    while (directory && (entry = readdir(directory))) {
        char *path = NULL;

        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0 &&
            (path = heap_printf(&unsaid, "%s/%s", below, entry->d_name)))
            sweep_one(path);
        free(path);
    }
    if (directory)
        closedir(directory);
}
