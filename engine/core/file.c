#include "plimsoll/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A path that is wrong is the user's input; a disk that fails is not. */
static int path_err(struct plim_err *err, const char *doing, const char *path)
{
    switch (errno) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case ENAMETOOLONG:
    case ELOOP:
        return plim_err_input(err, "%s %s: %s", doing, path, strerror(errno));
    default:
        return plim_err_errno(err, "%s %s", doing, path);
    }
}

/* ---- atomic writes ---- */

/* Opens PATH.PID.N.tmp, which nobody else has; files that a killed run left behind are passed over. */
static int open_temporary(const char *path, char **temporary_path, struct plim_err *err)
{
    static atomic_uint counter;
    for (int attempt = 0; attempt < 1000; attempt++) {
        char *name = NULL;
        unsigned serial = atomic_fetch_add(&counter, 1);
        if (asprintf(&name, "%s.%ld.%u.tmp", path, (long)getpid(), serial) < 0)
            return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
        int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *temporary_path = name;
            return fd;
        }
        free(name);
        if (errno != EEXIST)
            break;
    }
    return path_err(err, "creating a file beside", path);
}

int plim_atomic_open(struct plim_atomic_file *file, const char *path, struct plim_err *err)
{
    struct stat info;
    *file = (struct plim_atomic_file)PLIM_ATOMIC_FILE_INIT;
    /* A rename would replace /dev/null just as readily as a file. */
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return plim_err_input(err, "writing %s: it exists and is not a regular file", path);
    file->path = strdup(path);
    if (!file->path)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    file->fd = open_temporary(path, &file->temporary_path, err);
    if (file->fd < 0) {
        plim_atomic_release(file);
        return -1;
    }
    return 0;
}

int plim_atomic_write(struct plim_atomic_file *file, const void *data, size_t bytes, struct plim_err *err)
{
    const char *next = data;
    while (bytes > 0) {
        ssize_t written = write(file->fd, next, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return plim_err_errno(err, "writing %s", file->path);
        next += written;
        bytes -= (size_t)written;
    }
    return 0;
}

static int rename_path(const char *from, const char *to, struct plim_err *err)
{
    return rename(from, to) < 0 ? path_err(err, "moving what was written to", to) : 0;
}

/* Makes the rename itself survive a crash. */
static int sync_directory_of(const char *path, struct plim_err *err)
{
    const char *slash = strrchr(path, '/');
    char *directory = slash == NULL   ? strdup(".")
                      : slash == path ? strdup("/")
                                      : strndup(path, (size_t)(slash - path));
    if (!directory)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    int rc = 0;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems cannot sync a directory and say EINVAL; there is nothing more to do on those. */
    if (fd < 0 || (fsync(fd) < 0 && errno != EINVAL))
        rc = plim_err_errno(err, "syncing directory %s", directory);
    if (fd >= 0)
        close(fd);
    free(directory);
    return rc;
}

int plim_atomic_commit(struct plim_atomic_file *file, struct plim_err *err)
{
    if (!file->unsynced && fsync(file->fd) < 0)
        return plim_err_errno(err, "syncing %s", file->path);
    if (rename_path(file->temporary_path, file->path, err) < 0)
        return -1;
    file->committed = true;
    return file->unsynced ? 0 : sync_directory_of(file->path, err);
}

int plim_rename(const char *from, const char *to, struct plim_err *err)
{
    return rename_path(from, to, err) < 0 ? -1 : sync_directory_of(to, err);
}

void plim_atomic_release(struct plim_atomic_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    if (file->temporary_path && !file->committed)
        unlink(file->temporary_path);
    free(file->temporary_path);
    free(file->path);
    *file = (struct plim_atomic_file)PLIM_ATOMIC_FILE_INIT;
}

int plim_write_file(const char *path, const void *data, size_t bytes, struct plim_err *err)
{
    struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
    int rc = -1;
    if (plim_atomic_open(&file, path, err) == 0 && plim_atomic_write(&file, data, bytes, err) == 0 &&
        plim_atomic_commit(&file, err) == 0)
        rc = 0;
    plim_atomic_release(&file);
    return rc;
}

/* ---- reading ---- */

int plim_map_open(struct plim_map *map, const char *path, struct plim_err *err)
{
    struct stat info;
    int rc = -1;
    *map = (struct plim_map){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return path_err(err, "opening", path);
    if (fstat(fd, &info) < 0) {
        plim_err_errno(err, "looking at %s", path);
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        plim_err_input(err, "opening %s: not a regular file", path);
        goto out;
    }
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            plim_err_errno(err, "mapping %s", path);
            goto out;
        }
        *map = (struct plim_map){ data, (size_t)info.st_size };
    }
    rc = 0;
out:
    close(fd);
    return rc;
}

