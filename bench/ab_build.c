#include "ab_build.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "command.h"
#include "directory.h"
#include "heap.h"
#include "plimsoll/file.h"

static bool is_program(const char *path)
{
    struct stat s;

    return stat(path, &s) == 0 && S_ISREG(s.st_mode) && access(path, X_OK) == 0;
}

static bool is_directory(const char *path)
{
    struct stat s;

    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* Workers change their directory: the path must not depend on it. */
static char *absolute(const char *path, struct plim_err *err)
{
    char *full = realpath(path, NULL);

    if (!full)
        plim_err_errno(err, "%s", path);
    return full;
}

static char *from_directory(const char *directory, struct plim_err *err)
{
    char *path = plim_path_join(directory, "plimsoll", err), *full = NULL;

    if (path && !is_program(path))
        plim_err_input(err, "%s: there is no program plimsoll in this build directory", directory);
    else if (path)
        full = absolute(path, err);
    free(path);
    return full;
}

/* ---- git revisions ---- */

#define PLACE "build-"     /* and the number of the process that builds: two may build the same */

struct revision {
    char *root;        /* of the repository */
    char *commit;
    char *cache;
    char *directory;   /* in the cache; locked by those who build in it */
    char *place;       /* of this build, with what follows */
    char *source;      /* the private worktree */
    char *objects;     /* the build directory */
    char *program;     /* what is kept */
};

static void revision_release(struct revision *r)
{
    free(r->root);
    free(r->commit);
    free(r->cache);
    free(r->directory);
    free(r->place);
    free(r->source);
    free(r->objects);
    free(r->program);
}

static char *cache_directory(struct plim_err *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

    if (cache && cache[0] == '/')
        return heap_printf(err, "%s/plimsoll/builds", cache);
    if (home && *home)
        return heap_printf(err, "%s/.cache/plimsoll/builds", home);
    plim_err_input(err, "building a git revision needs XDG_CACHE_HOME or HOME for its cache");
    return NULL;
}

/* Added to what cmake is told, as words of a shell. */
static const char *cmake_options(void)
{
    const char *options = getenv("PLIMSOLL_CMAKE_OPTIONS");

    return options ? options : "";
}

/* Builds of one commit with other options are other builds. */
static char *build_directory(const char *cache, const char *commit, struct plim_err *err)
{
    const char *options = cmake_options();

    if (!*options)
        return heap_printf(err, "%s/%s", cache, commit);
    return heap_printf(err, "%s/%s-%08llx", cache, commit,
                       (unsigned long long)(XXH3_64bits(options, strlen(options)) & 0xffffffff));
}

static int find_revision(struct revision *r, const char *name, struct plim_err *err)
{
    struct plim_err unknown = PLIM_ERR_INIT;
    char *spec = heap_printf(err, "%s^{commit}", name);
    const char *const root_argv[] = { "git", "rev-parse", "--show-toplevel", NULL };
    const char *const commit_argv[] = { "git", "rev-parse", "--verify", "--quiet", "--end-of-options", spec, NULL };
    int rc = -1;

    if (!spec || !(r->cache = cache_directory(err)))
        goto out;
    if (!(r->root = command_output(root_argv, NULL, &unknown)) ||
        !(r->commit = command_output(commit_argv, NULL, &unknown))) {
        plim_err_input(err, "\"%s\" is no plimsoll program, no build directory and no git revision here", name);
        goto out;
    }
    if (!(r->directory = build_directory(r->cache, r->commit, err)) ||
        !(r->place = heap_printf(err, "%s/" PLACE "%d", r->directory, (int)getpid())) ||
        !(r->source = heap_printf(err, "%s/source", r->place)) || !(r->objects = heap_printf(err, "%s/objects", r->place)) ||
        !(r->program = heap_printf(err, "%s/plimsoll", r->directory)))
        goto out;
    rc = 0;

out:
    free(spec);
    return rc;
}

#define CONFIGURE                                                                                                          \
    "exec cmake -S \"$1\" -B \"$2\" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF $PLIMSOLL_CMAKE_OPTIONS"

static int compile(const struct revision *r, FILE *log, struct plim_err *err)
{
    char jobs[16];   /* "--parallel" alone lets make start everything at once */
    const char *const checkout[] = { "git",     "-C",       r->root,   "worktree", "add",
                                     "--quiet", "--detach", r->source, r->commit,  NULL };
    const char *const configure[] = { "sh", "-c", CONFIGURE, "sh", r->source, r->objects, NULL };
    const char *const make[] = { "cmake", "--build", r->objects, "--target", "plimsoll", "--parallel", jobs, NULL };
    char *made = NULL;
    int rc = -1;

    snprintf(jobs, sizeof jobs, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    if (log)
        fprintf(log, "building %.12s in %s\n", r->commit, r->directory);
    if (command_run(checkout, log, err) < 0 || command_run(configure, log, err) < 0 || command_run(make, log, err) < 0)
        goto out;
    made = from_directory(r->objects, err);
    /* The rename is what makes it known, so that a build that was cut short is never used. */
    if (made && plim_rename(made, r->program, err) == 0)
        rc = 0;

out:
    free(made);
    return rc < 0 ? plim_err_wrap(err, "building %.12s", r->commit) : 0;
}

/*
 * No worktree that git remembers, no gigabytes of objects. Git finds the repository from the worktree itself. A compiler may
 * write a last file after its build was stopped.
 */
static void remove_build(const char *place)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    char *source = heap_printf(&unsaid, "%s/source", place);
    const char *const forget[] = { "git", "-C", source, "worktree", "remove", "--force", source, NULL };

    if (source && is_directory(source))
        command_clear_up(forget);
    for (int attempt = 0; attempt < 10 && is_directory(place); attempt++) {
        if (attempt)
            usleep(100000);
        directory_remove(place);
    }
    free(source);
}

static void sweep_entry(const char *directory, const char *name)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    char *place = strncmp(name, PLACE, strlen(PLACE)) == 0 ? heap_printf(&unsaid, "%s/%s", directory, name) : NULL;

    if (place)
        remove_build(place);
    free(place);
}

