// edge_linear: y = W x for one or more matrices that share their input.
// buffers: x f32 [K] (NULL if all weights are of integer formats), x quantised (NULL if all are of
// float formats), then for each matrix its packed weight and y f32 [N];
// numbers: K, matrices (at most 7), then for each matrix its Format and N.
#include "floats.h"

enum {
    PANEL_BLOCKS = 16,   // 512 inputs of a panel, decoded, stay in the first-level cache
    ROW_BLOCK = 96,      // so many rows of activations at most are multiplied with a panel at once
    PART_BYTES = 32768,  // of weights: a microsecond of work
    PARTS = 4,           // a thread: fewer leave it waiting, more break up the stream from memory
};

typedef struct {
    int format;
    const uint8_t *weight;
    float *out;
    int64_t rows;   // of the matrix
    int64_t bytes;  // of a group of them
} Matrix;

// Rows of activations, from one to the next but one.
typedef struct {
    const void *quantised;
    const float *floats;
    int64_t k, first, end;
    bool from_memory;  // the weights
} Input;

INLINE Matrix matrix_of(const Call *call, int64_t index) {
    int format = (int)call->numbers[2 + 2 * index];
    return (Matrix){
        .format = format,
        .weight = call->buffers[2 + 2 * index],
        .out = call->buffers[3 + 2 * index],
        .rows = call->numbers[3 + 2 * index],
        .bytes = group_bytes(format, call->numbers[0]),
    };
}

INLINE void store_group(const Matrix *matrix, int64_t group, int64_t row, Floats y) {
    int64_t left = matrix->rows - group * LANES;
    float *out = matrix->out + row * matrix->rows + group * LANES;
    if (left >= LANES)
        memcpy(out, &y, sizeof y);
    else
        for (int64_t i = 0; i < left; i++) out[i] = y[i];
}

// Few rows of activations: weights are decoded into registers and used there.
INLINE void direct_tile(int format, const Matrix *matrix, int64_t group, const Input *input,
                        int64_t row, int rows) {
    Floats y[MOST_ROWS][DIRECT_GROUPS];
    bool last = (group + 1) * LANES >= matrix->rows;
    multiply_groups(y, format, matrix->weight + group * matrix->bytes, last ? 0 : matrix->bytes,
                    input->k, activations(input->quantised, input->k, row), rows,
                    input->from_memory);
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < DIRECT_GROUPS; g++) store_group(matrix, group + g, row + r, y[r][g]);
}

INLINE void direct(int format, const Matrix *matrix, int64_t group, const Input *input) {
    for (int64_t row = input->first, rows; row < input->end; row += rows) {
        rows = tile_rows(input->end - row, DIRECT_TILE_ROWS);
        switch (rows) {
        case 6: direct_tile(format, matrix, group, input, row, 6); break;
        case 4: direct_tile(format, matrix, group, input, row, 4); break;
        case 2: direct_tile(format, matrix, group, input, row, 2); break;
        default: direct_tile(format, matrix, group, input, row, 1);
        }
    }
}

// Decodes 32 inputs of each group of a panel, `blocks` times, from number `first` on. Where the
// matrix ends within a panel, its last group stands for those that are missing.
INLINE void decode(int format, PanelBlock *panel, const Matrix *matrix, int64_t group,
                   int64_t first, int64_t blocks) {
    const Layout layout = LAYOUTS[format];
    int parts = layout.inputs / 32;
    int64_t last = (matrix->rows - 1) / LANES;
    for (int g = 0; g < PANEL_GROUPS; g++) {
        int64_t index = group + g < last ? group + g : last;
        const uint8_t *w = matrix->weight + index * matrix->bytes + first / parts * layout.bytes;
        for (int64_t b = 0; b < blocks; b += parts, w += layout.bytes)
            for (int part = 0; part < parts; part++) {
                Block block;
                read_block(&block, format, w, part);
                place(panel + b + part, g, block, layout);
            }
        fetch(w, 0, blocks / parts * layout.bytes);  // the next arrive while these are multiplied
    }
}

