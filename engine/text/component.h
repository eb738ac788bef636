#ifndef PLIM_TEXT_COMPONENT_H
#define PLIM_TEXT_COMPONENT_H

/* Reading the parts of a tokenizer.json: objects with a "type", lists walked item by item, values with defaults. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/json.h"

/* The view of an item of `list`, with its path. For walking: plim_json_at searches from the start each time. */
struct plim_json text_item(struct plim_json list, const cJSON *node, size_t index);

/* The string member "type". */
int text_component_type(struct plim_json component, const char **type, struct plim_err *err);

/* "document: path: type X is not supported", with what is. Returns -1. */
int text_unsupported(struct plim_json component, const char *type, const char *supported, struct plim_err *err);

/* Members that may be missing or null: *out keeps its value then. */
int text_optional_bool(struct plim_json object, const char *key, bool *out, struct plim_err *err);
int text_optional_string(struct plim_json object, const char *key, const char **out, struct plim_err *err);

/* Refuses a member that is there and neither null, false, 0 nor "". */
int text_must_be_off(struct plim_json object, const char *key, struct plim_err *err);

/*
 * Calls `read` for the component, or for each one inside it when it is a Sequence; `list_key` names a Sequence's list.
 * A component that is absent or null is no component.
 */
typedef int text_component_reader(void *context, struct plim_json component, const char *type, struct plim_err *err);
int text_each_component(struct plim_json component, const char *list_key, text_component_reader *read, void *context,
                        struct plim_err *err);

#endif
