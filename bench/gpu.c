#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/device.h"

/* ---- NVML, as far as it is needed (its header comes with the toolkit, which need not be there) ---- */

typedef struct nvml_device *nvml_device;

struct nvml_process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

enum { NVML_SUCCESS = 0, NVML_CLOCK_SM = 1, NVML_CLOCK_MEMORY = 2, NVML_TEMPERATURE_GPU = 0, NVML_PROCESS_LIMIT = 64 };

struct gpu {
    void *library;
    nvml_device device;
    int (*init)(void);
    int (*shutdown)(void);
    int (*by_bus_id)(const char *bus_id, nvml_device *device);
    int (*clock)(nvml_device device, int type, unsigned *mhz);
    int (*temperature)(nvml_device device, int sensor, unsigned *celsius);
    int (*power)(nvml_device device, unsigned *milliwatts);
    int (*throttle)(nvml_device device, unsigned long long *reasons);
    int (*processes)(nvml_device device, unsigned *count, struct nvml_process *processes);
    int (*driver)(char *version, unsigned size);
    int (*ecc)(nvml_device device, int *now, int *after_reboot);
};

/* ISO C has no conversion from the pointers that dlsym returns to functions. */
static bool find(void *library, const char *name, void *slot)
{
    void *function = dlsym(library, name);

    memcpy(slot, &function, sizeof function);
    return function != NULL;
}

struct gpu *gpu_open(const char *bus_id)
{
    struct gpu *gpu = calloc(1, sizeof *gpu);

    if (!gpu)
        return NULL;
    gpu->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (gpu->library && find(gpu->library, "nvmlInit_v2", &gpu->init) &&
        find(gpu->library, "nvmlShutdown", &gpu->shutdown) &&
        find(gpu->library, "nvmlDeviceGetHandleByPciBusId_v2", &gpu->by_bus_id) &&
        find(gpu->library, "nvmlDeviceGetClockInfo", &gpu->clock) &&
        find(gpu->library, "nvmlDeviceGetTemperature", &gpu->temperature) &&
        find(gpu->library, "nvmlDeviceGetPowerUsage", &gpu->power) &&
        find(gpu->library, "nvmlDeviceGetCurrentClocksThrottleReasons", &gpu->throttle) &&
        find(gpu->library, "nvmlDeviceGetComputeRunningProcesses_v3", &gpu->processes) &&
        find(gpu->library, "nvmlSystemGetDriverVersion", &gpu->driver) &&
        find(gpu->library, "nvmlDeviceGetEccMode", &gpu->ecc) && gpu->init() == NVML_SUCCESS) {
        if (gpu->by_bus_id(bus_id, &gpu->device) == NVML_SUCCESS)
            return gpu;
        gpu->shutdown();
    }
    if (gpu->library)
        dlclose(gpu->library);
    free(gpu);
    return NULL;
}

void gpu_close(struct gpu *gpu)
{
    if (!gpu)
        return;
    gpu->shutdown();
    dlclose(gpu->library);
    free(gpu);
}

/* ---- a moment ---- */

static double process_bytes(const struct gpu *gpu)
{
    struct nvml_process processes[NVML_PROCESS_LIMIT];
    unsigned count = NVML_PROCESS_LIMIT;

    if (gpu->processes(gpu->device, &count, processes) != NVML_SUCCESS)
        return -1;
    for (unsigned i = 0; i < count; i++)
        if (processes[i].pid == (unsigned)getpid() && processes[i].used_bytes != ~0ull)
            return (double)processes[i].used_bytes;
    return -1;
}

void gpu_state(const struct gpu *gpu, struct gpu_state *out)
{
    unsigned value;
    unsigned long long reasons;

    *out = (struct gpu_state){ -1, -1, -1, -1, -1, -1 };
    if (!gpu)
        return;
    if (gpu->clock(gpu->device, NVML_CLOCK_SM, &value) == NVML_SUCCESS)
        out->sm_clock_mhz = value;
    if (gpu->clock(gpu->device, NVML_CLOCK_MEMORY, &value) == NVML_SUCCESS)
        out->memory_clock_mhz = value;
    if (gpu->temperature(gpu->device, NVML_TEMPERATURE_GPU, &value) == NVML_SUCCESS)
        out->temperature_c = value;
    if (gpu->power(gpu->device, &value) == NVML_SUCCESS)
        out->power_w = value / 1000.0;
    if (gpu->throttle(gpu->device, &reasons) == NVML_SUCCESS)
        out->throttle_reasons = (double)reasons;
    out->process_bytes = process_bytes(gpu);
}

/* ---- facts ---- */

