#include "synthetic_values.h"

#include <math.h>
#include <string.h>

#include "half.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

#define QUANTILES        65536
#define LEVELS           256       /* quantiles of an EXL2 scale level */
#define PIECE_BYTES      ((size_t)256 << 10)
#define UNIT_ROWS        32        /* packed rows whose codes fill whole words at every width */
#define MAX_UNITS        2048      /* of a matrix: 65536 rows */
#define RANDOM_WORDS     512       /* drawn at once */
#define WIDTHS           9         /* tables are indexed by bits: 2 .. 8 */

#define MAX_LEVEL        16

struct synthetic_values {
    struct plim_pool *pool;
    uint64_t seed;
    float variate[QUANTILES];              /* heavy-tailed, variance 1, ascending */
    uint8_t codes[WIDTHS][QUANTILES];      /* codes_in_draw[bits] codes, the first in the low bits */
    uint8_t level[LEVELS];                 /* 1 .. 16, ascending */
    double level_size;                     /* root mean square of (level / 16)^2 */

    /* The tensor begun. */
    const struct synthetic_tensor *tensor;
    size_t piece_count;
    size_t piece_rows;                     /* DENSE, Q_SCALE: rows of a piece, the last may have fewer */
    float *channel;                        /* DENSE: [in] scale of each input channel, deviation included */
    uint8_t *column_level;                 /* Q_SCALE: [out] */
    struct exl2_group *groups;             /* EXL2 parts */
    size_t group_count;
    uint8_t unit_bits[MAX_UNITS];          /* Q_WEIGHT: width of each unit */
};

/*
 * Codes that are taken from one draw of 16 bits: 16 quantiles are enough for the four codes of 2 bits, 256 for those of 3
 * and 4, and the tails of wider ones need all 65536.
 */
static const int codes_in_draw[WIDTHS] = { [2] = 4, [3] = 2, [4] = 2, [5] = 1, [6] = 1, [8] = 1 };

/*
 * The distance of two neighbouring codes, in deviations of the weights: what a search for the least squared error of a
 * group of 64 to 128 weights finds, and for wide codes what the largest of the group asks for.
 */
static const double code_step[WIDTHS] = {
    [2] = 1.0, [3] = 0.6, [4] = 0.34, [5] = 0.18, [6] = 0.1, [8] = 0.026
};

/* ---- tables ---- */

/* (2i + 1) / 2n, the middle of the i-th of n equal slices. */
static double normal_slice(size_t i, size_t n)
{
    return plim_normal_quantile((2 * (double)i + 1) / (2 * (double)n));
}

static double heavy_tailed(double z)
{
    /* The variance of z + a z^3 is 1 + 6a + 15a^2; a = 1/20. */
    return (z + z * z * z / 20) / sqrt(1 + 6.0 / 20 + 15.0 / 400);
}

/* A positive scale around 1, as a lognormal with sigma 0.2 has, without its exponential. */
static double spread(double z)
{
    double root = 1 + z / 10;
    return root * root;
}

static unsigned code_of(double t, unsigned bits)
{
    double zero = (double)(1u << (bits - 1));
    double code = rint(t / code_step[bits]) + zero;
    return (unsigned)fmin(fmax(code, 0), 2 * zero - 1);
}

static void fill_codes(uint8_t table[QUANTILES], unsigned bits)
{
    unsigned codes = (unsigned)codes_in_draw[bits], draw_bits = 16 / codes;
    size_t slices = (size_t)1 << draw_bits;
    for (size_t draw = 0; draw < QUANTILES; draw++) {
        unsigned packed = 0;
        for (unsigned c = 0; c < codes; c++) {
            size_t slice = draw >> c * draw_bits & (slices - 1);
            packed |= code_of(heavy_tailed(normal_slice(slice, slices)), bits) << c * bits;
        }
        table[draw] = (uint8_t)packed;
    }
}

