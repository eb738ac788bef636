#include "stored_layer.h"

#include <stdio.h>

#include "half.h"
#include "tensor_values.h"

enum { PART_WEIGHT, PART_SCALE, PART_INVPERM, PART_SCALE_MAX, PART_GROUPS, PART_BIAS };

const struct stored_part stored_parts[STORED_PARTS] = {
    [PART_WEIGHT] = { "q_weight", DTYPE_I32, 2 },
    [PART_SCALE] = { "q_scale", DTYPE_I32, 2 },
    [PART_INVPERM] = { "q_invperm", DTYPE_I32, 1 },
    [PART_SCALE_MAX] = { "q_scale_max", DTYPE_F16, 1 },
    [PART_GROUPS] = { "q_groups", DTYPE_I16, 1 },
    [PART_BIAS] = { "bias", DTYPE_F16, 1 },
};

static bool has_part(const struct matrix_view *view, int part)
{
    return part != PART_BIAS || view->source.bias;
}

static void part_shape(const struct gptq_result *r, int part, size_t shape[2])
{
    switch (part) {
    case PART_WEIGHT:
        shape[0] = r->word_rows;
        shape[1] = r->out_features;
        break;
    case PART_SCALE:
        shape[0] = r->group_count;
        shape[1] = r->out_features / 8;
        break;
    case PART_INVPERM:
        shape[0] = r->in_features;
        break;
    case PART_SCALE_MAX:
        shape[0] = r->group_count;
        break;
    case PART_GROUPS:
        shape[0] = 2 * r->group_count;
        break;
    default:
        shape[0] = r->out_features;
        break;
    }
}

static const void *part_data(const struct gptq_result *r, int part)
{
    switch (part) {
    case PART_WEIGHT:
        return r->q_weight;
    case PART_SCALE:
        return r->q_scale;
    case PART_INVPERM:
        return r->q_invperm;
    case PART_SCALE_MAX:
        return r->q_scale_max;
    default:
        return r->q_groups;
    }
}

static int write_bias(struct safetensors_writer *writer, const struct linear_source *source, size_t padded,
                      struct plim_err *err)
{
    struct tensor bias = { .dtype = source->bias_dtype, .data = source->bias };
    for (size_t n = 0; n < padded; n++) {
        uint16_t half = n < source->out_features ? half_from_float(tensor_value(&bias, n)) : 0;
        if (safetensors_writer_write(writer, &half, sizeof half, err) < 0)
            return -1;
    }
    return 0;
}

/* One part of one layer: declared, or with `data` written. */
static int put_part(struct safetensors_writer *writer, const struct matrix_view *view, const struct gptq_result *r,
                    int part, bool data, struct plim_err *err)
{
    char name[256];
    size_t shape[2] = { 1, 1 };
    const struct stored_part *p = &stored_parts[part];

    if (!has_part(view, part))
        return 0;
    part_shape(r, part, shape);
    if (!data) {
        snprintf(name, sizeof name, "%s.%s", view->name, p->name);
        return safetensors_writer_declare(writer, name, p->dtype, p->dimension_count, shape, err);
    }
    if (part == PART_BIAS)
        return write_bias(writer, &view->source, r->out_features, err);
    return safetensors_writer_write(writer, part_data(r, part), shape[0] * shape[1] * dtype_bytes(p->dtype), err);
}

/* 32-bit parts of all layers, then the others. */
static int put_all(struct safetensors_writer *writer, const struct matrix_view *views,
                   const struct gptq_result *results, int count, bool data, struct plim_err *err)
{
    for (int wide = 1; wide >= 0; wide--)
        for (int i = 0; i < count; i++)
            for (int part = 0; part < STORED_PARTS; part++)
                if ((stored_parts[part].dtype == DTYPE_I32) == (wide == 1) &&
                    put_part(writer, &views[i], &results[i], part, data, err) < 0)
                    return -1;
    return 0;
}

int stored_layers_write(const char *path, struct plim_pool *pool, const struct matrix_view *views,
                        const struct gptq_result *results, int count, struct plim_err *err)
{
    struct safetensors_writer *writer = NULL;
    int rc = -1;

    if (safetensors_writer_open(&writer, pool, path, err) < 0)
        return -1;
    if (put_all(writer, views, results, count, false, err) == 0 &&
        put_all(writer, views, results, count, true, err) == 0 && safetensors_writer_commit(writer, err) == 0)
        rc = 0;
    safetensors_writer_close(writer);
    return rc;
}

static const struct tensor *need_part(const struct tensor_store *store, const struct matrix_view *view, int part,
                                      const int64_t *shape, struct plim_err *err)
{
    char name[256];
    snprintf(name, sizeof name, "%s.%s", view->name, stored_parts[part].name);
    return tensor_store_need(store, name, 1u << stored_parts[part].dtype, stored_parts[part].dimension_count, shape, err);
}

int stored_layer_source(struct linear_source *source, const struct tensor_store *store, const struct matrix_view *view,
                        struct plim_err *err)
{
    int64_t in = (int64_t)view->source.in_features, out = (int64_t)plim_round_up(view->source.out_features, 32);
    const struct tensor *part[STORED_PARTS] = { NULL };

    *source = view->source;
    if (!(part[PART_WEIGHT] = need_part(store, view, PART_WEIGHT, (int64_t[]){ -1, out }, err)) ||
        !(part[PART_SCALE] = need_part(store, view, PART_SCALE, (int64_t[]){ -1, out / 8 }, err)))
        return -1;
    int64_t groups = (int64_t)part[PART_SCALE]->shape[0];
    if (!(part[PART_INVPERM] = need_part(store, view, PART_INVPERM, (int64_t[]){ in }, err)) ||
        !(part[PART_SCALE_MAX] = need_part(store, view, PART_SCALE_MAX, (int64_t[]){ groups }, err)) ||
        !(part[PART_GROUPS] = need_part(store, view, PART_GROUPS, (int64_t[]){ 2 * groups }, err)))
        return -1;
    if (view->source.bias) {
        if (!(part[PART_BIAS] = need_part(store, view, PART_BIAS, (int64_t[]){ out }, err)))
            return -1;
        source->bias = part[PART_BIAS]->data;
        source->bias_dtype = DTYPE_F16;
    }
    source->is_exl2 = true;
    source->exl2 = (struct exl2_tensors){
        .name = view->name,
        .q_weight = part[PART_WEIGHT]->data,
        .word_rows = part[PART_WEIGHT]->shape[0],
        .out_features = (size_t)out,
        .q_scale = part[PART_SCALE]->data,
        .group_count = (size_t)groups,
        .q_scale_max = part[PART_SCALE_MAX]->data,
        .q_groups = part[PART_GROUPS]->data,
        .q_invperm = part[PART_INVPERM]->data,
        .in_features = (size_t)in,
    };
    return 0;
}
