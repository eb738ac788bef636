#include "ab_watch.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"

/* Shares of all cores. The kernel counts processor time in ticks of 10 ms, so a short pair can be off by a few. */
#define OTHERS_LIMIT 0.10
#define STOLEN_LIMIT 0.02
#define TICKS_OF_DOUBT 3

bool machine_was_disturbed(const struct machine_use *before, const struct machine_use *after, int cores, char *why,
                           size_t size)
{
    double tick_s = 1.0 / (double)sysconf(_SC_CLK_TCK);
    double capacity_s = (after->wall_s - before->wall_s) * cores, doubt_s = TICKS_OF_DOUBT * tick_s;
    double others_s = after->busy_s - before->busy_s - (after->ours_s - before->ours_s);
    double stolen_s = after->stolen_s - before->stolen_s;

    if (after->throttled > before->throttled) {
        snprintf(why, size, "throttled by heat");
        return true;
    }
    if (stolen_s > STOLEN_LIMIT * capacity_s + doubt_s) {
        snprintf(why, size, "the hypervisor took %.0f%% of the processor", 100 * stolen_s / capacity_s);
        return true;
    }
    if (others_s > OTHERS_LIMIT * capacity_s + doubt_s) {
        snprintf(why, size, "other programs used %.0f%% of the processor", 100 * others_s / capacity_s);
        return true;
    }
    return false;
}

/* "cpu  user nice system idle iowait irq softirq steal ...", in ticks. */
static void read_processor_time(struct machine_use *use)
{
    unsigned long long user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, softirq = 0, steal = 0;
    double ticks_per_s = (double)sysconf(_SC_CLK_TCK);
    FILE *file = fopen("/proc/stat", "re");

    if (!file)
        return;
    if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait, &irq, &softirq,
               &steal) == 8) {
        use->busy_s = (double)(user + nice + system + irq + softirq) / ticks_per_s;
        use->stolen_s = (double)steal / ticks_per_s;
    }
    fclose(file);
}

static double usage_s(int who)
{
    struct rusage usage;

    if (getrusage(who, &usage) < 0)
        return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static long throttle_count(int cores)
{
    long sum = 0;

    for (int core = 0; core < cores; core++) {
        char path[96];
        long count = 0;
        FILE *file;

        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/thermal_throttle/core_throttle_count", core);
        file = fopen(path, "re");
        if (!file)
            break;   /* virtual machines have none */
        if (fscanf(file, "%ld", &count) == 1)
            sum += count;
        fclose(file);
    }
    return sum;
}

struct machine_use machine_use_now(int cores)
{
    struct machine_use use = { .wall_s = (double)plim_now_ns() / 1e9,
                               .ours_s = usage_s(RUSAGE_SELF) + usage_s(RUSAGE_CHILDREN),
                               .throttled = throttle_count(cores) };

    read_processor_time(&use);
    return use;
}

static void begin(void *context)
{
    struct machine_watch *state = context;

    state->before = machine_use_now(state->cores);
}

static bool end(void *context, char *why, size_t size)
{
    struct machine_watch *state = context;
    struct machine_use after = machine_use_now(state->cores);

    return machine_was_disturbed(&state->before, &after, state->cores, why, size);
}

struct ab_watch machine_watch(struct machine_watch *state)
{
    *state = (struct machine_watch){ .cores = (int)sysconf(_SC_NPROCESSORS_ONLN) };
    return (struct ab_watch){ .begin = begin, .end = end, .context = state };
}
