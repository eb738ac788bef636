#include "synthetic_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/units.h"

#define SHARD_BYTES ((size_t)8 << 30)   /* the converter's default */

/* ---- random streams ---- */

/* FNV-1a of a name: each tensor has a stream of its own, so its bytes depend on no other tensor. */
static uint64_t stream_of(const char *name)
{
    uint64_t hash = 14695981039346656037u;
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    return hash;
}

/* ---- tensors ---- */

/* A matrix and what its weights should look like. */
struct matrix {
    const char *key;                    /* "model.layers.0.mlp.up_proj" */
    const char *input;                  /* names the input: matrices with the same one share a permutation */
    size_t in_features, out_features;
    const struct exl2_layout *layout;   /* NULL: dense */
    double deviation;
    bool bias;
};

static struct synthetic_tensor *add(struct synthetic_plan *plan, const char *key, const char *part_name,
                                    struct plim_err *err)
{
    if (plan->tensor_count == plan->tensor_capacity) {
        size_t capacity = plim_max(64, 2 * plan->tensor_capacity);
        struct synthetic_tensor *grown = plim_pool_realloc(plan->pool, PLIM_TAG_METADATA, plan->tensors,
                                                           capacity * sizeof *grown, err);
        if (!grown)
            return NULL;
        plan->tensors = grown;
        plan->tensor_capacity = capacity;
    }
    struct synthetic_tensor *tensor = &plan->tensors[plan->tensor_count];
    *tensor = (struct synthetic_tensor){ .position = plan->tensor_count++ };
    snprintf(tensor->name, sizeof tensor->name, "%s.%s", key, part_name);
    tensor->stream = stream_of(tensor->name);
    return tensor;
}

/* Adds one tensor of a matrix; `columns` 0 makes it one-dimensional. */
static int add_part(struct synthetic_plan *plan, const struct matrix *matrix, const char *part_name,
                    enum synthetic_part part, enum dtype dtype, size_t rows, size_t columns, struct plim_err *err)
{
    struct synthetic_tensor *tensor = add(plan, matrix->key, part_name, err);
    if (!tensor)
        return -1;
    tensor->part = part;
    tensor->dtype = dtype;
    tensor->dimension_count = columns > 0 ? 2 : 1;
    tensor->shape[0] = rows;
    tensor->shape[1] = columns;
    tensor->bytes = rows * (columns > 0 ? columns : 1) * dtype_bytes(dtype);
    tensor->in_features = matrix->in_features;
    tensor->out_features = matrix->out_features;
    tensor->layout = matrix->layout;
    tensor->deviation = matrix->deviation;
    tensor->permutation_stream = stream_of(matrix->input);
    return 0;
}

static int add_matrix(struct synthetic_plan *plan, const struct matrix *m, struct plim_err *err)
{
    size_t in = m->in_features, out = m->out_features;
    if (m->bias && add_part(plan, m, "bias", SYNTHETIC_BIAS, DTYPE_F16, out, 0, err) < 0)
        return -1;
    if (!m->layout)
        return add_part(plan, m, "weight", SYNTHETIC_DENSE, DTYPE_F16, out, in, err);

    size_t groups = exl2_layout_groups(m->layout, in, NULL), word_rows = 0, rows_left = in;
    struct exl2_group *list = plim_pool_calloc(plan->pool, PLIM_HOST, PLIM_TAG_METADATA, groups, sizeof *list, err);
    if (!list)
        return -1;
    exl2_layout_groups(m->layout, in, list);
    for (size_t g = 0; g < groups; g++) {
        word_rows += list[g].row_count * list[g].bits / 32;
        rows_left -= list[g].row_count;
    }
    plim_pool_free(plan->pool, list);
    if (groups == 0 || rows_left != 0)
        return plim_err_set(err, PLIM_ERR_INTERNAL, "%s: no groups for %zu rows", m->key, in);

    if (add_part(plan, m, "q_groups", SYNTHETIC_Q_GROUPS, DTYPE_I16, 2 * groups, 0, err) < 0 ||
        add_part(plan, m, "q_invperm", SYNTHETIC_Q_INVPERM, DTYPE_I32, in, 0, err) < 0 ||
        add_part(plan, m, "q_scale", SYNTHETIC_Q_SCALE, DTYPE_I32, groups, out / 8, err) < 0 ||
        add_part(plan, m, "q_scale_max", SYNTHETIC_Q_SCALE_MAX, DTYPE_F16, groups, 0, err) < 0 ||
        add_part(plan, m, "q_weight", SYNTHETIC_Q_WEIGHT, DTYPE_I32, word_rows, out, err) < 0)
        return -1;
    return 0;
}

static int add_norm(struct synthetic_plan *plan, const char *key, struct plim_err *err)
{
    struct matrix norm = { .key = key, .input = key, .out_features = plan->config.hidden_size };
    return add_part(plan, &norm, "weight", SYNTHETIC_NORM, DTYPE_F16, norm.out_features, 0, err);
}

/* ---- layouts ---- */

