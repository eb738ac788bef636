#include "trace.h"

#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "plimsoll/memory_trace.h"

/* Reading stops being possible for one of two reasons, and only the second is an error. */
enum taken { TAKEN, CUT_OFF, BROKEN };

/* ---- bytes ---- */

static enum taken broken(const struct trace *t, const char *what, struct plim_err *err)
{
    plim_err_input(err, "%s: not a sound memory trace: byte %zu: %s", t->path, t->position, what);
    return BROKEN;
}

static enum taken take_byte(struct trace *t, unsigned *byte)
{
    if (t->position == t->map.bytes)
        return CUT_OFF;
    *byte = t->map.data[t->position++];
    return TAKEN;
}

static enum taken take_varint(struct trace *t, uint64_t *value, struct plim_err *err)
{
    unsigned byte = 0;

    *value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (take_byte(t, &byte) == CUT_OFF)
            return CUT_OFF;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return TAKEN;
    }
    return broken(t, "a number of more than 64 bits", err);
}

static enum taken take_text(struct trace *t, char **text, struct plim_err *err)
{
    uint64_t length;
    enum taken taken = take_varint(t, &length, err);

    if (taken != TAKEN)
        return taken;
    if (length > 4096)
        return broken(t, "a name of more than 4096 bytes", err);
    if (length > t->map.bytes - t->position)
        return CUT_OFF;
    *text = heap_calloc(length + 1, 1, err);
    if (!*text)
        return BROKEN;
    memcpy(*text, t->map.data + t->position, length);
    t->position += length;
    return TAKEN;
}

static enum taken take_time(struct trace *t, struct plim_err *err)
{
    uint64_t since;
    enum taken taken = take_varint(t, &since, err);

    if (taken == TAKEN)
        t->time_ns += since;
    return taken;
}

/* ---- tables ---- */

static enum taken add_name(struct trace *t, char ***names, size_t *count, struct plim_err *err)
{
    char **moved = heap_room(*names, *count, sizeof **names, err);
    enum taken taken;

    if (!moved)
        return BROKEN;
    *names = moved;
    taken = take_text(t, &moved[*count], err);
    *count += taken == TAKEN;
    return taken;
}

static int add_origin(struct trace *t, uint32_t scope, uint32_t site, struct plim_err *err)
{
    struct trace_origin *moved = heap_room(t->origins, t->origin_count, sizeof *moved, err);

    if (!moved)
        return -1;
    t->origins = moved;
    moved[t->origin_count++] = (struct trace_origin){ .scope = scope, .site = site };
    return 0;
}

static int add_empty_name(char ***names, size_t *count, struct plim_err *err)
{
    char **moved = heap_room(*names, *count, sizeof **names, err);

    if (!moved)
        return -1;
    *names = moved;
    moved[*count] = heap_strdup("", err);
    return moved[(*count)++] ? 0 : -1;
}

static enum taken take_origin(struct trace *t, struct plim_err *err)
{
    uint64_t scope, site;
    enum taken taken;

    if ((taken = take_varint(t, &scope, err)) != TAKEN || (taken = take_varint(t, &site, err)) != TAKEN)
        return taken;
    if (scope >= t->scope_count || site >= t->site_count)
        return broken(t, "an origin of a scope or site without a name", err);
    return add_origin(t, (uint32_t)scope, (uint32_t)site, err) < 0 ? BROKEN : TAKEN;
}

/* ---- changes ---- */

static int tag_named(const char *name)
{
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        if (strcmp(plim_tag_name((enum plim_tag)tag), name) == 0)
            return tag;
    return -1;
}

static enum taken split_tier_and_tag(struct trace *t, unsigned byte, struct trace_event *event, struct plim_err *err)
{
    unsigned tag = byte & PLIM_TRACE_TAG_MASK;

    if (tag >= t->tag_count)
        return broken(t, "a tag without a name", err);
    if (t->tags[tag] < 0)
        return broken(t, "a tag that this version does not know", err);
    event->tier = (enum plim_tier)(byte >> PLIM_TRACE_TIER_SHIFT & 1);
    event->tag = (enum plim_tag)t->tags[tag];
    return TAKEN;
}

static enum taken apply(struct trace *t, const struct trace_event *event, struct plim_err *err)
{
    uint64_t *by_origin = &t->origins[event->origin].held[event->tier][event->tag];
    struct plim_pool_usage *held = &t->held[event->tier];
    bool falls = event->bytes < 0;

    if (falls && 0 - (uint64_t)event->bytes > *by_origin)
        return broken(t, "more is given back than was taken", err);
    *by_origin += (uint64_t)event->bytes;
    held->bytes[event->tag] += (uint64_t)event->bytes;
    if (event->tag != PLIM_TAG_WEIGHTS_MAPPED)
        held->total_bytes += (uint64_t)event->bytes;
    return TAKEN;
}

static enum taken take_held(struct trace *t, struct plim_err *err)
{
    struct trace_event event = { .is_change = true };
    unsigned byte = 0;
    uint64_t bytes;
    enum taken taken;

    if ((taken = take_byte(t, &byte)) != TAKEN || (taken = split_tier_and_tag(t, byte, &event, err)) != TAKEN ||
        (taken = take_varint(t, &bytes, err)) != TAKEN)
        return taken;
    if (bytes > INT64_MAX)
        return broken(t, "a size of more than 63 bits", err);
    event.bytes = (int64_t)bytes;
    return apply(t, &event, err);
}

static enum taken take_change(struct trace *t, unsigned first, struct trace_event *event, struct plim_err *err)
{
    uint64_t origin, zigzag;
    enum taken taken;