static void fill_tables(struct synthetic_values *values)
{
    double squares = 0;
    for (size_t i = 0; i < QUANTILES; i++)
        values->variate[i] = (float)heavy_tailed(normal_slice(i, QUANTILES));
    for (unsigned bits = 2; bits < WIDTHS; bits++) {
        if (codes_in_draw[bits] > 0)
            fill_codes(values->codes[bits], bits);
    }
    for (size_t i = 0; i < LEVELS; i++) {
        /* A column's scale is (level / 16)^2 of the group's maximum: level 16 is for those 2.5 deviations up. */
        double level = rint(MAX_LEVEL * (1 + normal_slice(i, LEVELS) / 10) / 1.25);
        values->level[i] = (uint8_t)fmin(fmax(level, 1), MAX_LEVEL);
        double relative = values->level[i] / (double)MAX_LEVEL;
        squares += relative * relative * relative * relative;
    }
    values->level_size = sqrt(squares / LEVELS);
}

int synthetic_values_open(struct synthetic_values **out, struct plim_pool *pool, uint64_t seed, struct plim_err *err)
{
    struct synthetic_values *values = plim_pool_calloc(pool, PLIM_HOST, PLIM_TAG_WORKSPACE, 1, sizeof *values, err);
    *out = values;
    if (!values)
        return -1;
    values->pool = pool;
    values->seed = seed;
    fill_tables(values);
    return 0;
}

static void release_tensor(struct synthetic_values *values)
{
    plim_pool_free(values->pool, values->channel);
    plim_pool_free(values->pool, values->column_level);
    plim_pool_free(values->pool, values->groups);
    values->channel = NULL;
    values->column_level = NULL;
    values->groups = NULL;
}

void synthetic_values_close(struct synthetic_values *values)
{
    if (!values)
        return;
    release_tensor(values);
    plim_pool_free(values->pool, values);
}

/* ---- random streams ---- */

/* Stream 0 of a name is for what the whole tensor needs, 1 + i for its piece i. */
static struct plim_random stream(const struct synthetic_values *values, uint64_t name, uint64_t index)
{
    struct plim_random random;
    plim_random_seed(&random, values->seed ^ name, index);
    return random;
}

static struct plim_random piece_stream(const struct synthetic_values *values, size_t piece)
{
    return stream(values, values->tensor->stream, 1 + (uint64_t)piece);
}

static double random_spread(struct plim_random *random)
{
    return spread(plim_random_normal(random));
}

/* ---- dense ---- */

static int begin_dense(struct synthetic_values *values, struct plim_err *err)
{
    const struct synthetic_tensor *tensor = values->tensor;
    struct plim_random random = stream(values, tensor->stream, 0);
    values->channel = plim_pool_calloc(values->pool, PLIM_HOST, PLIM_TAG_WORKSPACE, tensor->in_features,
                                       sizeof *values->channel, err);
    if (!values->channel)
        return -1;
    for (size_t k = 0; k < tensor->in_features; k++) {
        double scale = tensor->deviation * random_spread(&random);
        if (plim_random_below(&random, 256) == 0)
            scale *= 3 + 5 * plim_random_double(&random);
        values->channel[k] = (float)scale;
    }
    values->piece_rows = plim_max(1, PIECE_BYTES / (tensor->in_features * sizeof(uint16_t)));
    values->piece_count = plim_ceil_div(tensor->out_features, values->piece_rows);
    return 0;
}

static size_t rows_of_piece(const struct synthetic_values *values, size_t piece, size_t rows)
{
    return plim_min(values->piece_rows, rows - piece * values->piece_rows);
}

/* [rows of the piece, in] */
static void fill_dense(const struct synthetic_values *values, size_t piece, uint16_t *out)
{
    const struct synthetic_tensor *tensor = values->tensor;
    struct plim_random random = piece_stream(values, piece);
    size_t in = tensor->in_features, rows = rows_of_piece(values, piece, tensor->out_features);
    uint64_t words[RANDOM_WORDS];
    for (size_t row = 0; row < rows; row++, out += in) {
        float row_scale = (float)random_spread(&random);
        for (size_t k = 0; k < in; k += 4 * RANDOM_WORDS) {
            size_t count = plim_min(in - k, 4 * RANDOM_WORDS);
            plim_random_fill(&random, words, plim_ceil_div(count, 4));
            for (size_t i = 0; i < count; i++) {
                float t = values->variate[words[i / 4] >> 16 * (i % 4) & 0xffff];
                out[k + i] = half_from_float(t * (values->channel[k + i] * row_scale));
            }
        }
    }
}

static void fill_norm(const struct synthetic_values *values, uint16_t *out)
{
    struct plim_random random = piece_stream(values, 0);
    for (size_t i = 0; i < values->tensor->out_features; i++) {
        double weight = random_spread(&random);
        if (plim_random_below(&random, 128) == 0)
            weight = 2 + 4 * plim_random_double(&random);
        out[i] = half_from_float((float)weight);
    }
}