struct layer_layouts {
    const struct exl2_layout *attention;   /* [4] q, k, v, o; NULL: dense */
    const struct exl2_layout *mlp;         /* [3] gate, up, down */
};

static uint64_t attention_bits(const struct model_config *c, const struct exl2_layout *layouts)
{
    size_t hidden = c->hidden_size, q = c->head_count * c->head_dim, kv = c->kv_head_count * c->head_dim;
    return exl2_layout_bits(&layouts[0], hidden, q) + exl2_layout_bits(&layouts[1], hidden, kv) +
           exl2_layout_bits(&layouts[2], hidden, kv) + exl2_layout_bits(&layouts[3], q, hidden);
}

static uint64_t mlp_bits(const struct model_config *c, const struct exl2_layout *layouts)
{
    size_t hidden = c->hidden_size, inner = c->intermediate_size;
    return exl2_layout_bits(&layouts[0], hidden, inner) + exl2_layout_bits(&layouts[1], hidden, inner) +
           exl2_layout_bits(&layouts[2], inner, hidden);
}

/*
 * One pair of options for all layers: the largest total at or below the target. Attention and MLP may not lie further
 * apart than MAX_GAP bits, else 8-bit attention beside a 3-bit MLP would often come nearest, which no quantizer chooses.
 */
#define MAX_GAP 1.25

static int choose_layouts(const struct model_config *c, double target, struct layer_layouts *out, struct plim_err *err)
{
    double attention_weights = (double)c->hidden_size * (double)c->head_dim *
                               (double)(2 * c->head_count + 2 * c->kv_head_count);
    double mlp_weights = 3 * (double)c->hidden_size * (double)c->intermediate_size;
    double best = 0, smallest = INFINITY;
    for (int a = 0; a < EXL2_ATTENTION_OPTIONS; a++) {
        double a_bits = (double)attention_bits(c, exl2_attention_option(a));
        for (int m = 0; m < EXL2_MLP_OPTIONS; m++) {
            double m_bits = (double)mlp_bits(c, exl2_mlp_option(m));
            double total = (a_bits + m_bits) / (attention_weights + mlp_weights);
            smallest = fmin(smallest, total);
            if (fabs(a_bits / attention_weights - m_bits / mlp_weights) > MAX_GAP || total > target || total <= best)
                continue;
            best = total;
            *out = (struct layer_layouts){ exl2_attention_option(a), exl2_mlp_option(m) };
        }
    }
    if (best == 0)
        return plim_err_input(err, "%g bits per weight: the smallest layout of this model has %.3f", target, smallest);
    return 0;
}

/* ---- the model ---- */

/*
 * Deviations of weights, times the square root of the fan-in where a row of activations of about unit size should give
 * outputs of the size named. Residual branches end at half of that: the residual stream then grows with the square root
 * of the depth, as in real models, and stays far from fp16's end in the deepest.
 */
#define EMBEDDING_DEVIATION 0.02
#define TIED_GAIN           2.0    /* the embedding is the head too: logits of a few units, as trained models give */
#define HEAD_GAIN           2.5
#define INNER_GAIN          1.0
#define BRANCH_GAIN         0.5

static int add_layer(struct synthetic_plan *plan, size_t layer, const struct layer_layouts *layouts,
                     struct plim_err *err)
{
    const struct model_config *c = &plan->config;
    size_t hidden = c->hidden_size, q = c->head_count * c->head_dim, kv = c->kv_head_count * c->head_dim;
    const struct exl2_layout *attention = layouts->attention, *mlp = layouts->mlp;
    const struct {
        const char *name;     /* NULL: the attention is over, a norm comes */
        const char *input;
        size_t in, out;
        const struct exl2_layout *layout;
        double gain;
        bool bias;
    } matrices[] = {
        { "self_attn.q_proj", "attention", hidden, q, attention, INNER_GAIN, c->qkv_bias },
        { "self_attn.k_proj", "attention", hidden, kv, attention ? attention + 1 : NULL, INNER_GAIN, c->qkv_bias },
        { "self_attn.v_proj", "attention", hidden, kv, attention ? attention + 2 : NULL, INNER_GAIN, c->qkv_bias },
        { "self_attn.o_proj", "heads", q, hidden, attention ? attention + 3 : NULL, BRANCH_GAIN, false },
        { .name = NULL },
        { "mlp.gate_proj", "mlp", hidden, c->intermediate_size, mlp, INNER_GAIN, false },
        { "mlp.up_proj", "mlp", hidden, c->intermediate_size, mlp ? mlp + 1 : NULL, INNER_GAIN, false },
        { "mlp.down_proj", "inner", c->intermediate_size, hidden, mlp ? mlp + 2 : NULL, BRANCH_GAIN, false },
    };
    char key[80], input[80];

