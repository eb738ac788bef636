#include "yardstick.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu.h"
#include "plimsoll/cpu.h"
#include "plimsoll/units.h"

#define BURST_NS ((uint64_t)100 * 1000 * 1000)

/* The kernel's own table; glibc's sysconf knows less about caches of new processors. "32768K" */
static size_t cache_from_sysfs(void)
{
    size_t largest = 0;

    for (int index = 0; index < 8; index++) {
        char path[80];
        unsigned long kib = 0;
        FILE *file;

        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
        file = fopen(path, "re");
        if (!file)
            break;
        if (fscanf(file, "%luK", &kib) == 1)
            largest = plim_max(largest, (size_t)kib * 1024);
        fclose(file);
    }
    return largest;
}

size_t last_level_cache_bytes(void)
{
    size_t bytes = cache_from_sysfs();
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);

    if (!bytes && l3 > 0)
        bytes = (size_t)l3;
    return bytes ? bytes : 32 * PLIM_MI;
}

static int add_read(struct facts *facts, const char *name, int threads, struct plim_err *err)
{
    struct read_yardstick read = { 0 };
    double bytes_per_s;
    int rc = -1;

    if (read_yardstick_open(&read, threads, err) == 0 &&
        read_yardstick_measure(&read, BURST_NS, &bytes_per_s, err) == 0)
        rc = facts_set_number(facts, name, bytes_per_s, err);
    read_yardstick_close(&read);
    return rc;
}

static int add_fma(struct facts *facts, const char *name, int threads, struct plim_err *err)
{
    double flops_per_s;

    if (fma_yardstick_measure(threads, BURST_NS / 2, &flops_per_s, err) < 0)
        return -1;
    return facts_set_number(facts, name, flops_per_s, err);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* 512 rows through one square matrix: the size of a prompt through a small model's layer. Median of three. */
static int add_gemm(struct facts *facts, const char *name, int threads, struct plim_err *err)
{
    static const struct gemm_shape square = { 2048, 2048, 1 };
    struct gemm_yardstick gemm = { 0 };
    double flops[3];
    int rc = -1;

    if (gemm_yardstick_open(&gemm, 512, &square, 1, threads, err) < 0)
        goto out;
    gemm_yardstick_measure(&gemm);   /* warms up */
    for (int i = 0; i < 3; i++)
        flops[i] = gemm_yardstick_measure(&gemm);
    qsort(flops, 3, sizeof flops[0], compare_doubles);
    rc = facts_set_number(facts, name, flops[1], err);

out:
    gemm_yardstick_close(&gemm);
    return rc;
}

int yardsticks_measure(struct facts *facts, struct plim_err *err)
{
    int cores = plim_cpu_core_count();

    if (add_read(facts, "read_bandwidth_1_bytes_per_s", 1, err) < 0 ||
        add_read(facts, "read_bandwidth_bytes_per_s", cores, err) < 0 ||
        add_fma(facts, "fma_1_flops_per_s", 1, err) < 0 || add_fma(facts, "fma_flops_per_s", cores, err) < 0 ||
        add_gemm(facts, "sgemm_1_flops_per_s", 1, err) < 0 || add_gemm(facts, "sgemm_flops_per_s", cores, err) < 0)
        return -1;
    return gpu_yardsticks(facts, err);
}
