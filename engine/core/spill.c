#include "spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int spill_init(struct spill *spill, const char *directory)
{
    if (!directory)
        directory = getenv("TMPDIR");
    if (!directory || !*directory)
        directory = "/tmp";
    *spill = (struct spill){ .fd = -1, .directory = strdup(directory) };
    return spill->directory ? 0 : -1;
}

int spill_move(struct spill *spill, const char *directory)
{
    char *copy;
    if (spill->mapped_count > 0)
        return 0;
    copy = strdup(directory);
    if (!copy)
        return -1;
    if (spill->fd >= 0)
        close(spill->fd);
    free(spill->directory);
    spill->fd = -1;
    spill->directory = copy;
    spill->file_bytes = 0;
    spill->free_count = 0;
    return 0;
}

/* A file without a name. Not every file system has O_TMPFILE; there it has a name for a moment. */
static int open_unnamed(const char *directory)
{
    int fd = open(directory, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 || errno == ENOENT || errno == ENOTDIR || errno == EACCES)
        return fd;
    char *path = NULL;
    if (asprintf(&path, "%s/plimsoll-spill-XXXXXX", directory) < 0) {
        errno = ENOMEM;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    free(path);
    return fd;
}

/* Room for one hole more than there can be. */
static int reserve_holes(struct spill *spill)
{
    size_t needed = spill->mapped_count + spill->free_count + 2;
    if (needed <= spill->free_capacity)
        return 0;
    struct spill_range *grown = realloc(spill->free, 2 * needed * sizeof *grown);
    if (!grown)
        return -1;
    spill->free = grown;
    spill->free_capacity = 2 * needed;
    return 0;
}

static void remove_hole(struct spill *spill, size_t index)
{
    spill->free_count--;
    memmove(&spill->free[index], &spill->free[index + 1], (spill->free_count - index) * sizeof *spill->free);
}

/* Takes `bytes` from the smallest hole that has them, or from the end of the file. */
static uint64_t take_range(struct spill *spill, uint64_t bytes)
{
    size_t best = spill->free_count;
    for (size_t i = 0; i < spill->free_count; i++) {
        if (spill->free[i].bytes >= bytes && (best == spill->free_count || spill->free[i].bytes < spill->free[best].bytes))
            best = i;
    }
    if (best == spill->free_count) {
        uint64_t offset = spill->file_bytes;
        spill->file_bytes += bytes;
        return offset;
    }
    struct spill_range *hole = &spill->free[best];
    uint64_t offset = hole->offset;
    hole->offset += bytes;
    hole->bytes -= bytes;
    if (hole->bytes == 0)
        remove_hole(spill, best);
    return offset;
}

/* Puts a range among the holes and joins it with those that it touches. */
static void add_hole(struct spill *spill, uint64_t offset, uint64_t bytes)
{
    size_t at = 0;
    while (at < spill->free_count && spill->free[at].offset < offset)
        at++;
    memmove(&spill->free[at + 1], &spill->free[at], (spill->free_count - at) * sizeof *spill->free);
    spill->free[at] = (struct spill_range){ offset, bytes };
    spill->free_count++;
    if (at + 1 < spill->free_count && offset + bytes == spill->free[at + 1].offset) {
        spill->free[at].bytes += spill->free[at + 1].bytes;
        remove_hole(spill, at + 1);
    }
    if (at > 0 && spill->free[at - 1].offset + spill->free[at - 1].bytes == offset) {
        spill->free[at - 1].bytes += spill->free[at].bytes;
        remove_hole(spill, at);
    }
}

static void give_range(struct spill *spill, uint64_t offset, uint64_t bytes)
{
    add_hole(spill, offset, bytes);
    struct spill_range *last = &spill->free[spill->free_count - 1];
    if (last->offset + last->bytes == spill->file_bytes) {
        if (ftruncate(spill->fd, (off_t)last->offset) == 0) {
            spill->file_bytes = last->offset;
            spill->free_count--;
        }
        return;
    }
    /* Not every file system can; then the range stays allocated until it is reused. */
    (void)fallocate(spill->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

void *spill_map(struct spill *spill, size_t bytes, uint64_t *offset)
{
    if (spill->fd < 0)
        spill->fd = open_unnamed(spill->directory);
    if (spill->fd < 0 || reserve_holes(spill) < 0)
        return NULL;
    uint64_t start = take_range(spill, bytes);
    /* Writing to a mapped hole when the disk is full raises SIGBUS: have the room first. */
    int failure = posix_fallocate(spill->fd, (off_t)start, (off_t)bytes);
    void *memory = MAP_FAILED;
    if (failure == 0) {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, spill->fd, (off_t)start);
        failure = errno;
    }
    if (memory == MAP_FAILED) {
        give_range(spill, start, bytes);
        errno = failure;
        return NULL;
    }
    spill->mapped_count++;
    *offset = start;
    return memory;
}

void spill_give(struct spill *spill, uint64_t offset, uint64_t bytes)
{
    spill->mapped_count--;
    give_range(spill, offset, bytes);
}

void spill_release(struct spill *spill)
{
    if (spill->fd >= 0)
        close(spill->fd);
    free(spill->free);
    free(spill->directory);
    *spill = (struct spill){ .fd = -1 };
}