static void fill_bias(const struct synthetic_values *values, uint16_t *out)
{
    struct plim_random random = piece_stream(values, 0);
    for (size_t i = 0; i < values->tensor->out_features; i++)
        out[i] = half_from_float((float)(0.5 * heavy_tailed(plim_random_normal(&random))));
}

/* ---- EXL2 ---- */

static int begin_groups(struct synthetic_values *values, struct plim_err *err)
{
    const struct synthetic_tensor *tensor = values->tensor;
    values->group_count = exl2_layout_groups(tensor->layout, tensor->in_features, NULL);
    values->groups = plim_pool_calloc(values->pool, PLIM_HOST, PLIM_TAG_WORKSPACE, values->group_count,
                                      sizeof *values->groups, err);
    if (!values->groups)
        return -1;
    exl2_layout_groups(tensor->layout, tensor->in_features, values->groups);
    for (size_t g = 0; g < values->group_count; g++) {
        const struct exl2_group *group = &values->groups[g];
        memset(values->unit_bits + group->first_row / UNIT_ROWS, (int)group->bits, group->row_count / UNIT_ROWS);
    }
    return 0;
}

/* The scales of a matrix follow its columns. */
static int begin_scales(struct synthetic_values *values, struct plim_err *err)
{
    const struct synthetic_tensor *tensor = values->tensor;
    struct plim_random random = stream(values, tensor->stream, 0);
    values->column_level = plim_pool_alloc(values->pool, PLIM_HOST, PLIM_TAG_WORKSPACE, tensor->out_features, err);
    if (!values->column_level)
        return -1;
    for (size_t n = 0; n < tensor->out_features; n++)
        values->column_level[n] = values->level[plim_random_below(&random, LEVELS)];
    values->piece_rows = plim_max(1, PIECE_BYTES / (tensor->out_features / 2));
    values->piece_count = plim_ceil_div(values->group_count, values->piece_rows);
    return 0;
}

/* [groups of the piece, out / 8]: the column's level, and in every other group one up or down. */
static void fill_scales(const struct synthetic_values *values, size_t piece, uint32_t *out)
{
    struct plim_random random = piece_stream(values, piece);
    size_t columns = values->tensor->out_features, rows = rows_of_piece(values, piece, values->group_count);
    for (size_t row = 0; row < rows; row++) {
        for (size_t n = 0; n < columns; n += UNIT_ROWS) {
            uint64_t bits = plim_random_u64(&random);
            uint8_t levels[UNIT_ROWS];
            for (size_t i = 0; i < UNIT_ROWS; i++, bits >>= 2) {
                int level = values->column_level[n + i] + ((bits & 3) == 3) - ((bits & 3) == 0);
                levels[i] = (uint8_t)(level < 1 ? 1 : level > MAX_LEVEL ? MAX_LEVEL : level);
            }
            exl2_pack_scales(levels, UNIT_ROWS, out);
            out += UNIT_ROWS / 8;
        }
    }
}

static void fill_scale_max(const struct synthetic_values *values, uint16_t *out)
{
    struct plim_random random = piece_stream(values, 0);
    for (size_t g = 0; g < values->group_count; g++) {
        double scale = values->tensor->deviation * code_step[values->groups[g].bits] / values->level_size;
        scale *= random_spread(&random) * (g == 0 ? 1.5 : 1);
        out[g] = half_from_float((float)scale);
    }
}

static void fill_groups(const struct synthetic_values *values, int16_t *out)
{
    for (size_t g = 0; g < values->group_count; g++) {
        out[2 * g] = (int16_t)values->groups[g].bits;
        out[2 * g + 1] = (int16_t)values->groups[g].first_word;
    }
}

static void fill_invperm(const struct synthetic_values *values, uint32_t *out)
{
    struct plim_random random = stream(values, values->tensor->permutation_stream, 1);
    plim_random_permutation(&random, out, values->tensor->in_features);
}

/*
 * UNIT_ROWS codes down each column: `bits` words, [bits, columns]. A draw gives `draw_bits` bits of the column's stream.
 * Always called with constants, so that the loops unroll.
 */
