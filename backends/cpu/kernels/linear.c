// edge_linear: y = W x for one or more matrices that share their input.
// buffers: x f32 [K] (NULL if all weights are of integer formats), x quantised (NULL if all are of
// float formats), then for each matrix its packed weight and y f32 [N];
// numbers: K, matrices (at most 7), then for each matrix its Format and N.
#include "tile.h"

enum {
    PANEL = TILE_VECTORS * LANES,  // weight rows of a panel
    PANEL_BLOCKS = 16,             // 512 inputs of them, decoded, stay in the first-level cache
    PANEL_ROWS = 96,               // rows of activations that a panel is multiplied with at once
    DIRECT_ROWS = 5,               // up to here decoding into registers is cheaper
    PART_BYTES = 32768,            // of weights: some microseconds of work
};

typedef struct {
    int format;
    const uint8_t *weight;
    float *out;
    int64_t rows;         // of the matrix
    int64_t group_bytes;  // of 8 of them
} Matrix;

static Matrix matrix_of(const Call *call, int64_t index) {
    Matrix matrix = {
        .format = (int)call->numbers[2 + 2 * index],
        .weight = call->buffers[2 + 2 * index],
        .out = call->buffers[3 + 2 * index],
        .rows = call->numbers[3 + 2 * index],
    };
    matrix.group_bytes = group_bytes(matrix.format, call->numbers[0]);
    return matrix;
}

// The groups of the vector that begins at a row. Where the matrix ends within a vector, its last
// group stands for the missing one, whose results are dropped.
INLINE Groups groups_of(const Matrix *matrix, int64_t row) {
    Groups groups;
    int64_t last = (matrix->rows - 1) / GROUP;
    for (int i = 0; i < GROUPS; i++) {
        int64_t group = row / GROUP + i;
        groups.at[i] = matrix->weight + (group < last ? group : last) * matrix->group_bytes;
    }
    return groups;
}

INLINE void store_some(const Matrix *matrix, int64_t x_row, int64_t row, Floats y) {
    int64_t left = matrix->rows - row;
    float *out = matrix->out + x_row * matrix->rows + row;
    if (left >= LANES)
        memcpy(out, &y, sizeof y);
    else
        for (int64_t i = 0; i < left; i++) out[i] = y[i];
}

// What rows of activations are multiplied with.
typedef struct {
    const void *quantised;
    const float *floats;
    int64_t k, first, last;
} Input;

