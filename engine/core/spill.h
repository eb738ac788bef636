#ifndef PLIM_SPILL_H
#define PLIM_SPILL_H

/*
 * The slow tier's file: unlinked from the start, so that nothing stays behind whatever happens, growing as needed,
 * mapped range by range. Ranges given back are holes in the file until they are used again.
 *
 * Threads: the pool's lock is held around every call.
 */

#include <stddef.h>
#include <stdint.h>

struct spill_range {
    uint64_t offset, bytes;
};

struct spill {
    int fd;                       /* -1 until the first range is taken */
    char *directory;              /* owned */
    uint64_t file_bytes;
    struct spill_range *free;     /* holes, by offset, no two of them touching */
    size_t free_count, free_capacity;
    size_t mapped_count;          /* ranges in use; free_capacity > mapped_count, so that giving one cannot fail */
};

/* `directory` is copied; NULL: $TMPDIR or /tmp. Opens no file yet. */
int spill_init(struct spill *spill, const char *directory);

/* Later ranges go to a file in `directory` (copied), unless the file that there is holds something. */
int spill_move(struct spill *spill, const char *directory);

/* Maps `bytes` (a multiple of the page size) that have room on disk. NULL with errno. */
void *spill_map(struct spill *spill, size_t bytes, uint64_t *offset);

/* Gives the range of an unmapped block back to the file system. */
void spill_give(struct spill *spill, uint64_t offset, uint64_t bytes);

void spill_release(struct spill *spill);

#endif
