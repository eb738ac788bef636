#ifndef PLIM_CASE_LIST_H
#define PLIM_CASE_LIST_H

/*
 * The cases of a suite as JSON, for programs that run the same ones elsewhere (tools/peer-exllamav2):
 *
 *     { "suite": { "name": "cuda-decode", "digest": "..." },
 *       "cases": [ { "id": "...", "model": "tiny", "model_directory": "models/tiny-...", "workload": "decode",
 *                    "parameters": { every parameter, resolved, as text }, "arguments": { "prompt_tokens": 16, ... },
 *                    "repeats": 5, "warmup": 1, "timeout_s": 300 } ] }
 *
 * `model_directory` is where the model is, or will be once it is made; absent with `model` "".
 */

#include "runner.h"
#include "suite.h"

/* Of `options`, cases, models_directory and repeats are used. The text is the caller's, free(); NULL on failure. */
char *case_list_format(const struct suite *suite, const struct run_options *options, struct plim_err *err);

#endif
