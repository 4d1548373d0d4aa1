// Tiles with weights of a float format and float activations.
//
// Input i is added to partial sum i % 4, y = fma(weight, activation, y), whatever the tile; four
// chains hide the latency of one, and the sum is more exact than in a single one.
#pragma once
#include "tile.h"

enum { CHAINS = 4, FLOAT_ROWS = TILE_ROWS / 2 };

INLINE void multiply_floats(Floats *y, int format, const uint8_t *w, const float *x, int64_t k,
                            int rows) {
    Floats sum[MOST_ROWS][CHAINS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < CHAINS; c++) sum[r][c] = (Floats)(0);
    int64_t i = 0;
    for (; i + CHAINS <= k; i += CHAINS)
        for (int c = 0; c < CHAINS; c++) {
            Floats weights = load_weights(format, w, i + c);
            for (int r = 0; r < rows; r++)
                sum[r][c] = multiply_add(weights, (Floats)x[r * k + i + c], sum[r][c]);
        }
    for (int c = 0; i + c < k; c++)
        for (int r = 0; r < rows; r++)
            sum[r][c] =
                multiply_add(load_weights(format, w, i + c), (Floats)x[r * k + i + c], sum[r][c]);
    for (int r = 0; r < rows; r++) y[r] = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
}
