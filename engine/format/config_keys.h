#ifndef PLIM_CONFIG_KEYS_H
#define PLIM_CONFIG_KEYS_H

/*
 * Looking up keys of config.json. The text model of a multimodal file has its keys under `text_config`; those are
 * looked at first, then the root, as transformers does. A key may go by several names, and `null` is often not the same
 * as absent: null switches a feature off, absence leaves the default.
 */

#include <stdbool.h>
#include <stddef.h>

#include "plimsoll/err.h"
#include "plimsoll/json.h"

struct config_keys {
    struct plim_json root;
    struct plim_json text;   /* node NULL when there is no text_config */
};

/* One key: a list of names, first match wins. KEY("num_hidden_layers", "n_layer") */
#define KEY(...) ((const char *const[]){ __VA_ARGS__, NULL })

struct config_value {
    struct plim_json json;   /* node NULL when absent or null; the path is set all the same */
    bool is_null;            /* the key is there and null */
};

struct config_value config_find(const struct config_keys *keys, const char *const *names);

/*
 * Each reads one key; absent or null is `fallback`. A count with fallback 0 must be there. Counts lie in [1, high],
 * numbers in [low, high].
 */
int config_count(const struct config_keys *keys, const char *const *names, size_t fallback, size_t high, size_t *out,
                 struct plim_err *err);
int config_number(const struct config_keys *keys, const char *const *names, double fallback, double low, double high,
                  double *out, struct plim_err *err);
int config_bool(const struct config_keys *keys, const char *const *names, bool fallback, bool *out,
                struct plim_err *err);

/* The same for a value that was looked up. */
int config_number_in(struct plim_json value, double fallback, double low, double high, double *out,
                     struct plim_err *err);

/* Far above any real model; what is larger is a mistake or an attack. Sizes multiply without overflow below these. */
#define CONFIG_MAX_HIDDEN       ((size_t)1 << 17)
#define CONFIG_MAX_INTERMEDIATE ((size_t)1 << 20)
#define CONFIG_MAX_HEADS        ((size_t)1 << 10)
#define CONFIG_MAX_HEAD_DIM     ((size_t)1 << 10)
#define CONFIG_MAX_VOCAB        ((size_t)1 << 24)
#define CONFIG_MAX_POSITIONS    ((size_t)1 << 30)

/* What a factor may be: wide enough for every real model, narrow enough for fp32; rounding to fp32 stays inside. */
#define FACTOR_LOW  0x1p-40
#define FACTOR_HIGH 0x1p40

#endif