    if ((taken = split_tier_and_tag(t, first, event, err)) != TAKEN || (taken = take_time(t, err)) != TAKEN ||
        (taken = take_varint(t, &origin, err)) != TAKEN || (taken = take_varint(t, &zigzag, err)) != TAKEN)
        return taken;
    if (origin >= t->origin_count)
        return broken(t, "an origin that was not named", err);
    event->is_change = true;
    event->time_ns = t->time_ns;
    event->origin = origin;
    event->bytes = (int64_t)(zigzag >> 1 ^ (0 - (zigzag & 1)));
    return apply(t, event, err);
}

static enum taken take_enter(struct trace *t, struct trace_event *event, struct plim_err *err)
{
    uint64_t scope;
    enum taken taken;

    if ((taken = take_time(t, err)) != TAKEN || (taken = take_varint(t, &scope, err)) != TAKEN)
        return taken;
    if (scope >= t->scope_count)
        return broken(t, "a scope without a name", err);
    t->scope = (uint32_t)scope;
    *event = (struct trace_event){ .time_ns = t->time_ns };
    return TAKEN;
}

int trace_next(struct trace *t, struct trace_event *event, struct plim_err *err)
{
    enum taken taken = TAKEN;
    unsigned first = 0;

    while (taken == TAKEN && !t->complete) {
        if (take_byte(t, &first) == CUT_OFF)
            return 0;
        if (first & PLIM_TRACE_CHANGE) {
            taken = take_change(t, first, event, err);
            if (taken == TAKEN)
                return 1;
            continue;
        }
        switch (first) {
        case PLIM_TRACE_END:
            taken = take_time(t, err);
            t->complete = taken == TAKEN;
            break;
        case PLIM_TRACE_SCOPE:
            taken = add_name(t, &t->scopes, &t->scope_count, err);
            break;
        case PLIM_TRACE_SITE:
            taken = add_name(t, &t->sites, &t->site_count, err);
            break;
        case PLIM_TRACE_ORIGIN:
            taken = take_origin(t, err);
            break;
        case PLIM_TRACE_HELD:
            taken = take_held(t, err);
            break;
        case PLIM_TRACE_ENTER:
            taken = take_enter(t, event, err);
            if (taken == TAKEN)
                return 1;
            break;
        default:
            taken = broken(t, "a record of an unknown kind", err);
        }
    }
    return taken == BROKEN ? -1 : 0;
}

/* ---- open and close ---- */

static void free_names(char ***names, size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        free((*names)[i]);
    free(*names);
    *names = NULL;
    *count = 0;
}

static void forget(struct trace *t)
{
    free_names(&t->scopes, &t->scope_count);
    free_names(&t->sites, &t->site_count);
    free(t->origins);
    t->origins = NULL;
    t->origin_count = 0;
}

/* Scope, site and origin 0. */
static int begin(struct trace *t, struct plim_err *err)
{
    return add_empty_name(&t->scopes, &t->scope_count, err) < 0 || add_empty_name(&t->sites, &t->site_count, err) < 0 ||
           add_origin(t, 0, 0, err) < 0 ? -1 : 0;
}

static int read_tags(struct trace *t, struct plim_err *err)
{
    uint64_t count;
    enum taken taken = take_varint(t, &count, err);

    if (taken == TAKEN && count > PLIM_TRACE_TAG_MASK + 1)
        taken = broken(t, "too many tags", err);
    t->tags = taken == TAKEN ? heap_calloc(count, sizeof *t->tags, err) : NULL;
    if (taken == TAKEN && !t->tags)
        taken = BROKEN;
    for (; taken == TAKEN && t->tag_count < count; t->tag_count++) {
        char *name = NULL;

        taken = take_text(t, &name, err);
        if (taken == TAKEN)
            t->tags[t->tag_count] = tag_named(name);
        free(name);
    }
    if (taken == CUT_OFF)
        broken(t, "the file ends before its first record", err);
    t->first = t->position;
    return taken == TAKEN ? 0 : -1;
}

int trace_open(struct trace *t, const char *path, struct plim_err *err)
{
    *t = (struct trace){ .path = path };
    if (plim_map_open(&t->map, path, err) < 0)
        return -1;
    if (t->map.bytes < PLIM_TRACE_MAGIC_BYTES || memcmp(t->map.data, PLIM_TRACE_MAGIC, PLIM_TRACE_MAGIC_BYTES) != 0) {
        plim_err_input(err, "%s: not a memory trace (plimsoll run --trace-memory makes them)", path);
        goto failed;
    }
    t->position = PLIM_TRACE_MAGIC_BYTES;
    if (read_tags(t, err) < 0 || begin(t, err) < 0)
        goto failed;
    return 0;

failed:
    trace_close(t);
    return -1;
}

void trace_rewind(struct trace *t)
{
    /* The names are read again as they come: their entries stay, with nothing held. */
    for (size_t i = 1; i < t->scope_count; i++)
        free(t->scopes[i]);
    for (size_t i = 1; i < t->site_count; i++)
        free(t->sites[i]);
    t->scope_count = t->site_count = t->origin_count = 1;
    t->origins[0] = (struct trace_origin){ 0 };
    t->position = t->first;
    t->time_ns = 0;
    t->scope = 0;
    t->complete = false;
    memset(t->held, 0, sizeof t->held);
}

void trace_close(struct trace *t)
{
    forget(t);
    free(t->tags);
    plim_map_close(&t->map);
    *t = (struct trace){ 0 };
}

const char *trace_scope_of(const struct trace *t, size_t origin)
{
    return t->scopes[t->origins[origin].scope];
}

const char *trace_site_of(const struct trace *t, size_t origin)
{
    return origin == 0 ? "(before the trace)" : t->sites[t->origins[origin].site];
}
