/*
 * A developers' benchmark of a process's start on CUDA: what it takes before the first token, beside what any program takes.
 *
 *     build/release/tests/bench_cuda_start DIRECTORY [SETTING ...]
 *
 * context   device memory and time of processes with an empty kernel (bench_cuda_empty, which lies beside this program), and
 *           of processes that open the engine and load the model: without what the pool reserved, before any token. Nothing
 *           else may use the device meanwhile, for the bytes are all that are in use there. Best of three of each.
 * loading   seconds from the page cache, several times, as a share of what the same process then uploads from pinned memory.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_cuda_must.h"
#include "plimsoll/clock.h"
#include "plimsoll/device.h"
#include "plimsoll/engine.h"
#include "plimsoll/pool.h"
#include "plimsoll/units.h"

enum { PROCESSES = 3, LOADS = 5 };

static void parameters_of(int argc, char **argv, struct plim_parameters *parameters)
{
    plim_parameters_default(parameters);
    for (int i = 0; i < argc; i++) {
        char setting[256];
        snprintf(setting, sizeof setting, "%s", argv[i]);
        char *value = strchr(setting, '=');
        if (!value)
            continue;
        *value++ = '\0';
        must(plim_parameters_set(parameters, setting, value, &err));
    }
    must(plim_parameters_resolve(parameters, &err));
}

/* ---- one process ---- */

/* Milliseconds until the engine is open, and the device's bytes beside the pool's once the model is loaded. */
static int started(const char *directory, const struct plim_parameters *parameters)
{
    uint64_t start = plim_now_ns(), free_bytes, total_bytes;
    struct plim_pool_stats stats;
    struct plim_engine *engine;
    struct plim_model *model;

    must(plim_engine_open(&engine, "cuda", parameters, NULL, &err));
    double ms = (double)(plim_now_ns() - start) * 1e-6;
    must(plim_model_load(&model, engine, directory, &err));
    must(plim_device_memory((int)parameters->count[PLIM_DEVICE], &free_bytes, &total_bytes, &err));
    plim_pool_stats(plim_engine_pool(engine), &stats);
    printf("%.3f %llu\n", ms, (unsigned long long)(total_bytes - free_bytes - stats.reserved_bytes[PLIM_FAST]));
    plim_model_free(model);
    return plim_engine_close(engine) != 0;
}

struct start {
    double ms;
    unsigned long long bytes;
};

/* The least that processes of `command` print. */
static struct start least_of(const char *command)
{
    struct start least = { 1e9, ~0ull };

    for (int i = 0; i < PROCESSES; i++) {
        struct start one;
        FILE *out = popen(command, "r");
        must(out && fscanf(out, "%lf %llu", &one.ms, &one.bytes) == 2 && pclose(out) == 0
                 ? 0
                 : plim_err_set(&err, PLIM_ERR_SYSTEM, "%s: failed", command));
        least.ms = one.ms < least.ms ? one.ms : least.ms;
        least.bytes = one.bytes < least.bytes ? one.bytes : least.bytes;
    }
    return least;
}

static void print_context(const char *self, const char *directory)
{
    char command[4096];
    const char *slash = strrchr(self, '/');

    snprintf(command, sizeof command, "%.*s/bench_cuda_empty", slash ? (int)(slash - self) : 1, slash ? self : ".");
    struct start empty = least_of(command);
    snprintf(command, sizeof command, "'%s' --once '%s'", self, directory);
    struct start ours = least_of(command);
    printf("empty kernel: %.1f ms, %.1f MiB\nengine: open after %.1f ms; model loaded, beside the pool %.1f MiB: %.3f of it\n",
           empty.ms, (double)empty.bytes / PLIM_MI, ours.ms, (double)ours.bytes / PLIM_MI,
           (double)ours.bytes / (double)empty.bytes);
}

/* ---- loading ---- */

static void print_loading(const char *directory, const struct plim_parameters *parameters)
{
    struct plim_device_rates rates;
    struct plim_pool_stats stats;
    struct plim_engine *engine;
    struct plim_model *model;
    double best = 0;

    must(plim_engine_open(&engine, "cuda", parameters, NULL, &err));
    for (int i = 0; i < LOADS; i++) {
        uint64_t start = plim_now_ns();
        must(plim_model_load(&model, engine, directory, &err));
        double s = (double)(plim_now_ns() - start) * 1e-9;
        plim_pool_stats(plim_engine_pool(engine), &stats);
        double rate = (double)stats.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS] / s;
        best = rate > best ? rate : best;
        printf("load %d: %.3f s, %.1f GB/s\n", i, s, rate * 1e-9);
        plim_model_free(model);
    }
    must(plim_engine_close(engine) == 0 ? 0 : plim_err_set(&err, PLIM_ERR_INTERNAL, "blocks are left"));
    must(plim_device_rates((int)parameters->count[PLIM_DEVICE], &rates, &err));
    printf("pinned memory to device: %.1f GB/s; the best load is %.0f%% of it\n", rates.upload_bytes_per_s * 1e-9,
           100 * best / rates.upload_bytes_per_s);
}

int main(int argc, char **argv)
{
    struct plim_parameters parameters;

    parameters_of(argc, argv, &parameters);
    if (argc > 2 && strcmp(argv[1], "--once") == 0)
        return started(argv[2], &parameters);
    if (argc < 2)
        return 2;
    print_context(argv[0], argv[1]);
    print_loading(argv[1], &parameters);
    return 0;
}
