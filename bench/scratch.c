#include "scratch.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "heap.h"

#define PREFIX "plimsoll-scratch-"

static const char *temporary_directory(void)
{
    const char *below = getenv("TMPDIR");
    return below && *below == '/' ? below : "/tmp";
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    remove(path);
    return 0;   /* what stays is in the way of nobody */
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The lock says that somebody uses the directory. Whoever dies lets go of it, whatever killed him. */
static int lock_directory(const char *path, int how)
{
    int lock = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (lock >= 0 && flock(lock, how) < 0) {
        close(lock);
        lock = -1;
    }
    return lock;
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
    scratch->lock = lock_directory(scratch->path, LOCK_EX);
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
        remove_tree(scratch->path);
    if (scratch->lock >= 0)
        close(scratch->lock);
    free(scratch->path);
    *scratch = (struct scratch)SCRATCH_INIT;
}

static void sweep_one(const char *path)
{
    int lock = lock_directory(path, LOCK_EX | LOCK_NB);

    if (lock < 0)
        return;
    remove_tree(path);
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
