/* Builds without CUDA have no device to describe. */

#include "plimsoll/device.h"

static int none(struct plim_err *err)
{
    return plim_err_input(err, "this build has no CUDA backend");
}

int plim_device_describe(int device, struct plim_device *out, struct plim_err *err)
{
    (void)device, (void)out;
    return none(err);
}

int plim_device_memory(int device, uint64_t *free_bytes, uint64_t *total_bytes, struct plim_err *err)
{
    (void)device, (void)free_bytes, (void)total_bytes;
    return none(err);
}

int plim_device_rates(int device, struct plim_device_rates *out, struct plim_err *err)
{
    (void)device, (void)out;
    return none(err);
}

int plim_device_product_rate(int device, size_t rows, const struct plim_device_product *products, size_t product_count,
                             double *flops_per_s, struct plim_err *err)
{
    (void)device, (void)rows, (void)products, (void)product_count, (void)flops_per_s;
    return none(err);
}
