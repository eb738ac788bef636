#ifndef PLIM_MODEL_STORE_H
#define PLIM_MODEL_STORE_H

/*
 * Where a suite's models are: in one directory, real ones fetched by tools/fetch-model, synthetic ones made when they are
 * first needed, under names that tell what they were made from, and used again.
 */

#include <stdbool.h>
#include <stdio.h>

#include "case_patterns.h"
#include "suite.h"

/* The models directory: `given` if not NULL, else $PLIMSOLL_MODELS, else "models". */
const char *model_store_directory(const char *given);

/* The directory of one model; free(). */
char *model_store_path(const struct suite_model *model, const char *models_directory, struct plim_err *err);

/*
 * Makes what is missing of the models that the selected cases need, by running `program model make`, whose lines go to
 * `log` (NULL: nowhere). A model that cannot be made is an error (kind input) that says how to get it; it comes before
 * anything is made.
 */
int model_store_prepare(const struct suite *suite, const struct case_patterns *cases, const char *models_directory,
                        const char *program, FILE *log, struct plim_err *err);

#endif
