/*
 * Many rows of a decoder layer with fp16 activations: norm and MLP around products of matrices that take x as fp16, EXL2 or
 * dense fp16.
 *
 * The products round x to fp16 in any case, and expect it in packed row order (dense: as it stands). Here the kernels before
 * them leave it like that, so x is written once, 2 bytes an element, and nothing is converted or gathered on its way:
 *
 *     norm_linear   work = x [rows, in]                                    normed, in the order of the matrix at hand
 *     mlp           work = x [rows, in], gate and up [rows, inner]         act(gate) * up goes over gate, in down's order;
 *                                                                          of at most MLP_ROWS rows, one piece after the other
 *
 * Matrices of the same input mostly have the same permutation (a converter orders by one Hessian); where they don't, or take
 * different ways, x is made again in the same place.
 */

#include "linear.h"
#include "plimsoll/units.h"

static size_t halves_bytes(size_t rows, size_t width)
{
    return plim_round_up(rows * width * sizeof(uint16_t), CUDA_LINEAR_ALIGN);
}

/* ---- what is taken this way, and what it needs ---- */

static bool takes(const struct cuda_linear_shape *shape, const struct plim_parameters *parameters)
{
    enum linear_order order;
    return cuda_linear_takes_halves(shape, parameters, &order);
}

/*
 * Rows that go through an MLP together, at most, where no weights are expanded for them: what lies between its products then
 * takes half of what 2048 rows would, and is mostly in the second-level cache when it is read.
 */
#define MLP_ROWS ((size_t)1024)

static bool is_wide(struct cuda_linear_shape shape, size_t rows, const struct plim_parameters *parameters)
{
    enum linear_order order;

    shape.rows = rows;
    return cuda_linear_gives_halves(&shape, parameters) && cuda_linear_takes_halves(&shape, parameters, &order) &&
           order == LINEAR_WGMMA;
}

/* Even pieces; the last has up to a row for each of them less. */
static size_t mlp_piece(const struct cuda_linear_shape *gate, const struct cuda_linear_shape *up,
                        const struct cuda_linear_shape *down, const struct plim_parameters *parameters)
{
    const struct cuda_linear_shape *const shapes[] = { gate, up, down };
    size_t rows = gate->rows, count = plim_ceil_div(rows, MLP_ROWS), piece = plim_ceil_div(rows, count);

    for (size_t i = 0; i < 3; i++)
        if (!is_wide(*shapes[i], piece, parameters) || !is_wide(*shapes[i], rows - (count - 1) * piece, parameters))
            return rows;
    return piece;
}

static size_t mlp_bytes(const struct cuda_linear_shape *gate, const struct cuda_linear_shape *up,
                        const struct cuda_linear_shape *down, const struct plim_parameters *parameters)
{
    if (!cuda_linear_gives_halves(gate, parameters) || !cuda_linear_gives_halves(up, parameters) || !takes(down, parameters))
        return 0;
    size_t piece = mlp_piece(gate, up, down, parameters);
    return halves_bytes(piece, gate->in_features) + 2 * halves_bytes(piece, down->in_features);
}

size_t cuda_norm_linear_work(const struct backend *backend, const struct matrix *const *matrices, size_t count, size_t rows)
{
    for (size_t i = 0; i < count; i++) {
        struct cuda_linear_shape shape = cuda_linear_shape_of(matrices[i], rows);
        if (!takes(&shape, backend->parameters))
            return 0;
    }
    return halves_bytes(rows, matrices[0]->in_features);
}

size_t cuda_norm_linear_planned(const struct linear_shape *const *shapes, size_t count, size_t rows,
                                const struct plim_parameters *parameters)
{
    for (size_t i = 0; i < count; i++) {
        struct cuda_linear_shape shape = cuda_linear_shape_planned(shapes[i], rows);
        if (!takes(&shape, parameters))
            return 0;
    }
    return halves_bytes(rows, shapes[0]->in_features);
}

size_t cuda_mlp_work(const struct backend *backend, const struct mlp *mlp, size_t rows)
{
    struct cuda_linear_shape gate = cuda_linear_shape_of(mlp->gate, rows), up = cuda_linear_shape_of(mlp->up, rows);
    struct cuda_linear_shape down = cuda_linear_shape_of(mlp->down, rows);
    return mlp_bytes(&gate, &up, &down, backend->parameters);
}

size_t cuda_mlp_planned(const struct linear_shape *gate, const struct linear_shape *up, const struct linear_shape *down,
                        size_t rows, const struct plim_parameters *parameters)
{
    struct cuda_linear_shape g = cuda_linear_shape_planned(gate, rows), u = cuda_linear_shape_planned(up, rows);
    struct cuda_linear_shape d = cuda_linear_shape_planned(down, rows);
    return mlp_bytes(&g, &u, &d, parameters);
}

/* ---- doing it ---- */

/* x, or norm(x), for one matrix after the other. */
struct normed {
    struct backend *backend;
    struct linear_norm norm;                /* weight NULL: x as it is */
    size_t rows;
    uint16_t *halves;                       /* [rows, in_features] */
    const struct cuda_matrix *made_for;     /* whose order they have; NULL: none yet */
    enum linear_order order;
};

static bool ready_for(const struct normed *n, const struct matrix *matrix, enum linear_order order)
{
    const struct cuda_matrix *made = matrix->impl;

    return n->made_for && n->order == order && n->made_for->order_digest == made->order_digest;
}

