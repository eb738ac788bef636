#ifndef PLIM_TENSOR_VALUES_H
#define PLIM_TENSOR_VALUES_H

/* Values of F32, F16 and BF16 tensors, one by one, and the check that they are numbers. Data may be unaligned. */

#include <stddef.h>

#include "safetensors.h"

/* Element `index`, widened. */
float tensor_value(const struct tensor *tensor, size_t index);

/* Elements [first, first + count) hold neither NaN nor infinity; else `err` names the tensor and the element. */
int tensor_check_finite(const struct tensor *tensor, size_t first, size_t count, struct plim_err *err);

#endif
