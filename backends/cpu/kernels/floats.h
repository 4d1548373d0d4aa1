// Tiles with weights of a float format and float activations.
//
// Input i is added to partial sum i % 4, y = fma(weight, activation, y), whatever the tile; four
// chains hide the latency of one, and the sum is more exact than in a single one.
#pragma once
#include "tile.h"

enum { CHAINS = 4 };

INLINE void multiply_floats(Floats *y, int format, const uint8_t *w, const float *x, int64_t k,
                            int rows, bool from_memory) {
    Floats sum[MOST_ROWS][CHAINS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < CHAINS; c++) sum[r][c] = (Floats)(0);
    int64_t i = 0, bytes = group_bytes(format, CHAINS);
    for (; i + CHAINS <= k; i += CHAINS) {
        if (from_memory) fetch(w, i / CHAINS * bytes + AHEAD, bytes);
        for (int c = 0; c < CHAINS; c++) {
            Floats weights = load_weights(format, w, i + c);
            for (int r = 0; r < rows; r++)
                sum[r][c] = multiply_add(weights, (Floats)x[r * k + i + c], sum[r][c]);
        }
    }
    for (int c = 0; i + c < k; c++)
        for (int r = 0; r < rows; r++)
            sum[r][c] =
                multiply_add(load_weights(format, w, i + c), (Floats)x[r * k + i + c], sum[r][c]);
    for (int r = 0; r < rows; r++) y[r] = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
}

#if defined(__AVX512VNNI__)

enum { FLOAT_GROUPS = DIRECT_GROUPS, FLOAT_ROWS = 4 };

// y[r][g] = the products of group g, `bytes` after the one before, with row r.
INLINE void multiply_float_groups(Floats (*y)[FLOAT_GROUPS], int format, const uint8_t *w,
                                  int64_t bytes, const float *x, int64_t k, int rows,
                                  bool from_memory) {
    if (rows == 1) {  // one stream from memory, as in multiply_groups
        for (int g = 0; g < FLOAT_GROUPS; g++)
            multiply_floats(&y[0][g], format, w + g * bytes, x, k, 1, from_memory);
        return;
    }
    __m512 sum[FLOAT_ROWS][CHAINS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < CHAINS; c++) sum[r][c] = _mm512_setzero_ps();
    int64_t step = group_bytes(format, CHAINS);
    for (int64_t i = 0; i < k; i += CHAINS) {
        if (from_memory)  // the next pair, as one stream
            fetch(w, 2 * bytes + i / CHAINS * 2 * step, 2 * step);
        for (int c = 0; c < CHAINS && i + c < k; c++) {
            __m512 weights = join_floats(load_weights(format, w, i + c),
                                         load_weights(format, w + bytes, i + c));
            for (int r = 0; r < rows; r++)
                sum[r][c] = _mm512_fmadd_ps(weights, _mm512_set1_ps(x[r * k + i + c]), sum[r][c]);
        }
    }
    for (int r = 0; r < rows; r++) {
        __m512 total = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
        memcpy(y[r], &total, sizeof total);
    }
}

#else

enum { FLOAT_GROUPS = DIRECT_GROUPS, FLOAT_ROWS = TILE_ROWS / 2 };

INLINE void multiply_float_groups(Floats (*y)[FLOAT_GROUPS], int format, const uint8_t *w,
                                  int64_t bytes, const float *x, int64_t k, int rows,
                                  bool from_memory) {
    (void)bytes;
    multiply_floats(y[0], format, w, x, k, rows, from_memory);
}

#endif
