#ifndef PLIM_MEASUREMENT_STORE_H
#define PLIM_MEASUREMENT_STORE_H

/*
 * Measurements of the quantizer that several cases share: a model is measured once, and then quantised at many targets.
 *
 * They are kept in `.measurements` beside the model's directory, under a name that tells what they were made from: the
 * model's files (sizes and times), the calibration, the shape of the rows, the seed, the method, the backend, instruction
 * set and BLAS core, and the program itself, byte for byte: another build measures for itself.
 */

#include "plimsoll/err.h"
#include "plimsoll/parameters.h"
#include "plimsoll/quantize.h"

/*
 * The path of the measurement that a conversion with `options` would make, made now if nobody did before; free(). The current
 * directory is used as a scratch for it. `options->model_directory` may lead to the model by a link.
 */
char *measurement_store_get(const struct plim_quantize_options *options, const struct plim_parameters *parameters,
                            struct plim_err *err);

#endif
