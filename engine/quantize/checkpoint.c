#include "checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "plimsoll/clock.h"

#define DEFAULT_INTERVAL_S 180.0

static void states_path(const struct conversion *c, const char *which, const char *stage, size_t next,
                        char path[JOB_PATH_BYTES])
{
    char name[64];
    snprintf(name, sizeof name, "%s-%s-%05zu.bin", which, stage, next);
    job_path(&c->job, name, path);
}

static void remove_before(const struct conversion *c, const char *stage, size_t end)
{
    char path[JOB_PATH_BYTES];
    for (size_t i = 0; i < end; i++) {
        states_path(c, "states", stage, i, path);
        unlink(path);
        states_path(c, "dense", stage, i, path);
        unlink(path);
    }
}

void checkpoint_save(struct conversion *c, const char *stage, size_t next)
{
    double interval_s = c->options.checkpoint_s > 0 ? c->options.checkpoint_s : DEFAULT_INTERVAL_S;
    struct plim_err err = PLIM_ERR_INIT;
    char path[JOB_PATH_BYTES], dense_path[JOB_PATH_BYTES];
    uint64_t now = plim_now_ns();

    if ((double)(now - c->checkpoint_ns) < interval_s * 1e9)
        return;
    states_path(c, "states", stage, next, path);
    states_path(c, "dense", stage, next, dense_path);
    if ((!c->dense.pool || states_save(&c->dense, dense_path, &err) == 0) && states_save(&c->current, path, &err) == 0)
        remove_before(c, stage, next);
    else
        conversion_log(c, "the states before block %zu could not be saved, which a job that goes on would miss: %s", next,
                       err.message);
    c->checkpoint_ns = plim_now_ns();
}

size_t checkpoint_load(struct conversion *c, const char *stage, size_t last)
{
    c->checkpoint_ns = plim_now_ns();
    for (size_t next = last; next > 0; next--) {
        struct plim_err err = PLIM_ERR_INIT;
        char path[JOB_PATH_BYTES], dense_path[JOB_PATH_BYTES];
        states_path(c, "states", stage, next, path);
        states_path(c, "dense", stage, next, dense_path);
        if (access(path, F_OK) != 0)
            continue;
        /* Both or neither. */
        if (states_check(&c->current, path, &err) == 0 &&
            (!c->dense.pool || states_load(&c->dense, dense_path, &err) == 0) &&
            states_load(&c->current, path, &err) == 0) {
            conversion_log(c, "%s: goes on before block %zu, with the states saved there", stage, next);
            return next;
        }
        conversion_log(c, "%s: not used: %s", path, err.message);
    }
    return 0;
}

void checkpoint_clear(struct conversion *c, const char *stage)
{
    remove_before(c, stage, c->block_count + 2);
}