static enum linear_order order_for(const struct normed *n, const struct matrix *matrix)
{
    struct cuda_linear_shape shape = cuda_linear_shape_of(matrix, n->rows);
    enum linear_order order;

    cuda_linear_takes_halves(&shape, n->backend->parameters, &order);
    return order;
}

/* Makes them ready for `matrix`, unless they are. */
static int normed_for(struct normed *n, const struct matrix *matrix, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(n->backend);
    const struct cuda_matrix *made = matrix->impl;
    enum linear_order order = order_for(n, matrix);

    if (ready_for(n, matrix, order))
        return 0;
    n->made_for = made;
    n->order = order;
    if (!n->norm.weight)
        return cuda_check(linear_gather(n->norm.x, made->tiles.invperm, n->rows, n->rows, matrix->in_features, order, n->halves,
                                        cuda->overlap_launches, cuda->stream),
                          "gathering activations", err);
    return cuda_check(linear_norm_gather(&n->norm, made->tiles.invperm, n->rows, matrix->in_features, order, n->halves,
                                         cuda->overlap_launches, cuda->stream),
                      "normalising activations", err);
}

/* Products of norm(x): neighbours that read it alike go together. */
static int project(struct normed *n, const struct matrix *const *matrices, const struct cuda_halves *halves, size_t count,
                   struct plim_err *err)
{
    for (size_t first = 0, next; first < count; first = next) {
        if (normed_for(n, matrices[first], err) < 0)
            return -1;
        next = first + 1;
        while (next < count && ready_for(n, matrices[next], order_for(n, matrices[next])))
            next++;
        if (cuda_linear_halves(n->backend, matrices + first, halves + first, next - first, err) < 0)
            return -1;
    }
    return 0;
}

static struct normed normed_of(struct backend *backend, const struct norm *norm, const float *x, size_t rows, void *work)
{
    struct normed normed = { .backend = backend, .norm = { .x = x }, .rows = rows, .halves = work };

    if (norm) {
        normed.norm.weight = norm->weight;
        normed.norm.offset = norm->offset;
        normed.norm.eps = (float)norm->eps;
    }
    return normed;
}

int cuda_norm_linear(struct backend *backend, const struct norm *norm, const struct matrix *const *matrices, size_t count,
                     const float *x, size_t rows, void *work, float *const *y, bool accumulate, struct plim_err *err)
{
    struct normed normed = normed_of(backend, norm, x, rows, work);
    struct cuda_halves halves[LINEAR_MAX_MATRICES];

    for (size_t first = 0, n; first < count; first += n) {
        n = plim_min(count - first, LINEAR_MAX_MATRICES);
        for (size_t i = 0; i < n; i++)
            halves[i] = (struct cuda_halves){ .x = normed.halves, .rows = rows, .y = y[first + i], .accumulate = accumulate };
        if (project(&normed, matrices + first, halves, n, err) < 0)
            return -1;
    }
    return 0;
}

/* Rows that go at once. */
static int mlp_rows(struct backend *backend, const struct norm *norm, const struct mlp *mlp, const float *x, size_t rows,
                    void *work, float *out, bool accumulate, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(backend);
    const struct cuda_matrix *down = mlp->down->impl;
    struct cuda_linear_shape down_shape = cuda_linear_shape_of(mlp->down, rows);
    size_t inner = mlp->down->in_features;
    struct normed normed = normed_of(backend, norm, x, rows, work);
    uint16_t *gate = normed.halves + halves_bytes(rows, mlp->gate->in_features) / sizeof *gate;
    uint16_t *up = gate + halves_bytes(rows, inner) / sizeof *gate;
    const struct matrix *const both[] = { mlp->gate, mlp->up };
    const struct cuda_halves to_both[] = { { .x = normed.halves, .rows = rows, .y_half = gate },
                                           { .x = normed.halves, .rows = rows, .y_half = up } };
    struct cuda_halves to_out = { .x = gate, .rows = rows, .y = out, .accumulate = accumulate };
    enum linear_order order;

    if (project(&normed, both, to_both, 2, err) < 0)
        return -1;
    cuda_linear_takes_halves(&down_shape, backend->parameters, &order);
    if (cuda_check(linear_act_gather(mlp->activation == ACTIVATION_GELU_TANH, gate, up, down->tiles.invperm, rows, inner,
                                     order, cuda->overlap_launches, cuda->stream),
                   "multiplying gates", err) < 0)
        return -1;
    return cuda_linear_halves(backend, &mlp->down, &to_out, 1, err);
}

int cuda_mlp(struct backend *backend, const struct norm *norm, const struct mlp *mlp, const float *x, size_t rows, void *work,
             float *out, bool accumulate, struct plim_err *err)
{
    struct cuda_linear_shape gate = cuda_linear_shape_of(mlp->gate, rows), up = cuda_linear_shape_of(mlp->up, rows);
    struct cuda_linear_shape down = cuda_linear_shape_of(mlp->down, rows);
    size_t piece = mlp_piece(&gate, &up, &down, backend->parameters);

    for (size_t row = 0; row < rows; row += piece)
        if (mlp_rows(backend, norm, mlp, x + row * gate.in_features, plim_min(piece, rows - row), work,
                     out + row * down.out_features, accumulate, err) < 0)
            return -1;
    return 0;
}
