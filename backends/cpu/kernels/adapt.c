// edge_adapt_down, edge_adapt_up: what adapters add to products, y += B (A x), after edge_linear.
//
// The rows of all A that read the same x lie in one matrix, matrix by matrix and for each of them
// adapter by adapter. Row r of it belongs to adapter owner[r], whose strength a row of the step
// takes from its slot; where that is 0, nothing is computed. So which other adapters there are
// doesn't show in a result.
#include "edge.h"
#include "vector.h"

#define EXPORT __attribute__((visibility("default")))

// Whoever opens a library asks whether it has these kernels: older ones don't.
EXPORT int edge_adapts(void) { return 1; }

enum { PART_PRODUCTS = 32768 };  // a few microseconds of work

static int parts_of(const Step *step, int64_t items, int64_t products) {
    int64_t parts = products * step->rows / PART_PRODUCTS, most = 2 * (int64_t)step->threads;
    if (parts > most) parts = most;
    if (parts > items) parts = items;
    return step->threads == 1 || parts < 1 ? 1 : (int)parts;
}

// t[r] = strength * A[r] x
// buffers: x f32 [K], t f32 [R], A f32 [R][K], owner int32 [R], strengths f32 [slots][adapters];
// numbers: K, R, adapters.
static int down_parts(const Call *call, const Step *step) {
    return parts_of(step, call->numbers[1], call->numbers[0] * call->numbers[1]);
}

static float dot(const float *a, const float *x, int64_t k) {
    Floats even = 0.0f, odd = 0.0f;
    int64_t i = 0;
    for (; i + 2 * LANES <= k; i += 2 * LANES) {
        even = madd(load(a + i), load(x + i), even);
        odd = madd(load(a + i + LANES), load(x + i + LANES), odd);
    }
    for (; i < k; i += LANES) even = madd(load_some(a + i, k - i), load_some(x + i, k - i), even);
    return sum(even + odd);
}

static void down_run(const Call *call, const Step *step, int part, int parts) {
    int64_t k = call->numbers[0], ranks = call->numbers[1], adapters = call->numbers[2];
    const float *x = call->buffers[0], *a = call->buffers[2], *strengths = call->buffers[4];
    const int32_t *owner = call->buffers[3];
    float *t = call->buffers[1];
    int64_t end = ranks * (part + 1) / parts;
    for (int64_t rank = ranks * part / parts; rank < end; rank++)
        for (int64_t row = 0; row < step->rows; row++) {
            float strength = strengths[step->slots[row] * adapters + owner[rank]];
            t[row * ranks + rank] = strength ? strength * dot(a + rank * k, x + row * k, k) : 0.0f;
        }
}

const Kernel edge_adapt_down = {down_parts, down_run, NULL};

// y += B t, for one or more matrices
// buffers: t f32 [R], then for each matrix B f32 [N / 16][r][16], rounded up, and y f32 [N];
// numbers: R, matrices (at most 4), then for each its first rank, r and N.
typedef struct {
    const float *b;
    float *out;
    int64_t first, ranks, rows, blocks;
} Matrix;

static Matrix matrix_of(const Call *call, int64_t index) {
    const int64_t *numbers = call->numbers + 2 + 3 * index;
    return (Matrix){
        .b = call->buffers[1 + 2 * index],
        .out = call->buffers[2 + 2 * index],
        .first = numbers[0],
        .ranks = numbers[1],
        .rows = numbers[2],
        .blocks = (numbers[2] + LANES - 1) / LANES,
    };
}

static int up_parts(const Call *call, const Step *step) {
    int64_t blocks = 0, products = 0;
    for (int64_t i = 0; i < call->numbers[1]; i++) {
        Matrix matrix = matrix_of(call, i);
        blocks += matrix.blocks;
        products += matrix.rows * matrix.ranks;
    }
    return parts_of(step, blocks, products);
}

static void add_block(const Matrix *matrix, int64_t block, const float *t, int64_t row) {
    const float *b = matrix->b + block * matrix->ranks * LANES;
    float *out = matrix->out + row * matrix->rows + block * LANES;
    int64_t left = matrix->rows - block * LANES;
    Floats y = load_some(out, left);
    for (int64_t rank = 0; rank < matrix->ranks; rank++) {
        float factor = t[matrix->first + rank];
        if (factor) y = madd((Floats)factor, load(b + rank * LANES), y);
    }
    store_some(out, y, left);
}

static void up_run(const Call *call, const Step *step, int part, int parts) {
    int64_t ranks = call->numbers[0], blocks = 0, begin = 0;
    for (int64_t i = 0; i < call->numbers[1]; i++) blocks += matrix_of(call, i).blocks;
    int64_t item = blocks * part / parts, end = blocks * (part + 1) / parts;
    for (int64_t i = 0; i < call->numbers[1] && item < end; i++) {
        Matrix matrix = matrix_of(call, i);
        int64_t next = begin + matrix.blocks;
        for (; item < next && item < end; item++)
            for (int64_t row = 0; row < step->rows; row++)
                add_block(&matrix, item - begin, (const float *)call->buffers[0] + row * ranks, row);
        begin = next;
    }
}

const Kernel edge_adapt_up = {up_parts, up_run, NULL};