void plim_map_close(struct plim_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (struct plim_map){ 0 };
}

/* Reads to the end of `fd`, at most `capacity` bytes. Returns the number, or -1 with errno. */
static ssize_t read_up_to(int fd, char *buffer, size_t capacity)
{
    size_t length = 0;
    while (length < capacity) {
        ssize_t got = read(fd, buffer + length, capacity - length);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        length += (size_t)got;
    }
    return (ssize_t)length;
}

int plim_read_file(const char *path, size_t limit_bytes, char **data, size_t *bytes, struct plim_err *err)
{
    struct stat info;
    char *buffer = NULL;
    size_t length = 0;
    int rc = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return path_err(err, "opening", path);
    if (fstat(fd, &info) < 0) {
        plim_err_errno(err, "looking at %s", path);
        goto out;
    }
    /* The size is a first guess: files in /proc and pipes say 0, and a file may grow. One byte more than the limit
     * shows that there was more; one more than that is for the NUL. */
    size_t capacity = info.st_size > 0 ? (size_t)info.st_size + 1 : 4096;
    for (;;) {
        if (capacity > limit_bytes)
            capacity = limit_bytes + 1;
        char *grown = realloc(buffer, capacity + 1);
        if (!grown) {
            plim_err_set(err, PLIM_ERR_MEMORY, "out of memory reading %s (%zu bytes)", path, capacity);
            goto out;
        }
        buffer = grown;
        ssize_t got = read_up_to(fd, buffer + length, capacity - length);
        if (got < 0) {
            path_err(err, "reading", path);
            goto out;
        }
        length += (size_t)got;
        if (length > limit_bytes) {
            plim_err_input(err, "reading %s: more than the limit of %zu bytes", path, limit_bytes);
            goto out;
        }
        if (length < capacity)
            break;
        capacity *= 2;
    }
    buffer[length] = '\0';
    *data = buffer;
    *bytes = length;
    buffer = NULL;
    rc = 0;
out:
    free(buffer);
    close(fd);
    return rc;
}

/* ---- paths ---- */

int plim_make_directories(const char *path, struct plim_err *err)
{
    char *prefix = strdup(path);
    int rc = -1;
    if (!prefix)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
    if (*path == '\0') {
        plim_err_input(err, "making a directory: the path is empty");
        goto out;
    }
    for (char *c = prefix + 1;; c++) {
        if (*c != '/' && *c != '\0')
            continue;
        char end = *c;
        *c = '\0';
        if (mkdir(prefix, 0777) < 0 && errno != EEXIST) {
            path_err(err, "making directory", prefix);
            goto out;
        }
        *c = end;
        if (end == '\0')
            break;
    }
    struct stat info;
    if (stat(path, &info) < 0 || !S_ISDIR(info.st_mode)) {
        plim_err_input(err, "making directory %s: it exists and is not a directory", path);
        goto out;
    }
    rc = 0;
out:
    free(prefix);
    return rc;
}

char *plim_path_join(const char *directory, const char *name, struct plim_err *err)
{
    char *path = NULL;
    size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] != '/' ? "/" : "";
    if (asprintf(&path, "%s%s%s", directory, slash, name) < 0) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory");
        return NULL;
    }
    return path;
}

bool plim_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}
