/* Which device has which layer. */

#include "model.h"

/*
 * In shares of the free memory: a layer goes where its middle lies. Every device has one at least, and so does every place
 * after it, while there are as many layers.
 */
static void split_automatically(const struct plim_split *split, const uint64_t *free_bytes, const uint64_t *part_bytes,
                                size_t layer_count, size_t *place)
{
    size_t count = plim_min(split->count, layer_count);
    double all = 0, room = 0, done = 0, limit;
    size_t p = 0;

    for (size_t i = 0; i <= layer_count; i++)
        all += (double)part_bytes[i];
    for (size_t i = 0; i < count; i++)
        room += (double)free_bytes[i];
    limit = (double)free_bytes[0] / room;
    for (size_t i = 0; i < layer_count; i++) {
        bool must = p + 1 < count && count - (p + 1) >= layer_count - i;   /* or some device would have none */
        bool may = p + 1 < count && p < i;
        while (may && (must || (done + 0.5 * (double)part_bytes[i]) / all > limit)) {
            limit += (double)free_bytes[++p] / room;
            must = false;
            may = p + 1 < count && p < i;
        }
        place[i] = p;
        done += (double)part_bytes[i];
    }
    place[layer_count] = p;
}

int model_split(const struct plim_split *split, const uint64_t *free_bytes, const uint64_t *part_bytes, size_t layer_count,
                size_t *place, struct plim_err *err)
{
    uint64_t held = 0;
    size_t p = 0;

    if (split->count == 1 || split->automatic) {
        const uint64_t alone = 1;
        split_automatically(split, split->count == 1 ? &alone : free_bytes, part_bytes, layer_count, place);
        return 0;
    }
    for (size_t i = 0; i <= layer_count; i++) {
        while (p < split->count && held + part_bytes[i] > split->bytes[p]) {
            p++;
            held = 0;
        }
        if (p == split->count)
            return plim_err_input(err, "gpu_split: %s %zu and what follows do not fit the %zu sizes",
                                  i < layer_count ? "layer" : "the head, after layer", i < layer_count ? i : layer_count - 1,
                                  split->count);
        place[i] = p;
        held += part_bytes[i];
    }
    return 0;
}

int model_part_bytes(const struct model_files *files, size_t index, const char *backend,
                     const struct plim_parameters *parameters, uint64_t *bytes, struct plim_err *err)
{
    const struct backend_predict_ops *predict = backend_predict(backend);
    bool is_head = index == files->config.layer_count;
    struct matrix_view view;

    *bytes = 0;
    for (int which = 0; which < (is_head ? 1 : LAYER_MATRIX_COUNT); which++) {
        if ((is_head ? model_head_matrix(&view, files, err)
                     : model_layer_matrix(&view, files, index, (enum layer_matrix)which, err)) < 0)
            return -1;
        struct linear_shape shape = matrix_view_shape(&view);
        *bytes += predict->matrix_bytes(&shape, parameters);
        if (predict->matrix_mapped_bytes)
            *bytes += predict->matrix_mapped_bytes(&shape);
    }
    return 0;
}

/* ---- the places of an engine ---- */

int engine_select(struct plim_engine *engine, size_t place, struct plim_err *err)
{
    return engine->place_count > 1 ? backend_select(engine_backend(engine, place), err) : 0;
}
