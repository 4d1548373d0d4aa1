// Products of activations with packed weights, forward and back, and of float32 matrices.
#include "weights.h"

enum { PART_ROWS = 192 };  // of a result with few columns, which is cut along its rows instead

static int parts_of(int64_t rows, int64_t columns) {
    int64_t panels = (columns + COLUMNS - 1) / COLUMNS;
    return panels * (panels < 8 ? (rows + PART_ROWS - 1) / PART_ROWS : 1);
}

// The rows and the panel of a part.
INLINE int64_t part_of(int part, int parts, int64_t rows, int64_t columns, int64_t *first_row,
                       int64_t *row_count) {
    int64_t panels = (columns + COLUMNS - 1) / COLUMNS, pieces = parts / panels;
    int64_t piece = part / panels;
    *first_row = rows * piece / pieces;
    *row_count = rows * (piece + 1) / pieces - *first_row;
    return part % panels * COLUMNS;
}

// outputs: y [rows][out] = x [rows][in] * transposed w, plus low [rows][rank] * transposed
// up [out][rank] where those are given.
//   buffers: y, x, w, low, up; numbers: rows, in, out, format, rank
static int parts_of_outputs(const Call *call, const Step *step) {
    (void)step;
    return parts_of(call->numbers[0], call->numbers[2]);
}

static WIDE_VECTORS void run_outputs(const Call *call, const Step *step, int part, int parts) {
    (void)step;
    int64_t rows = call->numbers[0], in = call->numbers[1], out = call->numbers[2];
    int format = call->numbers[3];
    int64_t rank = call->numbers[4], row, count;
    int64_t first = part_of(part, parts, rows, out, &row, &count);
    int64_t columns = out - first < COLUMNS ? out - first : COLUMNS;
    _Alignas(64) float panel[DEPTH * COLUMNS];
    float *y = (float *)call->buffers[0] + row * out + first;
    const float *x = (const float *)call->buffers[1] + row * in;
    int64_t bytes = group_bytes(format, in);
    const uint8_t *w = (const uint8_t *)call->buffers[2] + first / LANES * bytes;
    int groups = (columns + LANES - 1) / LANES;
    for (int64_t k = 0; k < in; k += DEPTH) {
        int64_t depth = in - k < DEPTH ? in - k : DEPTH;
        switch (format) {
#define CASE(name) \
    case name: panel_of_outputs(panel, name, w, bytes, groups, k, depth); break;
            CASE(FORMAT_F32) CASE(FORMAT_F16) CASE(FORMAT_BF16) CASE(FORMAT_Q4_0)
            CASE(FORMAT_Q4_1) CASE(FORMAT_Q5_0) CASE(FORMAT_Q5_1) CASE(FORMAT_Q8_0)
            CASE(FORMAT_Q4_K) CASE(FORMAT_Q5_K) CASE(FORMAT_Q6_K)
            CASE(FORMAT_Q2_K) CASE(FORMAT_IQ4_NL) CASE(FORMAT_IQ4_XS)
#undef CASE
        }
        multiply_panel(matrix(x + k, in, 1), panel, depth, y, out, columns, k > 0, count);
    }
    if (rank)
        multiply(matrix((const float *)call->buffers[3] + row * rank, rank, 1),
                 matrix((const float *)call->buffers[4] + first * rank, 1, rank), count, rank,
                 columns, y, out, 1, panel);
}

const Kernel edge_outputs = {parts_of_outputs, run_outputs, NULL};

// inputs: x [rows][in] = y [rows][out] * w, the gradient of `outputs`.
//   buffers: x, y, w; numbers: rows, in, out, format
static int parts_of_inputs(const Call *call, const Step *step) {
    (void)step;
    return parts_of(call->numbers[0], call->numbers[1]);
}

static WIDE_VECTORS void run_inputs(const Call *call, const Step *step, int part, int parts) {
    (void)step;
    int64_t rows = call->numbers[0], in = call->numbers[1], out = call->numbers[2];
    int format = call->numbers[3];
    int64_t row, count;
    int64_t first = part_of(part, parts, rows, in, &row, &count);
    int64_t columns = in - first < COLUMNS ? in - first : COLUMNS;
    _Alignas(64) float panel[DEPTH * COLUMNS];
    float *x = (float *)call->buffers[0] + row * in + first;
    const float *y = (const float *)call->buffers[1] + row * out;
    int64_t bytes = group_bytes(format, in);
    const uint8_t *w = call->buffers[2];
    for (int64_t n = 0; n < out; n += DEPTH) {
        int64_t depth = out - n < DEPTH ? out - n : DEPTH, groups = (depth + LANES - 1) / LANES;
        const uint8_t *from = w + n / LANES * bytes;
        switch (format) {
#define CASE(name) \
    case name: panel_of_inputs(panel, name, from, bytes, groups, first, columns); break;
            CASE(FORMAT_F32) CASE(FORMAT_F16) CASE(FORMAT_BF16) CASE(FORMAT_Q4_0)
            CASE(FORMAT_Q4_1) CASE(FORMAT_Q5_0) CASE(FORMAT_Q5_1) CASE(FORMAT_Q8_0)
            CASE(FORMAT_Q4_K) CASE(FORMAT_Q5_K) CASE(FORMAT_Q6_K)
            CASE(FORMAT_Q2_K) CASE(FORMAT_IQ4_NL) CASE(FORMAT_IQ4_XS)
#undef CASE
        }
        multiply_panel(matrix(y + n, out, 1), panel, depth, x, in, columns, n > 0, count);
    }
}

const Kernel edge_inputs = {parts_of_inputs, run_inputs, NULL};

// product: c [rows][columns] = a * b of float32 matrices that lie as they are or transposed.
//   buffers: c, a, b; numbers: rows, depth, columns, whether a and b lie transposed
static int parts_of_product(const Call *call, const Step *step) {
    (void)step;
    return parts_of(call->numbers[0], call->numbers[2]);
}

static WIDE_VECTORS void run_product(const Call *call, const Step *step, int part, int parts) {
    (void)step;
    int64_t rows = call->numbers[0], depth = call->numbers[1], columns = call->numbers[2];
    int64_t row, count;
    int64_t first = part_of(part, parts, rows, columns, &row, &count);
    int64_t width = columns - first < COLUMNS ? columns - first : COLUMNS;
    _Alignas(64) float panel[DEPTH * COLUMNS];
    const float *a = call->buffers[1], *b = call->buffers[2];
    Matrix left = call->numbers[3] ? matrix(a + row, 1, rows) : matrix(a + row * depth, depth, 1);
    Matrix right = call->numbers[4] ? matrix(b + first * depth, 1, depth)
                                    : matrix(b + first, columns, 1);
    multiply(left, right, count, depth, width,
             (float *)call->buffers[0] + row * columns + first, columns, 0, panel);
}

const Kernel edge_product = {parts_of_product, run_product, NULL};
