#include "model_store.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heap.h"
#include "interrupt.h"
#include "plimsoll/file.h"
#include "plimsoll/process.h"
#include "runner.h"

const char *model_store_directory(const char *given)
{
    const char *environment = getenv("PLIMSOLL_MODELS");

    return given ? given : environment && *environment ? environment : "models";
}

char *model_store_path(const struct suite_model *model, const char *models_directory, struct plim_err *err)
{
    if (model->directory[0] == '/')
        return heap_strdup(model->directory, err);
    return plim_path_join(models_directory, model->directory, err);
}

static bool is_model(const char *directory, struct plim_err *err)
{
    char *config = plim_path_join(directory, "config.json", err);
    bool there = config && plim_path_exists(config);

    free(config);
    return there;
}

static bool is_needed(const struct suite *suite, size_t model, const struct case_patterns *cases)
{
    for (size_t i = 0; i < suite->case_count; i++)
        if (suite->cases[i].model == model && case_patterns_match(cases, &suite->cases[i]))
            return true;
    return false;
}

static int refuse_missing(const struct suite_model *model, const char *path, struct plim_err *err)
{
    if (model->fetch)
        return plim_err_input(err, "model %s: there is no model in %s; get it with `tools/fetch-model %s`", model->name,
                              path, model->fetch);
    return plim_err_input(err, "model %s: there is no model in %s", model->name, path);
}

/* ---- making ---- */

/* Passes the child's standard error on until it ends. */
static int follow(struct plim_process *child, FILE *log, char *last, size_t last_size, struct plim_err *err)
{
    char chunk[1024];

    for (;;) {
        struct pollfd fds[2] = { { .fd = child->errors_of_child, .events = POLLIN },
                                 { .fd = interrupt_fd(), .events = POLLIN } };
        ssize_t got;

        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return plim_err_errno(err, "waiting for the model");
        if (interrupt_requested())
            return plim_err_set(err, PLIM_ERR_INTERRUPTED, "interrupted");
        if (!fds[0].revents)
            continue;
        got = read(child->errors_of_child, chunk, sizeof chunk - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        chunk[got] = '\0';
        if (log)
            fputs(chunk, log);
        snprintf(last, last_size, "%s", chunk);
    }
}

static int run_make(const char *const *argv, const char *name, FILE *log, struct plim_err *err)
{
    struct plim_process child = PLIM_PROCESS_INIT;
    struct plim_process_options options = { .argv = argv };
    struct plim_process_exit exit;
    char last[1024] = "";
    int rc = -1;

    if (plim_process_start(&child, &options, err) < 0)
        goto out;
    if (follow(&child, log, last, sizeof last, err) < 0 || plim_process_wait(&child, &exit, err) < 0)
        goto out;
    if (exit.signaled || exit.status != 0) {
        last[strcspn(last, "\n")] = '\0';
        plim_err_set(err, exit.signaled || exit.status != 2 ? PLIM_ERR_SYSTEM : PLIM_ERR_INPUT,
                     "making model %s failed%s%s", name, *last ? ": " : "", last);
        goto out;
    }
    rc = 0;

out:
    plim_process_release(&child);
    return rc;
}

static int make(const struct suite_model *model, const char *path, const char *program, FILE *log,
                struct plim_err *err)
{
    const struct plim_synthetic *m = &model->make;
    char layers[24], bits[24], head_bits[24], seed[24];
    const char *argv[20] = { program, "model", "make", "--preset", m->preset, "--seed", seed, "--format",
                             m->exl2 ? "exl2" : "dense" };
    size_t count = 9;

    snprintf(seed, sizeof seed, "%llu", (unsigned long long)m->seed);
    if (m->layers) {
        snprintf(layers, sizeof layers, "%lld", (long long)m->layers);
        argv[count++] = "--layers";
        argv[count++] = layers;
    }
    if (m->exl2) {
        snprintf(bits, sizeof bits, "%g", m->bits_per_weight);
        snprintf(head_bits, sizeof head_bits, "%d", m->head_bits);
        argv[count++] = "--bpw";
        argv[count++] = bits;
        argv[count++] = "--head-bits";
        argv[count++] = head_bits;
    }
    argv[count++] = path;
    argv[count] = NULL;
    if (log)
        fprintf(log, "making model %s in %s\n", model->name, path);
    return run_make(argv, model->name, log, err);
}

int model_store_prepare(const struct suite *suite, const struct case_patterns *cases, const char *models_directory,
                        const char *program, FILE *log, struct plim_err *err)
{
    /* First whether all can be had, then the work. */
    for (int making = 0; making <= 1; making++)
        for (size_t i = 0; i < suite->model_count; i++) {
            const struct suite_model *model = &suite->models[i];
            char *path;
            int rc = 0;

            if (!is_needed(suite, i, cases))
                continue;
            path = model_store_path(model, models_directory, err);
            if (!path)
                return -1;
            if (!is_model(path, err)) {
                if (!making && !model->made)
                    rc = refuse_missing(model, path, err);
                if (making && model->made)
                    rc = plim_make_directories(models_directory, err) < 0 ? -1 : make(model, path, program, log, err);
            }
            free(path);
            if (rc < 0)
                return -1;
        }
    return 0;
}
