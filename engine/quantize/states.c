#include "states.h"

#include "model.h"
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
