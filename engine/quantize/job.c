#include "job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "plimsoll/file.h"
#include "plimsoll/json.h"

#define JOB_FILE_LIMIT_BYTES ((size_t)64 << 20)

int json_memory(struct plim_err *err)
{
    return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for JSON");
}

void job_path(const struct job *job, const char *name, char path[JOB_PATH_BYTES])
{
    snprintf(path, JOB_PATH_BYTES, "%s/%s", job->directory, name);
}

bool job_has(const struct job *job, const char *name)
{
    char path[JOB_PATH_BYTES];
    job_path(job, name, path);
    return plim_path_exists(path);
}

/* "....DIGITS.DIGITS.tmp" */
static bool is_temporary(const char *name)
{
    size_t length = strlen(name);
    if (length < 4 || strcmp(name + length - 4, ".tmp") != 0)
        return false;
    length -= 4;
    for (int number = 0; number < 2; number++) {
        size_t end = length;
        while (length > 0 && name[length - 1] >= '0' && name[length - 1] <= '9')
            length--;
        if (length == end || length == 0 || name[length - 1] != '.')
            return false;
        length--;
    }
    return length > 0;
}

void remove_temporaries(const char *directory)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    if (!dir)
        return;
    while ((entry = readdir(dir)))
        if (is_temporary(entry->d_name))
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
}

bool directory_is_empty(const char *directory)
{
    DIR *dir = opendir(directory);
    const struct dirent *entry;
    bool empty = true;
    if (!dir)
        return !plim_path_exists(directory);
    while (empty && (entry = readdir(dir)))
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                strcmp(entry->d_name, "lock") == 0 || is_temporary(entry->d_name);
    closedir(dir);
    return empty;
}

int job_open(struct job *job, const char *directory, struct plim_err *err)
{
    char path[JOB_PATH_BYTES];

    *job = (struct job){ .lock = -1 };
    if (strlen(directory) >= sizeof job->directory)
        return plim_err_input(err, "job directory %.60s...: the path is too long", directory);
    snprintf(job->directory, sizeof job->directory, "%s", directory);
    if (plim_make_directories(directory, err) < 0)
        return -1;
    job_path(job, "lock", path);
    job->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (job->lock < 0)
        return plim_err_errno(err, "opening %s", path);
    if (flock(job->lock, LOCK_EX | LOCK_NB) < 0) {
        int busy = errno == EWOULDBLOCK;
        plim_err_input(err, "job directory %s: %s", directory, busy ? "another process works on it" : strerror(errno));
        job_close(job);
        return -1;
    }
    job->resumed = job_has(job, "job.json");
    if (!job->resumed && !directory_is_empty(directory)) {
        plim_err_input(err, "%s is not a job directory: it holds other files and no job.json", directory);
        job_close(job);
        return -1;
    }
    remove_temporaries(directory);
    return 0;
}

void job_close(struct job *job)
{
    if (job->lock >= 0)
        close(job->lock);
    job->lock = -1;
}

int job_read(const struct job *job, const char *name, cJSON **root, struct plim_err *err)
{
    char path[JOB_PATH_BYTES];
    job_path(job, name, path);
    return plim_json_read(path, JOB_FILE_LIMIT_BYTES, root, err);
}

int job_write(const struct job *job, const char *name, const cJSON *root, struct plim_err *err)
{
    char path[JOB_PATH_BYTES];
    char *text = cJSON_Print(root);
    if (!text)
        return json_memory(err);
    job_path(job, name, path);
    int rc = plim_write_file(path, text, strlen(text), err);
    cJSON_free(text);
    return rc;
}

/* What differs, in words that tell what to do. */
static int refuse(const struct job *job, const char *key, const cJSON *found, const cJSON *wanted, struct plim_err *err)
{
    char *before = found ? cJSON_PrintUnformatted(found) : NULL, *now = cJSON_PrintUnformatted(wanted);
    if (strcmp(key, "model") == 0)
        plim_err_input(err, "job directory %s is of another model; give another --job, or remove it", job->directory);
    else
        plim_err_input(err, "job directory %s was begun with %s %.100s, not %.100s; give the same options, another "
                       "--job, or remove it", job->directory, key, before ? before : "absent", now ? now : "?");
    cJSON_free(before);
    cJSON_free(now);
    return -1;
}

int job_identify(struct job *job, const cJSON *identity, struct plim_err *err)
{
    cJSON *found = NULL;
    const cJSON *wanted;
    int rc = 0;

    if (!job->resumed)
        return job_write(job, "job.json", identity, err);
    if (job_read(job, "job.json", &found, err) < 0)
        return -1;
    cJSON_ArrayForEach(wanted, identity) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(found, wanted->string);
        if (rc == 0 && !cJSON_Compare(item, wanted, 1))
            rc = refuse(job, wanted->string, item, wanted, err);
    }
    cJSON_Delete(found);
    return rc;
}
