#include "gpu_case.h"

#include <stdio.h>
#include <string.h>

#include "plimsoll/device.h"

static int device_of(const struct model_run *m)
{
    return (int)m->run->parameters.count[PLIM_DEVICE];
}

bool gpu_case_is_cuda(const struct model_run *m)
{
    return strcmp(plim_parameters_backend(&m->run->parameters), "cuda") == 0;
}

void gpu_case_key(const struct model_run *m, char *buffer, size_t size)
{
    struct plim_err unusable = PLIM_ERR_INIT;
    struct plim_device device;

    if (plim_device_describe(device_of(m), &device, &unusable) < 0)
        snprintf(buffer, size, "cuda");
    else
        snprintf(buffer, size, "cuda/%s", device.name);
}

void gpu_case_begin(struct model_run *m)
{
    struct plim_err unusable = PLIM_ERR_INIT;
    struct plim_device device;

    m->process_device_bytes = -1;
    if (!gpu_case_is_cuda(m) || plim_device_describe(device_of(m), &device, &unusable) < 0)
        return;
    m->gpu = gpu_open(device.bus_id);
    gpu_state(m->gpu, &m->gpu_before);
}

void gpu_case_note_memory(struct model_run *m)
{
    struct plim_pool_stats stats;
    struct gpu_state now;

    if (!m->gpu || !m->engine)
        return;
    gpu_state(m->gpu, &now);
    plim_pool_stats(plim_engine_pool(m->engine), &stats);
    m->process_device_bytes = now.process_bytes;
    m->outside_pool_bytes = now.process_bytes - (double)stats.reserved_bytes[PLIM_FAST];
}

/* What is known of it. */
static int report_known(struct model_run *m, const char *name, double value, struct plim_err *err)
{
    return value < 0 ? 0 : report_number(m, name, value, err);
}

int gpu_case_end(struct model_run *m, struct plim_err *err)
{
    const struct gpu_state *before = &m->gpu_before;
    struct gpu_state after;
    int rc = 0;

    if (!m->gpu)
        return 0;
    gpu_state(m->gpu, &after);
    if ((m->process_device_bytes >= 0 &&
         (report_number(m, "process_device_bytes", m->process_device_bytes, err) < 0 ||
          report_number(m, "device_outside_pool_bytes", m->outside_pool_bytes, err) < 0)) ||
        report_known(m, "gpu_sm_clock_before_mhz", before->sm_clock_mhz, err) < 0 ||
        report_known(m, "gpu_sm_clock_after_mhz", after.sm_clock_mhz, err) < 0 ||
        report_known(m, "gpu_temperature_before_c", before->temperature_c, err) < 0 ||
        report_known(m, "gpu_temperature_after_c", after.temperature_c, err) < 0 ||
        report_known(m, "gpu_throttle_before", before->throttle_reasons, err) < 0 ||
        report_known(m, "gpu_throttle_after", after.throttle_reasons, err) < 0)
        rc = -1;
    gpu_close(m->gpu);
    m->gpu = NULL;
    return rc;
}

int gpu_case_read_reference(struct model_run *m, double bytes_per_s, uint64_t step_bytes, struct plim_err *err)
{
    struct plim_device device;
    struct plim_device_rates rates;

    if (plim_device_describe(device_of(m), &device, err) < 0)
        return -1;
    if (step_bytes < 2 * device.l2_bytes)
        return 0;
    if (plim_device_rates(device_of(m), &rates, err) < 0 ||
        report_number(m, "read_bandwidth_bytes_per_s", rates.read_bytes_per_s, err) < 0 ||
        report_number(m, "read_bandwidth_fraction", bytes_per_s / rates.read_bytes_per_s, err) < 0 ||
        report_number(m, "copy_bandwidth_bytes_per_s", rates.copy_bytes_per_s, err) < 0)
        return -1;
    return report_number(m, "copy_bandwidth_fraction", bytes_per_s / rates.copy_bytes_per_s, err);
}

int gpu_case_product_reference(struct model_run *m, size_t rows, const struct gemm_shape *shapes, size_t shape_count,
                               double flops_per_s, struct plim_err *err)
{
    struct plim_device_product products[8];
    double reference;

    for (size_t i = 0; i < shape_count; i++)
        products[i] = (struct plim_device_product){ shapes[i].in, shapes[i].out, shapes[i].times };
    if (plim_device_product_rate(device_of(m), rows, products, shape_count, &reference, err) < 0 ||
        report_number(m, "fp16_product_flops_per_s", reference, err) < 0)
        return -1;
    return report_number(m, "fp16_product_fraction", flops_per_s / reference, err);
}