INLINE void multiply(const PanelBlock *panel, int64_t first, int64_t blocks, const Input *input,
                     Floats (*sums)[PANEL_GROUPS], Layout layout) {
    for (int64_t row = input->first, rows; row < input->end; row += rows, sums += rows) {
        rows = tile_rows(input->end - row, PANEL_TILE_ROWS);
        Activations x = activations(input->quantised, input->k, row);
        switch (rows) {
        case 6: multiply_panel(panel, first, blocks, x, sums, 6, layout); break;
        case 4: multiply_panel(panel, first, blocks, x, sums, 4, layout); break;
        case 2: multiply_panel(panel, first, blocks, x, sums, 2, layout); break;
        default: multiply_panel(panel, first, blocks, x, sums, 1, layout);
        }
    }
}

INLINE void float_tile(int format, const Matrix *matrix, int64_t group, const Input *input,
                       int64_t row, int rows) {
    Floats y[MOST_ROWS][FLOAT_GROUPS];
    bool last = (group + 1) * LANES >= matrix->rows;
    multiply_float_groups(y, format, matrix->weight + group * matrix->bytes,
                          last ? 0 : matrix->bytes, input->floats + row * input->k, input->k, rows,
                          input->from_memory);
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < FLOAT_GROUPS; g++) store_group(matrix, group + g, row + r, y[r][g]);
}

INLINE void floats(int format, const Matrix *matrix, int64_t group, const Input *input) {
    for (int64_t row = input->first, rows; row < input->end; row += rows) {
        rows = tile_rows(input->end - row, FLOAT_ROWS);
        switch (rows) {
        case 4: float_tile(format, matrix, group, input, row, 4); break;
        case 2: float_tile(format, matrix, group, input, row, 2); break;
        default: float_tile(format, matrix, group, input, row, 1);
        }
    }
}

typedef void Direct(const Matrix *, int64_t group, const Input *);
typedef void Decode(PanelBlock *, const Matrix *, int64_t group, int64_t first, int64_t blocks);
typedef void Multiply(const PanelBlock *, int64_t first, int64_t blocks, const Input *,
                      Floats (*sums)[PANEL_GROUPS], int offset);

// What the compiler makes of the functions above once it knows the format.
#define FLOAT(name)                                                                               \
    static void direct_##name(const Matrix *matrix, int64_t group, const Input *input) {         \
        floats(FORMAT_##name, matrix, group, input);                                              \
    }
#define INTEGER(name)                                                                             \
    static void direct_##name(const Matrix *matrix, int64_t group, const Input *input) {         \
        direct(FORMAT_##name, matrix, group, input);                                              \
    }                                                                                             \
    static void decode_##name(PanelBlock *panel, const Matrix *matrix, int64_t group,             \
                              int64_t first, int64_t blocks) {                                    \
        decode(FORMAT_##name, panel, matrix, group, first, blocks);                               \
    }
FLOAT(F32)
FLOAT(F16)
FLOAT(BF16)
INTEGER(Q4_0)
INTEGER(Q4_1)
INTEGER(Q5_0)
INTEGER(Q5_1)
INTEGER(Q8_0)
INTEGER(Q4_K)
INTEGER(Q5_K)
INTEGER(Q6_K)
INTEGER(Q2_K)
INTEGER(IQ4_NL)
INTEGER(IQ4_XS)
#undef FLOAT
#undef INTEGER

// Once decoded, several formats are the same but for the offset.
#define DECODED(name, limit, halves, minimum)                                                     \
    static void multiply_##name(const PanelBlock *panel, int64_t first, int64_t blocks,           \
                                const Input *input, Floats (*sums)[PANEL_GROUPS], int offset) {   \
        Layout layout = {0, 32, limit, minimum ? 0 : offset, halves, minimum};                    \
        multiply(panel, first, blocks, input, sums, layout);                                      \
    }
DECODED(small, 31, false, false)
DECODED(raised, 31, false, true)
DECODED(halves, 63, true, false)
DECODED(raised_halves, 3, true, true)
DECODED(signed, SIGNED_LIMIT, false, false)
#undef DECODED

