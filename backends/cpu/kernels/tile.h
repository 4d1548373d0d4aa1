// One tile of a matrix product: some rows of activations by some vectors of weight rows.
//
// Whatever the tile, an output's float operations are these, in this order, so that a row's result
// doesn't depend on how many rows there are: for each 32 inputs
//   y = fma(float(integer dot product), weight scale * activation scale, y), for each scale;
//   y = fma(minimum, activation scale * float(sum of codes), y), where there is a minimum;
// and for float weights, for each input, y = fma(weight, activation, y).
#pragma once
#include "formats.h"

// Quantised rows, from the first of a tile on.
typedef struct {
    const int8_t *code;
    const float *scale;
    const int32_t *sum, *half;
    int64_t stride;  // from row to row, in bytes
} Activations;

INLINE Activations activations(const void *rows, int64_t k, int64_t row) {
    int64_t stride = (int64_t)quantised_row_bytes(k);
    const int8_t *code = (const int8_t *)rows + row * stride;
    const float *scale = (const float *)(code + k);
    const int32_t *sum = (const int32_t *)(scale + k / 32);
    return (Activations){code, scale, sum, sum + k / 32, stride};
}

INLINE float row_float(const float *first, int64_t stride, int64_t row, int64_t i) {
    return ((const float *)((const char *)first + row * stride))[i];
}

INLINE int32_t row_int(const int32_t *first, int64_t stride, int64_t row, int64_t i) {
    return ((const int32_t *)((const char *)first + row * stride))[i];
}

// sum += 16 or 32 products; codes of a panel may have been put in another order (see `arrange`).
INLINE void dot(Ints *sum, const Bytes *code, int inputs, int vectors, int64_t step, const int8_t *x,
                int64_t stride, int rows, int limit, bool panel) {
#if defined(ARRANGED)
    if (panel) {
        dot_arranged(sum, code, inputs, vectors, step, x, stride, rows);
        return;
    }
#endif
    (void)panel;
    for (int i = 0; i < inputs; i += 16)
        dot16(sum, code + i / 4, vectors, step, x + i, stride, rows, limit);
}

// y[vector * rows + row] += what 32 inputs, number `b` of the activations, contribute. `panel`: the
// block is of a decoded panel.
INLINE void multiply_block(Floats *y, const Block *block, int vectors, Activations x, int64_t b,
                           int rows, Layout layout, bool panel) {
    int scales = layout.halves ? 2 : 1;
    for (int s = 0; s < scales; s++) {
        Ints sum[TILE_VECTORS * TILE_ROWS];
        for (int r = 0; r < rows; r++) {
            int32_t total = row_int(x.sum, x.stride, r, b);
            if (layout.halves) {
                int32_t half = row_int(x.half, x.stride, r, b);
                total = s == 0 ? half : total - half;
            }
            for (int v = 0; v < vectors; v++) sum[v * rows + r] = (Ints)(-layout.offset * total);
        }
        const int8_t *code = x.code + b * 32 + s * 16;
        dot(sum, block->code + s * 4, 32 / scales, vectors, sizeof *block, code, x.stride, rows,
            layout.limit, panel);
        for (int r = 0; r < rows; r++) {
            float scale = row_float(x.scale, x.stride, r, b);
            for (int v = 0; v < vectors; v++)
                y[v * rows + r] = multiply_add(__builtin_convertvector(sum[v * rows + r], Floats),
                                               block[v].scale[s] * scale, y[v * rows + r]);
        }
    }
    if (layout.minimum)
        for (int r = 0; r < rows; r++) {
            float shift = row_float(x.scale, x.stride, r, b) * (float)row_int(x.sum, x.stride, r, b);
            for (int v = 0; v < vectors; v++)
                y[v * rows + r] =
                    multiply_add(block[v].minimum, (Floats)shift, y[v * rows + r]);
        }
}
