// The matrix product of attention: a few rows of float32 by float16 or int8 as they lie in a state.
#pragma once
#include "vector.h"

// out[i][16 v + lane] = sum over t of left[i][t] * right[t][16 v + lane], each of them summed in
// the order of t alone: how rows and vectors are tiled doesn't show in the result.
typedef struct {
    const float *left;
    int64_t left_step;  // floats from one row to the next
    const void *right;
    int64_t right_step, vector_step;  // elements from one t to the next, from one v to the next
    float *out;
    int64_t out_step;
    int64_t rows, vectors, depth;
    int64_t next;  // bytes from `right` to what is read after it, fetched meanwhile; 0 for nothing
} Product;

// The sums of a tile stay in registers, beside a vector of `right` and a number of `left`:
// as many rows as that allows with one vector each, or fewer rows with several.
#if defined(__AVX512F__)
enum { TILE_ROWS = 8, TILE_SUMS = 24 };
#elif defined(__aarch64__)
enum { TILE_ROWS = 6, TILE_SUMS = 5 };  // 3 rows by 2 vectors would take one register too many
#elif defined(__AVX2__)
enum { TILE_ROWS = 6, TILE_SUMS = 6 };
#else
enum { TILE_ROWS = 3, TILE_SUMS = 3 };
#endif

INLINE void product_tile(int rows, int vectors, int int8, const Product *p, int64_t first_row,
                         int64_t first_vector) {
    const float *left = p->left + first_row * p->left_step;
    int64_t offset = first_vector * p->vector_step;
    Floats sums[TILE_ROWS][4] = {0};
    for (int64_t t = 0; t < p->depth; t++, offset += p->right_step) {
        Floats right[4];
#pragma unroll
        for (int v = 0; v < vectors; v++) {
            int64_t at = offset + v * p->vector_step;
            __builtin_prefetch((const char *)p->right + at * (int8 ? 1 : 2) + p->next);
            right[v] = int8 ? load_bytes((const int8_t *)p->right + at)
                            : load_halves((const uint16_t *)p->right + at);
        }
#pragma unroll
        for (int i = 0; i < rows; i++) {
            Floats factor = left[i * p->left_step + t];
#pragma unroll
            for (int v = 0; v < vectors; v++) sums[i][v] = madd(factor, right[v], sums[i][v]);
        }
    }
    float *out = p->out + first_row * p->out_step + first_vector * LANES;
#pragma unroll
    for (int i = 0; i < rows; i++)
#pragma unroll
        for (int v = 0; v < vectors; v++) store(out + i * p->out_step + v * LANES, sums[i][v]);
}

INLINE void product_rows(int rows, int int8, const Product *p, int64_t first_row) {
    enum { MOST = 4 };
    int vectors = TILE_SUMS / rows >= MOST ? MOST : TILE_SUMS / rows >= 2 ? 2 : 1;
    int64_t v = 0;
    for (; v + vectors <= p->vectors; v += vectors)
        product_tile(rows, vectors, int8, p, first_row, v);
    if (vectors > 1)
        for (; v < p->vectors; v++) product_tile(rows, 1, int8, p, first_row, v);
}

INLINE void product(int int8, const Product *p) {
    // Tiles of nearly equal height: nine rows are 5 + 4, since the shorter a tile, the more often
    // `right` is converted.
    int64_t tiles = (p->rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t first = p->rows * tile / tiles, rows = p->rows * (tile + 1) / tiles - first;
        switch (rows) {
        case 1: product_rows(1, int8, p, first); break;
        case 2: product_rows(2, int8, p, first); break;
        case 3: product_rows(3, int8, p, first); break;
#if defined(__AVX2__) || defined(__aarch64__)
        case 4: product_rows(4, int8, p, first); break;
        case 5: product_rows(5, int8, p, first); break;
        case 6: product_rows(6, int8, p, first); break;
#endif
#if defined(__AVX512F__)
        case 7: product_rows(7, int8, p, first); break;
        case 8: product_rows(8, int8, p, first); break;
#endif
        default: break;
        }
    }
}