static const struct {
    Direct *direct;
    Decode *decode;
    Multiply *multiply;
} FUNCTIONS[] = {
    [FORMAT_F32] = {direct_F32, NULL, NULL},
    [FORMAT_F16] = {direct_F16, NULL, NULL},
    [FORMAT_BF16] = {direct_BF16, NULL, NULL},
    [FORMAT_Q4_0] = {direct_Q4_0, decode_Q4_0, multiply_small},
    [FORMAT_Q4_1] = {direct_Q4_1, decode_Q4_1, multiply_raised},
    [FORMAT_Q5_0] = {direct_Q5_0, decode_Q5_0, multiply_small},
    [FORMAT_Q5_1] = {direct_Q5_1, decode_Q5_1, multiply_raised},
    [FORMAT_Q8_0] = {direct_Q8_0, decode_Q8_0, multiply_signed},
    [FORMAT_Q4_K] = {direct_Q4_K, decode_Q4_K, multiply_raised},
    [FORMAT_Q5_K] = {direct_Q5_K, decode_Q5_K, multiply_raised},
    [FORMAT_Q6_K] = {direct_Q6_K, decode_Q6_K, multiply_halves},
    [FORMAT_Q2_K] = {direct_Q2_K, decode_Q2_K, multiply_raised_halves},
    [FORMAT_IQ4_NL] = {direct_IQ4_NL, decode_IQ4_NL, multiply_signed},
    [FORMAT_IQ4_XS] = {direct_IQ4_XS, decode_IQ4_XS, multiply_signed},
};

// Many rows of activations: a panel is decoded once and multiplied with all of them.
static void compute_panel(const Matrix *matrix, int64_t group, const Input *input) {
    Floats sums[ROW_BLOCK][PANEL_GROUPS];
    PanelBlock panel[PANEL_BLOCKS];
    int64_t rows = input->end - input->first;
    memset(sums, 0, (size_t)rows * sizeof *sums);
    for (int64_t first = 0; first < input->k / 32; first += PANEL_BLOCKS) {
        int64_t blocks = input->k / 32 - first;
        if (blocks > PANEL_BLOCKS) blocks = PANEL_BLOCKS;
        FUNCTIONS[matrix->format].decode(panel, matrix, group, first, blocks);
        FUNCTIONS[matrix->format].multiply(panel, first, blocks, input, sums,
                                           LAYOUTS[matrix->format].offset);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int g = 0; g < PANEL_GROUPS; g++)
            store_group(matrix, group + g, input->first + r, sums[r][g]);
}

static void compute(const Matrix *matrix, int64_t group, const Input *input) {
    if (FUNCTIONS[matrix->format].decode && input->end - input->first > DIRECT_ROWS) {
        compute_panel(matrix, group, input);
        return;
    }
    for (int g = 0; g < PANEL_GROUPS && (group + g) * LANES < matrix->rows; g += DIRECT_GROUPS)
        FUNCTIONS[matrix->format].direct(matrix, group + g, input);
}

// A matrix is cut into panels, many rows of activations into blocks of them.
static int64_t panels(const Matrix *matrix) {
    return (matrix->rows + PANEL_GROUPS * LANES - 1) / (PANEL_GROUPS * LANES);
}

static int64_t row_blocks(const Step *step) { return (step->rows + ROW_BLOCK - 1) / ROW_BLOCK; }

static int linear_parts(const Call *call, const Step *step) {
    if (step->threads == 1) return 1;
    int64_t items = 0, bytes = 0;
    for (int64_t i = 0; i < call->numbers[1]; i++) {
        Matrix matrix = matrix_of(call, i);
        items += panels(&matrix) * row_blocks(step);
        bytes += panels(&matrix) * PANEL_GROUPS * matrix.bytes;
    }
    int64_t parts = bytes * step->rows / PART_BYTES, most = PARTS * (int64_t)step->threads;
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
    int64_t item = items * part / parts, end = items * (part + 1) / parts;
    for (int64_t i = 0; i < call->numbers[1] && item < end; i++) {
        Matrix matrix = matrix_of(call, i);
        int64_t next = begin + panels(&matrix) * blocks;
        for (; item < next && item < end; item++) {
            int64_t panel = (item - begin) / blocks, block = (item - begin) % blocks;
            Input input = {
                .quantised = call->buffers[1],
                .floats = call->buffers[0],
                .k = call->numbers[0],
                .first = step->rows * block / blocks,
                .end = step->rows * (block + 1) / blocks,
                .from_memory = step->from_memory,
            };
            compute(&matrix, panel * PANEL_GROUPS, &input);
        }
        begin = next;
    }
}

const Kernel edge_linear = {linear_parts, linear_run, NULL};
