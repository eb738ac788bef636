#include "ab_build.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command.h"
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

struct revision {
    char *root;        /* of the repository */
    char *commit;
    char *directory;   /* in the cache */
    char *source;      /* the private worktree */
    char *objects;     /* the build directory */
    char *program;     /* what is kept */
};

static void revision_release(struct revision *r)
{
    free(r->root);
    free(r->commit);
    free(r->directory);
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

static int find_revision(struct revision *r, const char *name, struct plim_err *err)
{
    struct plim_err unknown = PLIM_ERR_INIT;
    char *spec = heap_printf(err, "%s^{commit}", name), *cache = NULL;
    const char *const root_argv[] = { "git", "rev-parse", "--show-toplevel", NULL };
    const char *const commit_argv[] = { "git", "rev-parse", "--verify", "--quiet", "--end-of-options", spec, NULL };
    int rc = -1;

    if (!spec || !(cache = cache_directory(err)))
        goto out;
    if (!(r->root = command_output(root_argv, NULL, &unknown)) ||
        !(r->commit = command_output(commit_argv, NULL, &unknown))) {
        plim_err_input(err, "\"%s\" is no plimsoll program, no build directory and no git revision here", name);
        goto out;
    }
    if (!(r->directory = heap_printf(err, "%s/%s", cache, r->commit)) ||
        !(r->source = heap_printf(err, "%s/source-%d", r->directory, (int)getpid())) ||
        !(r->objects = heap_printf(err, "%s/objects-%d", r->directory, (int)getpid())) ||
        !(r->program = heap_printf(err, "%s/plimsoll", r->directory)))
        goto out;
    rc = 0;

out:
    free(spec);
    free(cache);
    return rc;
}

static int compile(const struct revision *r, FILE *log, struct plim_err *err)
{
    char jobs[16];   /* "--parallel" alone lets make start everything at once */
    const char *const checkout[] = { "git",     "-C",       r->root,   "worktree", "add",
                                     "--quiet", "--detach", r->source, r->commit,  NULL };
    const char *const configure[] = { "cmake", "-S", r->source, "-B", r->objects, "-DCMAKE_BUILD_TYPE=Release",
                                      "-DBUILD_TESTING=OFF", NULL };
    const char *const build[] = { "cmake", "--build", r->objects, "--target", "plimsoll", "--parallel", jobs, NULL };
    char *made = NULL;
    int rc = -1;

    snprintf(jobs, sizeof jobs, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    if (log)
        fprintf(log, "building %.12s in %s\n", r->commit, r->directory);
    if (plim_make_directories(r->directory, err) < 0 || command_run(checkout, log, err) < 0 ||
        command_run(configure, log, err) < 0 || command_run(build, log, err) < 0)
        goto out;
    made = from_directory(r->objects, err);
    /* The rename is what makes it known, so that a build that was cut short is never used. */
    if (made && plim_rename(made, r->program, err) == 0)
        rc = 0;

out:
    free(made);
    return rc < 0 ? plim_err_wrap(err, "building %.12s", r->commit) : 0;
}

/* Whatever happened: no worktree that git remembers, no gigabytes of objects. Failures here change nothing. */
static void clean(const struct revision *r)
{
    struct plim_err ignored = PLIM_ERR_INIT;
    const char *const forget[] = { "git", "-C", r->root, "worktree", "remove", "--force", r->source, NULL };
    const char *const erase[] = { "rm", "-rf", "--", r->source, r->objects, NULL };

    if (is_directory(r->source))
        command_run(forget, NULL, &ignored);
    command_run(erase, NULL, &ignored);
}

static char *from_revision(const char *name, FILE *log, struct plim_err *err)
{
    struct revision r = { 0 };
    char *program = NULL;

    if (find_revision(&r, name, err) < 0)
        goto out;
    if (!is_program(r.program)) {
        int rc = compile(&r, log, err);

        clean(&r);
        if (rc < 0)
            goto out;
    }
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
