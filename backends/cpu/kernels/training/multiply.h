// Products of float32 matrices for training, c = a * b or c += a * b, cut so that a tile of c stays
// in registers while it is summed.
//
// b comes as panels: [depth][COLUMNS], its columns side by side, so that one broadcast of an element
// of a serves a row of the tile. a is read where it lies, with any strides.
#pragma once
#include <stdint.h>
#include <string.h>

#ifndef INLINE
#define INLINE static inline __attribute__((always_inline))
#endif
#define WIDE_VECTORS __attribute__((min_vector_width(512)))

typedef float Wide __attribute__((ext_vector_type(16)));

enum { COLUMNS = 32, DEPTH = 512 };  // of a panel: 64 KiB

// A tile's rows, and vectors of 16 columns: as many as the registers hold.
#if defined(__AVX512F__)
enum { MOST_ROWS = 12, VECTORS = 2 };
#elif defined(__AVX__) || defined(__aarch64__)
enum { MOST_ROWS = 6, VECTORS = 1 };
#else
enum { MOST_ROWS = 3, VECTORS = 1 };
#endif

typedef struct {
    const float *at;
    int64_t row, column;  // strides, in floats
} Matrix;

INLINE Matrix matrix(const float *at, int64_t row, int64_t column) {
    return (Matrix){at, row, column};
}

INLINE Wide load_wide(const float *from) {
    Wide x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store_wide(float *to, Wide x) { memcpy(to, &x, sizeof x); }

INLINE Wide add_product(Wide a, Wide b, Wide c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}

// `rows` rows and `vectors` * 16 columns of c, both constants where it is inlined.
INLINE void multiply_tile(Matrix a, const float *panel, int64_t depth, float *c, int64_t stride,
                          int64_t columns, int add, int rows, int vectors) {
    Wide sum[MOST_ROWS][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sum[i][v] = (Wide)(0.0f);
    for (int64_t k = 0; k < depth; k++) {
        Wide b[VECTORS];
        for (int v = 0; v < vectors; v++) b[v] = load_wide(panel + k * COLUMNS + v * 16);
        for (int i = 0; i < rows; i++) {
            Wide x = (Wide)(a.at[i * a.row + k * a.column]);
            for (int v = 0; v < vectors; v++) sum[i][v] = add_product(x, b[v], sum[i][v]);
        }
    }
    for (int i = 0; i < rows; i++) {
        float *to = c + i * stride;
        for (int v = 0; v < vectors; v++) {
            int64_t left = columns - v * 16;
            if (left >= 16) {
                store_wide(to + v * 16, add ? load_wide(to + v * 16) + sum[i][v] : sum[i][v]);
            } else {
                float lanes[16];
                store_wide(lanes, sum[i][v]);
                for (int64_t j = 0; j < left; j++)
                    to[v * 16 + j] = add ? to[v * 16 + j] + lanes[j] : lanes[j];
            }
        }
    }
}

INLINE void multiply_rows(Matrix a, const float *panel, int64_t depth, float *c, int64_t stride,
                          int64_t columns, int add, int64_t rows, int vectors) {
    int64_t i = 0;
#define TILES(count)                                                                          \
    for (; i + (count) <= rows; i += (count))                                                 \
        multiply_tile(matrix(a.at + i * a.row, a.row, a.column), panel, depth, c + i * stride, \
                      stride, columns, add, count, vectors);
    TILES(MOST_ROWS)
#if defined(__AVX512F__)
    TILES(8)
#endif
    TILES(2)
    TILES(1)
#undef TILES
}

// c (rows, columns), `stride` floats from row to row, = or += a (rows, depth) * the panel, whose
// first `columns` <= COLUMNS count.
static WIDE_VECTORS __attribute__((noinline)) void multiply_panel(Matrix a, const float *panel,
                                                                 int64_t depth, float *c,
                                                                 int64_t stride, int64_t columns,
                                                                 int add, int64_t rows) {
    if (VECTORS == 2 && columns <= 16) {
        multiply_rows(a, panel, depth, c, stride, columns, add, rows, 1);
        return;
    }
    for (int64_t j = 0; j < columns; j += VECTORS * 16)
        multiply_rows(a, panel + j, depth, c + j, stride, columns - j, add, rows, VECTORS);
}

// Columns `first`... of b (depth, …), `count` of them, as a panel; zeros beyond them.
static WIDE_VECTORS void fill_panel(float *panel, Matrix b, int64_t depth, int64_t count) {
    if (b.column == 1 && count == COLUMNS) {
        for (int64_t k = 0; k < depth; k++)
            memcpy(panel + k * COLUMNS, b.at + k * b.row, COLUMNS * sizeof(float));
        return;
    }
    if (count < COLUMNS) memset(panel, 0, depth * COLUMNS * sizeof(float));
    if (b.row == 1) {  // b lies transposed: read it along its rows
        for (int64_t k = 0; k < depth; k += 16) {
            int64_t end = k + 16 < depth ? k + 16 : depth;
            for (int64_t j = 0; j < count; j++)
                for (int64_t i = k; i < end; i++) panel[i * COLUMNS + j] = b.at[i + j * b.column];
        }
        return;
    }
    for (int64_t k = 0; k < depth; k++)
        for (int64_t j = 0; j < count; j++)
            panel[k * COLUMNS + j] = b.at[k * b.row + j * b.column];
}

// c (rows, columns) = or += a (rows, depth) * b (depth, columns), columns <= COLUMNS. `panel` has
// room for DEPTH * COLUMNS floats.
INLINE void multiply(Matrix a, Matrix b, int64_t rows, int64_t depth, int64_t columns, float *c,
                     int64_t stride, int add, float *panel) {
    for (int64_t k = 0; k < depth; k += DEPTH) {
        int64_t count = depth - k < DEPTH ? depth - k : DEPTH;
        fill_panel(panel, matrix(b.at + k * b.row, b.row, b.column), count, columns);
        multiply_panel(matrix(a.at + k * a.column, a.row, a.column), panel, count, c, stride,
                       columns, add || k, rows);
    }
}
