#include "states.h"

#include <inttypes.h>
#include <string.h>

#include "model.h"
#include "plimsoll/file.h"
#include "plimsoll/units.h"

int states_open(struct states *s, struct plim_pool *pool, size_t rows, size_t length, size_t width,
                struct plim_err *err)
{
    size_t bytes;

    *s = (struct states){ .pool = pool, .rows = rows, .length = length, .width = width };
    if (!plim_size_mul(length, width * sizeof(float), &bytes))
        return plim_err_set(err, PLIM_ERR_MEMORY, "calibration rows of %zu tokens do not fit the address space", length);
    s->row = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_METADATA, rows, sizeof *s->row, err);
    for (size_t i = 0; s->row && i < rows; i++) {
        s->row[i] = plim_pool_alloc(pool, PLIM_SLOW, PLIM_TAG_CALIBRATION, bytes, err);
        if (!s->row[i]) {
            states_close(s);
            return plim_err_wrap(err, "calibration states");
        }
    }
    return s->row ? 0 : -1;
}

void states_close(struct states *s)
{
    for (size_t i = 0; s->row && i < s->rows; i++)
        plim_pool_free(s->pool, s->row[i]);
    if (s->row)
        plim_pool_free(s->pool, s->row);
    *s = (struct states){ 0 };
}

void states_set_aside(struct states *s, size_t row)
{
    /* Where the slow tier is RAM there is no file behind it, and dropped pages would be lost. */
    if (plim_pool_host_tier(s->pool) == PLIM_SLOW)
        return;
    model_drop_pages(s->row[row], s->length * s->width * sizeof(float));
}

/* A file's first bytes; the rows follow, as they lie in memory. */
struct states_header {
    char magic[8];
    uint64_t rows, length, width;
};

static struct states_header header_of(const struct states *s)
{
    return (struct states_header){ "PLIMSTA", s->rows, s->length, s->width };
}

static size_t row_bytes(const struct states *s)
{
    return s->length * s->width * sizeof(float);
}

int states_save(struct states *s, const char *path, struct plim_err *err)
{
    struct plim_atomic_file file = PLIM_ATOMIC_FILE_INIT;
    struct states_header header = header_of(s);
    int rc = -1;

    if (plim_atomic_open(&file, path, err) < 0 || plim_atomic_write(&file, &header, sizeof header, err) < 0)
        goto out;
    for (size_t i = 0; i < s->rows; i++) {
        if (plim_atomic_write(&file, s->row[i], row_bytes(s), err) < 0)
            goto out;
        states_set_aside(s, i);
    }
    rc = plim_atomic_commit(&file, err);

out:
    plim_atomic_release(&file);
    return rc;
}

static int open_file(const struct states *s, const char *path, struct plim_map *map, struct plim_err *err)
{
    struct states_header header = header_of(s);

    if (plim_map_open(map, path, err) < 0)
        return -1;
    if (map->bytes == sizeof header + s->rows * row_bytes(s) && memcmp(map->data, &header, sizeof header) == 0)
        return 0;
    plim_map_close(map);
    return plim_err_input(err, "%s does not hold states of %zu rows of %zu tokens, %zu wide", path, s->rows, s->length,
                          s->width);
}

int states_check(const struct states *s, const char *path, struct plim_err *err)
{
    struct plim_map map;

    if (open_file(s, path, &map, err) < 0)
        return -1;
    plim_map_close(&map);
    return 0;
}

int states_load(struct states *s, const char *path, struct plim_err *err)
{
    struct plim_map map;

    if (open_file(s, path, &map, err) < 0)
        return -1;
    for (size_t i = 0; i < s->rows; i++) {
        const uint8_t *from = map.data + sizeof(struct states_header) + i * row_bytes(s);
        memcpy(s->row[i], from, row_bytes(s));
        states_set_aside(s, i);
        model_drop_pages(from, row_bytes(s));
    }
    plim_map_close(&map);
    return 0;
}