// How many rows the next tile takes, of those that are left.
INLINE int tile_rows(int64_t left) {
    return TILE_ROWS >= 6 && left >= 6 ? 6 : TILE_ROWS >= 4 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

// Few rows of activations: weights are decoded into registers and used there.
INLINE void direct_tile(int format, const Matrix *matrix, int64_t row, const Input *input,
                        int64_t x_row, int rows) {
    const Layout layout = LAYOUTS[format];
    Activations x = activations(input->quantised, input->k, x_row);
    Groups w = groups_of(matrix, row);
    Floats y[TILE_ROWS];
    for (int r = 0; r < rows; r++) y[r] = (Floats)(0);
    for (int64_t b = 0; b < input->k / 32; b += layout.inputs / 32) {
        for (int part = 0; part < layout.inputs / 32; part++) {
            Block block;
            read_block(&block, format, w, part);
            multiply_block(y, &block, 1, x, b + part, rows, layout, false);
        }
        w = offset_groups(w, layout.bytes);
    }
    for (int r = 0; r < rows; r++) store_some(matrix, x_row + r, row, y[r]);
}

INLINE void direct(int format, const Matrix *matrix, int64_t row, const Input *input) {
    for (int64_t x_row = input->first; x_row < input->last;) {
        int64_t left = input->last - x_row;
        int rows = TILE_ROWS >= 4 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (rows == 4)
            direct_tile(format, matrix, row, input, x_row, TILE_ROWS >= 4 ? 4 : 1);
        else if (rows == 2)
            direct_tile(format, matrix, row, input, x_row, 2);
        else
            direct_tile(format, matrix, row, input, x_row, 1);
        x_row += rows;
    }
}

// Decodes `blocks` times 32 inputs of a panel, from number `first` on.
INLINE void decode(int format, Block *panel, const Groups *groups, int64_t first, int64_t blocks) {
    const Layout layout = LAYOUTS[format];
    int parts = layout.inputs / 32;
    for (int64_t b = 0; b < blocks; b++)
        for (int v = 0; v < TILE_VECTORS; v++) {
            Groups w = offset_groups(groups[v], (first + b) / parts * layout.bytes);
            Block *block = &panel[b * TILE_VECTORS + v];
            read_block(block, format, w, (int)((first + b) % parts));
#if defined(ARRANGED)
            arrange(block->code);
#endif
        }
}

// y[r][v] += a tile's share of `blocks` decoded blocks.
INLINE void panel_tile(const Block *panel, int64_t first, int64_t blocks, Activations x,
                       Floats (*sums)[TILE_VECTORS], int rows, Layout layout) {
    Floats y[TILE_VECTORS * TILE_ROWS];
    for (int v = 0; v < TILE_VECTORS; v++)
        for (int r = 0; r < rows; r++) y[v * rows + r] = sums[r][v];
    for (int64_t b = 0; b < blocks; b++)
        multiply_block(y, panel + b * TILE_VECTORS, TILE_VECTORS, x, first + b, rows, layout,
                       true);
    for (int v = 0; v < TILE_VECTORS; v++)
        for (int r = 0; r < rows; r++) sums[r][v] = y[v * rows + r];
}

INLINE void panel_tiles(const Block *panel, int64_t first, int64_t blocks, const Input *input,
                        Floats (*sums)[TILE_VECTORS], Layout layout) {
    for (int64_t x_row = input->first; x_row < input->last;) {
        Activations x = activations(input->quantised, input->k, x_row);
        Floats(*y)[TILE_VECTORS] = sums + (x_row - input->first);
        int rows = tile_rows(input->last - x_row);
        switch (rows) {
        case 6: panel_tile(panel, first, blocks, x, y, TILE_ROWS >= 6 ? 6 : 1, layout); break;
        case 4: panel_tile(panel, first, blocks, x, y, TILE_ROWS >= 4 ? 4 : 1, layout); break;
        case 2: panel_tile(panel, first, blocks, x, y, 2, layout); break;
        default: panel_tile(panel, first, blocks, x, y, 1, layout); break;
        }
        x_row += rows;
    }
}

typedef void Direct(const Matrix *, int64_t row, const Input *);
typedef void Decode(Block *, const Groups *, int64_t first, int64_t blocks);
typedef void Multiply(const Block *, int64_t first, int64_t blocks, const Input *,
                      Floats (*sums)[TILE_VECTORS], int offset);

// What the compiler makes of the functions above once it knows the format.
#define INSTANCE(name)                                                                     \
    static void direct_##name(const Matrix *matrix, int64_t row, const Input *input) {     \
        direct(FORMAT_##name, matrix, row, input);                                         \
    }                                                                                      \
    static void decode_##name(Block *panel, const Groups *groups, int64_t first, int64_t blocks) { \
        decode(FORMAT_##name, panel, groups, first, blocks);                               \
    }
INSTANCE(Q4_0)
INSTANCE(Q4_1)
INSTANCE(Q5_0)
INSTANCE(Q5_1)
INSTANCE(Q8_0)
INSTANCE(Q4_K)
INSTANCE(Q5_K)
INSTANCE(Q6_K)
#undef INSTANCE

// Decoded, several formats are the same but for the offset.
#define MULTIPLY(name, limit, halves, minimum)                                               \
    static void multiply_##name(const Block *panel, int64_t first, int64_t blocks,           \
                                const Input *input, Floats (*sums)[TILE_VECTORS],            \
                                int offset) {                                                \
        panel_tiles(panel, first, blocks, input, sums,                                       \
                    (Layout){0, 32, limit, minimum ? 0 : offset, halves, minimum});          \
    }
MULTIPLY(small, 31, false, false)
MULTIPLY(shifted, 31, false, true)
MULTIPLY(halves, 63, true, false)
MULTIPLY(signed, SIGNED_LIMIT, false, false)
#undef MULTIPLY

static const struct {
    Direct *direct;
    Decode *decode;
    Multiply *multiply;
} FUNCTIONS[] = {
    [FORMAT_Q4_0] = {direct_Q4_0, decode_Q4_0, multiply_small},
    [FORMAT_Q4_1] = {direct_Q4_1, decode_Q4_1, multiply_shifted},
    [FORMAT_Q5_0] = {direct_Q5_0, decode_Q5_0, multiply_small},
    [FORMAT_Q5_1] = {direct_Q5_1, decode_Q5_1, multiply_shifted},
    [FORMAT_Q8_0] = {direct_Q8_0, decode_Q8_0, multiply_signed},
    [FORMAT_Q4_K] = {direct_Q4_K, decode_Q4_K, multiply_shifted},
    [FORMAT_Q5_K] = {direct_Q5_K, decode_Q5_K, multiply_shifted},
    [FORMAT_Q6_K] = {direct_Q6_K, decode_Q6_K, multiply_halves},
};

// Many rows of activations: a panel is decoded once and multiplied with all of them.
static void multiply_panel(const Matrix *matrix, int64_t row, const Input *input) {
    Floats sums[PANEL_ROWS][TILE_VECTORS];
    Block panel[PANEL_BLOCKS * TILE_VECTORS];
    Groups groups[TILE_VECTORS];
    for (int v = 0; v < TILE_VECTORS; v++) {
        int64_t begin = row + v * LANES;  // past the end, a vector is computed in vain
        groups[v] = groups_of(matrix, begin);
    }
    memset(sums, 0, (size_t)(input->last - input->first) * sizeof *sums);
    for (int64_t first = 0; first < input->k / 32; first += PANEL_BLOCKS) {
        int64_t blocks = input->k / 32 - first;
        if (blocks > PANEL_BLOCKS) blocks = PANEL_BLOCKS;
        FUNCTIONS[matrix->format].decode(panel, groups, first, blocks);
        FUNCTIONS[matrix->format].multiply(panel, first, blocks, input, sums,
                                           LAYOUTS[matrix->format].offset);
    }
    for (int64_t x_row = input->first; x_row < input->last; x_row++)
        for (int v = 0; v < TILE_VECTORS; v++)
            store_some(matrix, x_row, row + v * LANES, sums[x_row - input->first][v]);
}

