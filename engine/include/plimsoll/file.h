#ifndef PLIMSOLL_FILE_H
#define PLIMSOLL_FILE_H

/* Files: whole reads, read-only maps, and writes that are either complete or not there. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

/*
 * A file written beside its target under a temporary name; the commit (fsync, rename, fsync of the directory) is the
 * moment it exists. Whatever dies before that leaves the old file as it was.
 *
 *     struct plim_atomic_file f = PLIM_ATOMIC_FILE_INIT;
 *     if (plim_atomic_open(&f, path, err) < 0 || plim_atomic_write(&f, text, n, err) < 0 ||
 *         plim_atomic_commit(&f, err) < 0)
 *         rc = -1;
 *     plim_atomic_release(&f);    // removes the temporary file unless committed
 */
struct plim_atomic_file {
    int fd;                 /* -1 when not open; writers may use it directly (pwrite, fdopen on a dup) */
    bool committed;
    bool unsynced;          /* set before the commit: don't wait for the disk. The file is still whole or not there when
                               the process is killed, but a power cut may lose it */
    char *path;             /* target, owned */
    char *temporary_path;   /* owned */
};

#define PLIM_ATOMIC_FILE_INIT { .fd = -1 }

int plim_atomic_open(struct plim_atomic_file *file, const char *path, struct plim_err *err);
int plim_atomic_write(struct plim_atomic_file *file, const void *data, size_t bytes, struct plim_err *err);
int plim_atomic_commit(struct plim_atomic_file *file, struct plim_err *err);
void plim_atomic_release(struct plim_atomic_file *file);

/* The three steps for text or bytes that are already there. */
int plim_write_file(const char *path, const void *data, size_t bytes, struct plim_err *err);

/* Renames within one file system, and makes the new name survive a crash. */
int plim_rename(const char *from, const char *to, struct plim_err *err);

/* A read-only shared map of a whole file. An empty file gives data NULL, bytes 0. */
struct plim_map {
    const uint8_t *data;
    size_t bytes;
};

int plim_map_open(struct plim_map *map, const char *path, struct plim_err *err);
void plim_map_close(struct plim_map *map);

/* Reads a whole file of at most `limit_bytes`; adds a final NUL that is not counted. Free with free(). */
int plim_read_file(const char *path, size_t limit_bytes, char **data, size_t *bytes, struct plim_err *err);

/* Makes a directory and its parents; an existing one is fine. */
int plim_make_directories(const char *path, struct plim_err *err);

/* "a/b" + "c" -> "a/b/c"; free with free(). NULL with `err` when memory is out. */
char *plim_path_join(const char *directory, const char *name, struct plim_err *err);

bool plim_path_exists(const char *path);

#endif