    snprintf(key, sizeof key, "model.layers.%zu.input_layernorm", layer);
    if (add_norm(plan, key, err) < 0)
        return -1;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        if (!matrices[i].name) {
            snprintf(key, sizeof key, "model.layers.%zu.post_attention_layernorm", layer);
            if (add_norm(plan, key, err) < 0)
                return -1;
            continue;
        }
        snprintf(key, sizeof key, "model.layers.%zu.%s", layer, matrices[i].name);
        snprintf(input, sizeof input, "model.layers.%zu.input of %s", layer, matrices[i].input);
        struct matrix matrix = {
            .key = key,
            .input = input,
            .in_features = matrices[i].in,
            .out_features = matrices[i].out,
            .layout = matrices[i].layout,
            .deviation = matrices[i].gain / sqrt((double)matrices[i].in),
            .bias = matrices[i].bias,
        };
        if (add_matrix(plan, &matrix, err) < 0)
            return -1;
    }
    return 0;
}

static int add_all(struct synthetic_plan *plan, const struct layer_layouts *layouts,
                   const struct exl2_layout *head_layout, struct plim_err *err)
{
    const struct model_config *c = &plan->config;
    double unit = 1 / sqrt((double)c->hidden_size);
    struct matrix embedding = { .key = "model.embed_tokens", .input = "ids", .in_features = c->hidden_size,
                                .out_features = c->vocab_size,
                                .deviation = c->tied_embeddings ? TIED_GAIN * unit : EMBEDDING_DEVIATION };
    struct matrix head = { .key = "lm_head", .input = "output", .in_features = c->hidden_size,
                           .out_features = head_layout ? plim_round_up(c->vocab_size, 32) : c->vocab_size,
                           .layout = head_layout, .deviation = HEAD_GAIN * unit };

    if (add_matrix(plan, &embedding, err) < 0)
        return -1;
    for (size_t layer = 0; layer < c->layer_count; layer++) {
        if (add_layer(plan, layer, layouts, err) < 0)
            return -1;
    }
    if (add_norm(plan, "model.norm", err) < 0)
        return -1;
    /* The converter gives a tied model a quantised head of its own; a dense one has none. */
    if (head_layout || !c->tied_embeddings)
        return add_matrix(plan, &head, err);
    return 0;
}

static int file_order(const void *a, const void *b)
{
    const struct synthetic_tensor *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    return x->position < y->position ? -1 : 1;
}

/* Shards hold consecutive layers; inside them the parts are sorted. */
static void assign_shards(struct synthetic_plan *plan)
{
    size_t shard = 0, shard_bytes = 0;
    for (size_t i = 0; i < plan->tensor_count; i++) {
        size_t bytes = plan->tensors[i].bytes;
        if (shard_bytes > 0 && bytes > SHARD_BYTES - plim_min(shard_bytes, SHARD_BYTES)) {
            shard++;
            shard_bytes = 0;
        }
        plan->tensors[i].shard = shard;
        shard_bytes += bytes;
        plan->bytes += bytes;
    }
    plan->shard_count = shard + 1;
    qsort(plan->tensors, plan->tensor_count, sizeof *plan->tensors, file_order);
}

int synthetic_plan_init(struct synthetic_plan *plan, struct plim_pool *pool, const struct plim_synthetic *options,
                        struct plim_err *err)
{
    struct layer_layouts layouts = { NULL, NULL };
    const struct exl2_layout *head_layout = NULL;
    struct model_config *c = &plan->config;

    *plan = (struct synthetic_plan){ .pool = pool, .preset = options->preset };
    if (synthetic_preset_config(options->preset, c, err) < 0)
        return -1;
    if (options->layers < 0 || options->layers > CONFIG_MAX_LAYERS)
        return plim_err_input(err, "%lld layers; expected 1 to %d, or 0 for the preset's own %zu",
                              (long long)options->layers, CONFIG_MAX_LAYERS, c->layer_count);
    if (options->layers > 0)
        c->layer_count = (size_t)options->layers;
    if (options->exl2) {
        if (!(options->bits_per_weight >= 2 && options->bits_per_weight <= 8.1))
            return plim_err_input(err, "%g bits per weight; expected 2.3 to 8.1", options->bits_per_weight);
        head_layout = exl2_head_layout(options->head_bits);
        if (!head_layout)
            return plim_err_input(err, "head_bits %d; expected 2, 3, 4, 5, 6 or 8", options->head_bits);
        if (choose_layouts(c, options->bits_per_weight, &layouts, err) < 0)
            return -1;
        c->is_exl2 = true;
        c->exl2_bits = options->bits_per_weight;
        c->exl2_head_bits = options->head_bits;
    }
    plan->has_tokenizer = synthetic_preset_has_tokenizer(options->preset);
    if (add_all(plan, &layouts, head_layout, err) < 0)
        return -1;
    assign_shards(plan);
    return 0;
}

void synthetic_plan_release(struct synthetic_plan *plan)
{
    if (plan->pool)
        plim_pool_free(plan->pool, plan->tensors);
    *plan = (struct synthetic_plan){ 0 };
}

void synthetic_shard_name(const struct synthetic_plan *plan, size_t shard, char *name, size_t size)
{
    const char *stem = plan->config.is_exl2 ? "output" : "model";
    if (plan->shard_count == 1)
        snprintf(name, size, "%s.safetensors", stem);
    else
        snprintf(name, size, "%s-%05zu-of-%05zu.safetensors", stem, shard + 1, plan->shard_count);
}