INLINE void float_tile(int format, const Matrix *matrix, int64_t row, const Input *input,
                       int64_t x_row, int rows) {
    const float *x = input->floats + x_row * input->k;
    Groups w[TILE_VECTORS];
    Floats y[TILE_VECTORS][TILE_ROWS];
    for (int v = 0; v < TILE_VECTORS; v++) {
        w[v] = groups_of(matrix, row + v * LANES);
        for (int r = 0; r < rows; r++) y[v][r] = (Floats)(0);
    }
    for (int64_t i = 0; i < input->k; i++)
        for (int v = 0; v < TILE_VECTORS; v++) {
            Floats weights = load_weights(format, w[v], i);
            for (int r = 0; r < rows; r++)
                y[v][r] = multiply_add(weights, (Floats)(x[r * input->k + i]), y[v][r]);
        }
    for (int v = 0; v < TILE_VECTORS; v++)
        for (int r = 0; r < rows; r++) store_some(matrix, x_row + r, row + v * LANES, y[v][r]);
}

INLINE void float_panel(int format, const Matrix *matrix, int64_t row, const Input *input) {
    for (int64_t x_row = input->first; x_row < input->last;) {
        int rows = tile_rows(input->last - x_row);
        switch (rows) {
        case 6: float_tile(format, matrix, row, input, x_row, TILE_ROWS >= 6 ? 6 : 1); break;
        case 4: float_tile(format, matrix, row, input, x_row, TILE_ROWS >= 4 ? 4 : 1); break;
        case 2: float_tile(format, matrix, row, input, x_row, 2); break;
        default: float_tile(format, matrix, row, input, x_row, 1); break;
        }
        x_row += rows;
    }
}

static void compute_panel(const Matrix *matrix, int64_t row, const Input *input) {
    switch (matrix->format) {
    case FORMAT_F32: float_panel(FORMAT_F32, matrix, row, input); return;
    case FORMAT_F16: float_panel(FORMAT_F16, matrix, row, input); return;
    case FORMAT_BF16: float_panel(FORMAT_BF16, matrix, row, input); return;
    default: break;
    }
    if (input->last - input->first > DIRECT_ROWS) {
        multiply_panel(matrix, row, input);
        return;
    }
    for (int v = 0; v < TILE_VECTORS && row + v * LANES < matrix->rows; v++)
        FUNCTIONS[matrix->format].direct(matrix, row + v * LANES, input);
}

static int64_t panels(const Matrix *matrix) { return (matrix->rows + PANEL - 1) / PANEL; }

static int64_t row_blocks(const Step *step) { return (step->rows + PANEL_ROWS - 1) / PANEL_ROWS; }

static int linear_parts(const Call *call, const Step *step) {
    if (step->threads == 1) return 1;
    int64_t items = 0, bytes = 0;
    for (int64_t i = 0; i < call->numbers[1]; i++) {
        Matrix matrix = matrix_of(call, i);
        items += panels(&matrix);
        bytes += panels(&matrix) * PANEL / GROUP * matrix.group_bytes;
    }
    items *= row_blocks(step);
    int64_t parts = bytes * step->rows / PART_BYTES, most = 16 * (int64_t)step->threads;
    if (parts > most) parts = most;
    if (parts > items) parts = items;
    return parts < 1 ? 1 : (int)parts;
}

static void linear_run(const Call *call, const Step *step, int part, int parts) {
    int64_t items = 0, blocks = row_blocks(step), begin = 0;
    for (int64_t i = 0; i < call->numbers[1]; i++) {
        Matrix matrix = matrix_of(call, i);
        items += panels(&matrix) * blocks;
    }
    int64_t first = items * part / parts, last = items * (part + 1) / parts;
    for (int64_t i = 0; i < call->numbers[1]; i++) {
        Matrix matrix = matrix_of(call, i);
        int64_t end = begin + panels(&matrix) * blocks;
        for (int64_t item = first > begin ? first : begin; item < last && item < end; item++) {
            int64_t panel = (item - begin) / blocks, block = (item - begin) % blocks;
            Input input = {
                .quantised = call->buffers[1],
                .floats = call->buffers[0],
                .k = call->numbers[0],
                .first = step->rows * block / blocks,
                .last = step->rows * (block + 1) / blocks,
            };
            compute_panel(&matrix, panel * PANEL, &input);
        }
        begin = end;
    }
}

const Kernel edge_linear = {linear_parts, linear_run, NULL};
