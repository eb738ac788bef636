#include "pool_trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plimsoll/clock.h"
#include "plimsoll/memory_trace.h"

_Static_assert(PLIM_TAG_COUNT <= PLIM_TRACE_TAG_MASK + 1, "a tag must fit its bits");

#define BUFFER_BYTES 65536
#define RECORD_BYTES 128      /* no record is longer: a name of 64 bytes and its length */
#define ORIGIN_LIMIT 65535    /* what a block's header holds; places beyond count as origin 0 */

struct origin {
    uint32_t scope, site;
};

struct pool_trace {
    int fd;
    int failure;               /* errno of the first write that failed; nothing is recorded after it */
    uint64_t last_ns;
    size_t used;
    char (*scopes)[64];        /* [scope_count], scope i + 1 */
    const char **sites;        /* [site_count], string literals of the program: told apart by address */
    struct origin *origins;    /* [origin_count], origin i + 1 */
    size_t scope_count, site_count, origin_count;
    size_t last_site, last_origin;   /* where the last search ended */
    uint32_t scope;            /* the current one */
    uint8_t buffer[BUFFER_BYTES];
};

/* ---- writing ---- */

static void flush(struct pool_trace *t)
{
    size_t done = 0;

    while (done < t->used && !t->failure) {
        ssize_t put = write(t->fd, t->buffer + done, t->used - done);

        if (put > 0)
            done += (size_t)put;
        else if (put < 0 && errno != EINTR)
            t->failure = errno;
    }
    t->used = 0;
}

/* Room for one record. */
static void begin(struct pool_trace *t, uint8_t first)
{
    if (t->used + RECORD_BYTES > BUFFER_BYTES)
        flush(t);
    t->buffer[t->used++] = first;
}

static void put_varint(struct pool_trace *t, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        t->buffer[t->used++] = (uint8_t)(value | 0x80);
    t->buffer[t->used++] = (uint8_t)value;
}

static void put_text(struct pool_trace *t, const char *text)
{
    size_t length = strnlen(text, 63);

    put_varint(t, length);
    memcpy(t->buffer + t->used, text, length);
    t->used += length;
}

static void put_time(struct pool_trace *t)
{
    uint64_t now_ns = plim_now_ns();

    put_varint(t, now_ns > t->last_ns ? now_ns - t->last_ns : 0);
    t->last_ns = now_ns;
}

/* ---- names ---- */

/* Room for one more item, or false: then the recording has failed. */
static bool grow(struct pool_trace *t, void **items, size_t count, size_t item_bytes)
{
    void *grown;

    if (count & (count - 1))   /* room doubles at powers of two */
        return true;
    grown = reallocarray(*items, count ? 2 * count : 1, item_bytes);
    if (!grown) {
        t->failure = ENOMEM;
        return false;
    }
    *items = grown;
    return true;
}

/*
 * Scopes and origins come in the same order again and again (layer after layer, token after token), so each search begins
 * behind the place where the last one ended, and mostly ends there.
 */
static uint32_t find_scope(struct pool_trace *t, const char *scope)
{
    size_t start = t->scope;   /* index of the scope behind the current one */
    void *scopes = t->scopes;

    if (!*scope)
        return 0;
    for (size_t i = 0; i < t->scope_count; i++) {
        size_t k = (start + i) % t->scope_count;

        if (strcmp(t->scopes[k], scope) == 0)
            return (uint32_t)k + 1;
    }
    if (!grow(t, &scopes, t->scope_count, sizeof *t->scopes))
        return 0;
    t->scopes = scopes;
    memset(t->scopes[t->scope_count], 0, sizeof *t->scopes);
    memcpy(t->scopes[t->scope_count], scope, strnlen(scope, sizeof *t->scopes - 1));
    begin(t, PLIM_TRACE_SCOPE);
    put_text(t, scope);
    return (uint32_t)++t->scope_count;
}

static uint32_t find_site(struct pool_trace *t, const char *site)
{
    void *sites = t->sites;

    for (size_t i = 0; i < t->site_count; i++) {
        size_t k = (t->last_site + i) % t->site_count;

        if (t->sites[k] == site) {
            t->last_site = k;
            return (uint32_t)k + 1;
        }
    }
    if (!grow(t, &sites, t->site_count, sizeof *t->sites))
        return 0;
    t->sites = sites;
    t->sites[t->site_count] = site;
    begin(t, PLIM_TRACE_SITE);
    put_text(t, site);
    return (uint32_t)++t->site_count;
}