static inline void fill_unit(const uint8_t *table, struct plim_random *random, size_t columns, unsigned bits,
                             unsigned codes_a_draw, uint32_t *out)
{
    unsigned draws = UNIT_ROWS / codes_a_draw, draw_bits = bits * codes_a_draw;
    unsigned words_a_column = draws / 4;
    uint64_t words[RANDOM_WORDS];
    size_t columns_a_fill = RANDOM_WORDS / words_a_column;
    for (size_t n = 0; n < columns; n++) {
        if (n % columns_a_fill == 0)
            plim_random_fill(random, words, plim_min(columns - n, columns_a_fill) * words_a_column);
        const uint64_t *word = words + n % columns_a_fill * words_a_column;
        uint64_t stream_bits = 0;
        unsigned held = 0, row = 0;
        for (unsigned draw = 0; draw < draws; draw++) {
            stream_bits |= (uint64_t)table[word[draw / 4] >> 16 * (draw % 4) & 0xffff] << held;
            held += draw_bits;
            if (held >= 32) {
                out[row++ * columns + n] = (uint32_t)stream_bits;
                stream_bits >>= 32;
                held -= 32;
            }
        }
    }
}

static void fill_weight(const struct synthetic_values *values, size_t unit, uint32_t *out)
{
    struct plim_random random = piece_stream(values, unit);
    size_t columns = values->tensor->out_features;
    unsigned bits = values->unit_bits[unit];
    const uint8_t *table = values->codes[bits];
    switch (bits) {
    case 2:
        fill_unit(table, &random, columns, 2, 4, out);
        break;
    case 3:
        fill_unit(table, &random, columns, 3, 2, out);
        break;
    case 4:
        fill_unit(table, &random, columns, 4, 2, out);
        break;
    case 5:
        fill_unit(table, &random, columns, 5, 1, out);
        break;
    case 6:
        fill_unit(table, &random, columns, 6, 1, out);
        break;
    default:
        fill_unit(table, &random, columns, 8, 1, out);
        break;
    }
}

/* ---- tensors ---- */

int synthetic_values_begin(struct synthetic_values *values, const struct synthetic_tensor *tensor,
                           struct plim_err *err)
{
    release_tensor(values);
    values->tensor = tensor;
    values->piece_count = 1;
    if (tensor->layout && begin_groups(values, err) < 0)
        return -1;
    if (tensor->part == SYNTHETIC_DENSE)
        return begin_dense(values, err);
    if (tensor->part == SYNTHETIC_Q_SCALE)
        return begin_scales(values, err);
    if (tensor->part == SYNTHETIC_Q_WEIGHT)
        values->piece_count = tensor->in_features / UNIT_ROWS;
    return 0;
}

size_t synthetic_values_piece_count(const struct synthetic_values *values)
{
    return values->piece_count;
}

size_t synthetic_values_piece_bytes(const struct synthetic_values *values, size_t piece)
{
    const struct synthetic_tensor *tensor = values->tensor;
    switch (tensor->part) {
    case SYNTHETIC_DENSE:
        return rows_of_piece(values, piece, tensor->out_features) * tensor->in_features * sizeof(uint16_t);
    case SYNTHETIC_Q_SCALE:
        return rows_of_piece(values, piece, values->group_count) * tensor->out_features / 2;
    case SYNTHETIC_Q_WEIGHT:
        return values->unit_bits[piece] * tensor->out_features * sizeof(uint32_t);
    default:
        return tensor->bytes;
    }
}

void synthetic_values_fill(const struct synthetic_values *values, size_t piece, void *out)
{
    switch (values->tensor->part) {
    case SYNTHETIC_DENSE:
        fill_dense(values, piece, out);
        break;
    case SYNTHETIC_NORM:
        fill_norm(values, out);
        break;
    case SYNTHETIC_BIAS:
        fill_bias(values, out);
        break;
    case SYNTHETIC_Q_WEIGHT:
        fill_weight(values, piece, out);
        break;
    case SYNTHETIC_Q_SCALE:
        fill_scales(values, piece, out);
        break;
    case SYNTHETIC_Q_SCALE_MAX:
        fill_scale_max(values, out);
        break;
    case SYNTHETIC_Q_GROUPS:
        fill_groups(values, out);
        break;
    case SYNTHETIC_Q_INVPERM:
        fill_invperm(values, out);
        break;
    }
}
