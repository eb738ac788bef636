#include "tensor_values.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "half.h"

float tensor_value(const struct tensor *tensor, size_t index)
{
    const uint8_t *at = (const uint8_t *)tensor->data + index * dtype_bytes(tensor->dtype);
    uint16_t half;
    float value;

    if (tensor->dtype == DTYPE_F32) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&half, at, sizeof half);
    return tensor->dtype == DTYPE_F16 ? half_to_float(half) : bfloat_to_float(half);
}

/* A float of any width is a number unless its exponent bits are all ones. Plain loops, so that they vectorise. */
static bool all_finite(const struct tensor *tensor, size_t first, size_t count)
{
    const uint8_t *data = (const uint8_t *)tensor->data + first * dtype_bytes(tensor->dtype);
    unsigned bad = 0;

    if (tensor->dtype == DTYPE_F32) {
        for (size_t i = 0; i < count; i++) {
            uint32_t bits;
            memcpy(&bits, data + i * sizeof bits, sizeof bits);
            bad |= (bits & 0x7f800000u) == 0x7f800000u;
        }
        return !bad;
    }
    unsigned exponent = tensor->dtype == DTYPE_F16 ? 0x7c00u : 0x7f80u;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + i * sizeof bits, sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

int tensor_check_finite(const struct tensor *tensor, size_t first, size_t count, struct plim_err *err)
{
    if (all_finite(tensor, first, count))
        return 0;
    size_t index = first;
    while (isfinite(tensor_value(tensor, index)))
        index++;
    return plim_err_input(err, "%s: tensor %s: element %zu is %g, expected a finite number", tensor->file, tensor->name,
                          index, (double)tensor_value(tensor, index));
}