static uint16_t find_origin(struct pool_trace *t, uint32_t scope, const char *site)
{
    struct origin wanted = { scope, find_site(t, site) };
    void *origins = t->origins;

    for (size_t i = 0; i < t->origin_count; i++) {
        size_t k = (t->last_origin + 1 + i) % t->origin_count;

        if (t->origins[k].scope == wanted.scope && t->origins[k].site == wanted.site) {
            t->last_origin = k;
            return (uint16_t)(k + 1);
        }
    }
    if (t->origin_count == ORIGIN_LIMIT || !grow(t, &origins, t->origin_count, sizeof *t->origins))
        return 0;
    t->origins = origins;
    t->origins[t->origin_count] = wanted;
    t->last_origin = t->origin_count;
    begin(t, PLIM_TRACE_ORIGIN);
    put_varint(t, wanted.scope);
    put_varint(t, wanted.site);
    return (uint16_t)++t->origin_count;
}

uint16_t pool_trace_origin(struct pool_trace *t, const char *site)
{
    return find_origin(t, t->scope, site);
}

/* ---- events ---- */

void pool_trace_scope(struct pool_trace *t, const char *scope)
{
    t->scope = find_scope(t, scope);
    begin(t, PLIM_TRACE_ENTER);
    put_time(t);
    put_varint(t, t->scope);
}

void pool_trace_change(struct pool_trace *t, enum plim_tier tier, enum plim_tag tag, uint16_t origin,
                       uint64_t difference)
{
    uint64_t sign = difference >> 63;

    begin(t, (uint8_t)(PLIM_TRACE_CHANGE | (unsigned)tier << PLIM_TRACE_TIER_SHIFT | (unsigned)tag));
    put_time(t);
    put_varint(t, origin);
    put_varint(t, difference << 1 ^ (0 - sign));
}

void pool_trace_mapped(struct pool_trace *t, enum plim_tier tier, uint64_t difference)
{
    uint16_t origin = find_origin(t, 0, "mapped files");

    pool_trace_change(t, tier, PLIM_TAG_WEIGHTS_MAPPED, origin, difference);
}

/* ---- open and close ---- */

static void put_held(struct pool_trace *t, const struct plim_pool_stats *stats)
{
    for (unsigned tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (unsigned tag = 0; tag < PLIM_TAG_COUNT; tag++) {
            if (!stats->current[tier].bytes[tag])
                continue;
            begin(t, PLIM_TRACE_HELD);
            t->buffer[t->used++] = (uint8_t)(tier << PLIM_TRACE_TIER_SHIFT | tag);
            put_varint(t, stats->current[tier].bytes[tag]);
        }
    }
}

struct pool_trace *pool_trace_open(const char *path, const struct plim_pool_stats *stats, const char *scope,
                                   struct plim_err *err)
{
    struct pool_trace *t = calloc(1, sizeof *t);

    if (!t) {
        plim_err_set(err, PLIM_ERR_MEMORY, "out of memory for a memory trace");
        return NULL;
    }
    t->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (t->fd < 0) {
        plim_err_errno(err, "opening memory trace %s", path);
        free(t);
        return NULL;
    }
    memcpy(t->buffer, PLIM_TRACE_MAGIC, PLIM_TRACE_MAGIC_BYTES);
    t->used = PLIM_TRACE_MAGIC_BYTES;
    put_varint(t, PLIM_TAG_COUNT);
    for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
        put_text(t, plim_tag_name((enum plim_tag)tag));
    put_held(t, stats);
    t->last_ns = plim_now_ns();
    pool_trace_scope(t, scope);
    return t;
}

int pool_trace_close(struct pool_trace *t, struct plim_err *err)
{
    int failure;

    begin(t, PLIM_TRACE_END);
    put_time(t);
    flush(t);
    failure = close(t->fd) < 0 && !t->failure ? errno : t->failure;
    free(t->scopes);
    free(t->sites);
    free(t->origins);
    free(t);
    if (!failure)
        return 0;
    errno = failure;
    return plim_err_errno(err, "writing a memory trace");
}
