#include "scratch.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "heap.h"

int scratch_open(struct scratch *scratch, struct plim_err *err)
{
    const char *below = getenv("TMPDIR");

    *scratch = (struct scratch)SCRATCH_INIT;
    scratch->path = heap_printf(err, "%s/plimsoll-XXXXXX", below && *below == '/' ? below : "/tmp");
    if (!scratch->path)
        return -1;
    if (!mkdtemp(scratch->path)) {
        plim_err_errno(err, "making a directory like %s", scratch->path);
        free(scratch->path);
        scratch->path = NULL;
        return -1;
    }
    scratch->home = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (scratch->home < 0 || chdir(scratch->path) < 0) {
        plim_err_errno(err, "going to %s", scratch->path);
        scratch_close(scratch);
        return -1;
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    remove(path);
    return 0;   /* what stays is in the way of nobody */
}

void scratch_close(struct scratch *scratch)
{
    if (scratch->home >= 0) {
        if (fchdir(scratch->home) < 0)
            fprintf(stderr, "plimsoll: cannot leave %s\n", scratch->path);
        close(scratch->home);
    }
    if (scratch->path)
        nftw(scratch->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(scratch->path);
    *scratch = (struct scratch)SCRATCH_INIT;
}