static int nvml_facts(const char *bus_id, struct facts *facts, struct plim_err *err)
{
    struct gpu *gpu = gpu_open(bus_id);
    char driver[96] = "unknown";
    int ecc = -1, after_reboot, rc = -1;

    if (gpu && gpu->driver(driver, sizeof driver) != NVML_SUCCESS)
        snprintf(driver, sizeof driver, "unknown");
    if (gpu && gpu->ecc(gpu->device, &ecc, &after_reboot) != NVML_SUCCESS)
        ecc = -1;
    if (facts_set_text(facts, "gpu_driver", driver, err) == 0 &&
        facts_set_text(facts, "gpu_ecc", ecc < 0 ? "unknown" : ecc ? "on" : "off", err) == 0)
        rc = 0;
    gpu_close(gpu);
    return rc;
}

int gpu_facts(struct facts *facts, struct plim_err *err)
{
    struct plim_err unusable = PLIM_ERR_INIT;
    struct plim_device device;
    char runtime[32];

    if (plim_device_describe(0, &device, &unusable) < 0)
        return facts_set_text(facts, "gpu", "none", err);
    snprintf(runtime, sizeof runtime, "%d.%d", device.runtime_version / 1000, device.runtime_version % 1000 / 10);
    if (facts_set_text(facts, "gpu", device.name, err) < 0 ||
        facts_set_number(facts, "gpu_memory_gib", (double)(device.memory_bytes >> 30), err) < 0 ||
        facts_set_text(facts, "cuda_runtime", runtime, err) < 0)
        return -1;
    return nvml_facts(device.bus_id, facts, err);
}

/* "power cap, heat"; "nothing" holds the clock down. */
static void name_reasons(double reasons, char *buffer, size_t size)
{
    static const struct {
        unsigned long long bit;
        const char *name;
    } names[] = {
        { 0x01, "idle" }, { 0x02, "clocks setting" }, { 0x04, "power cap" }, { 0x08, "hardware slowdown" },
        { 0x10, "synchronised boost" }, { 0x20, "heat" }, { 0x40, "heat, in hardware" }, { 0x80, "power brake" },
        { 0x100, "display clocks setting" },
    };
    unsigned long long bits = reasons < 0 ? 0 : (unsigned long long)reasons;
    size_t length = 0;

    snprintf(buffer, size, "%s", reasons < 0 ? "unknown" : "nothing");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (bits & names[i].bit && length < size)
            length += (size_t)snprintf(buffer + length, size - length, "%s%s", length ? ", " : "", names[i].name);
}

int gpu_recorded(struct facts *facts, struct plim_err *err)
{
    struct plim_err unusable = PLIM_ERR_INIT;
    struct plim_device device;
    struct gpu_state now;
    struct gpu *gpu;
    char reasons[160];

    if (plim_device_describe(0, &device, &unusable) < 0)
        return facts_set_text(facts, "cuda", unusable.message, err);
    gpu = gpu_open(device.bus_id);
    gpu_state(gpu, &now);
    gpu_close(gpu);
    name_reasons(now.throttle_reasons, reasons, sizeof reasons);
    if (facts_set_text(facts, "cuda", "usable", err) < 0 ||
        facts_set_number(facts, "gpu_sm_clock_mhz", now.sm_clock_mhz, err) < 0 ||
        facts_set_number(facts, "gpu_memory_clock_mhz", now.memory_clock_mhz, err) < 0 ||
        facts_set_number(facts, "gpu_temperature_c", now.temperature_c, err) < 0 ||
        facts_set_number(facts, "gpu_power_w", now.power_w, err) < 0)
        return -1;
    return facts_set_text(facts, "gpu_clocks_held_by", reasons, err);
}

int gpu_yardsticks(struct facts *facts, struct plim_err *err)
{
    static const struct plim_device_product square = { 8192, 8192, 1 };
    struct plim_err unusable = PLIM_ERR_INIT;
    struct plim_device device;
    struct plim_device_rates rates;
    double flops_per_s;

    if (plim_device_describe(0, &device, &unusable) < 0)
        return 0;
    if (plim_device_rates(0, &rates, err) < 0 || plim_device_product_rate(0, 8192, &square, 1, &flops_per_s, err) < 0 ||
        facts_set_number(facts, "gpu_read_bytes_per_s", rates.read_bytes_per_s, err) < 0 ||
        facts_set_number(facts, "gpu_copy_bytes_per_s", rates.copy_bytes_per_s, err) < 0 ||
        facts_set_number(facts, "gpu_upload_bytes_per_s", rates.upload_bytes_per_s, err) < 0)
        return -1;
    return facts_set_number(facts, "gpu_fp16_flops_per_s", flops_per_s, err);
}
