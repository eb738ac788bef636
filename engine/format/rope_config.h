#ifndef PLIM_ROPE_CONFIG_H
#define PLIM_ROPE_CONFIG_H

/* The rotary embedding's part of config.json. */

#include "architecture.h"
#include "config.h"
#include "config_keys.h"

/* Fills config->rope and config->rope_local; max_positions must be set. */
int rope_config_read(struct model_config *config, const struct architecture *architecture,
                     const struct config_keys *keys, struct plim_err *err);

/* "default", "linear", "llama3", "yarn". */
const char *rope_kind_name(enum rope_kind kind);

#endif