static void sweep_directory(const char *directory)
{
    int lock = directory_lock(directory, LOCK_EX | LOCK_NB);
    DIR *entries = lock >= 0 ? opendir(directory) : NULL;
    const struct dirent *entry;

    while (entries && (entry = readdir(entries)))
        sweep_entry(directory, entry->d_name);
    if (entries)
        closedir(entries);
    if (lock >= 0)
        close(lock);
}

/* What builds left that were killed before they could clear up. */
static void sweep(const char *cache)
{
    struct plim_err unsaid = PLIM_ERR_INIT;
    DIR *entries = opendir(cache);
    const struct dirent *entry;

    while (entries && (entry = readdir(entries))) {
        char *path = entry->d_name[0] != '.' ? heap_printf(&unsaid, "%s/%s", cache, entry->d_name) : NULL;

        if (path)
            sweep_directory(path);
        free(path);
    }
    if (entries)
        closedir(entries);
}

static int build(const struct revision *r, FILE *log, struct plim_err *err)
{
    int lock, rc;

    sweep(r->cache);
    if (plim_make_directories(r->directory, err) < 0)
        return -1;
    lock = directory_lock(r->directory, LOCK_SH);
    /* What is the same in two revisions is compiled once, where a cache looks at paths from here on. */
    setenv("CCACHE_BASEDIR", r->cache, 0);
    rc = compile(r, log, err);
    remove_build(r->place);
    if (lock >= 0)
        close(lock);
    if (rc < 0)
        rmdir(r->directory);   /* unless somebody else has a build in it */
    return rc;
}

static char *from_revision(const char *name, FILE *log, struct plim_err *err)
{
    struct revision r = { 0 };
    char *program = NULL;

    if (find_revision(&r, name, err) < 0)
        goto out;
    if (!is_program(r.program) && build(&r, log, err) < 0)
        goto out;
    program = absolute(r.program, err);

out:
    revision_release(&r);
    return program;
}

char *ab_build_resolve(const char *name, FILE *log, struct plim_err *err)
{
    if (is_program(name))
        return absolute(name, err);
    if (is_directory(name))
        return from_directory(name, err);
    return from_revision(name, log, err);
}
