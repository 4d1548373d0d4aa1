// One tile of a matrix product: a group of weight rows by some rows of activations.
//
// Whatever the tile, an output's float operations are these, in this order, so that a row's result
// doesn't depend on how many rows there are: for each 32 inputs
//   y = fma(float(integer dot product), weight scale * activation scale, y), for each scale;
//   y = fma(minimum, activation scale * float(sum of codes), y), for each minimum, if any;
// and with float weights as floats.h says.
#pragma once
#include "formats.h"

enum { MOST_ROWS = 6 };

// How many of `left` rows the next tile takes, if it may take `most`: 6, 4, 2 or 1.
INLINE int tile_rows(int64_t left, int most) {
    if (left >= 6 && most >= 6) return 6;
    return left >= 4 && most >= 4 ? 4 : left >= 2 && most >= 2 ? 2 : 1;
}

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

// The sum of a row's codes, all 32 of a block or half of them.
INLINE int32_t total(Activations x, int64_t row, int64_t b, Layout layout, int half) {
    int32_t sum = row_int(x.sum, x.stride, row, b);
    if (!layout.halves) return sum;
    int32_t first = row_int(x.half, x.stride, row, b);
    return half == 0 ? first : sum - first;
}

// What a minimum of 1 adds.
INLINE float shift(Activations x, int64_t row, int64_t b, Layout layout, int half) {
    return row_float(x.scale, x.stride, row, b) * (float)total(x, row, b, layout, half);
}

// sum += 16 or 32 products; codes of a panel may have been put in another order (see `arrange`).
INLINE void dot(Ints *sum, const Bytes *code, int inputs, const int8_t *x, int64_t stride, int rows,
                int limit, bool panel) {
#if defined(ARRANGED)
    if (panel) {
        dot_arranged(sum, code, inputs, x, stride, rows);
        return;
    }
#endif
    (void)panel;
#pragma clang loop unroll(full)
    for (int i = 0; i < inputs; i += 16) dot16(sum, code + i / 4, x + i, stride, rows, limit);
}

// y[r] += what 32 inputs, number `b` of the activations, contribute to row r of them. `panel`: the
// block is of a decoded panel.
INLINE void multiply_block(Floats *y, const Block *block, Activations x, int64_t b, int rows,
                           Layout layout, bool panel) {
    int scales = layout.halves ? 2 : 1;
#pragma clang loop unroll(full)
    for (int s = 0; s < scales; s++) {
        Ints sum[MOST_ROWS];
        for (int r = 0; r < rows; r++) sum[r] = (Ints)(-layout.offset * total(x, r, b, layout, s));
        dot(sum, block->code + s * 4, 32 / scales, x.code + b * 32 + s * 16, x.stride, rows,
            layout.limit, panel);
        for (int r = 0; r < rows; r++)
            y[r] = multiply_add(__builtin_convertvector(sum[r], Floats),
                                block->scale[s] * row_float(x.scale, x.stride, r, b), y[r]);
    }
    for (int s = 0; layout.minimum && s < scales; s++)
        for (int r = 0; r < rows; r++)
            y[r] = multiply_add(block->minimum[s], (Floats)shift(x, r, b, layout, s), y[r]);
}

// Weights from memory are fetched so many bytes ahead, for a processor's own fetching stops at a
// page's end. Those that a cache holds come sooner without.
enum { AHEAD = 8192 };

INLINE void fetch(const uint8_t *p, int64_t offset, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64)  // may be past the end: nothing is read
        __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)(offset + line)));
}

// y[r] = the products of a group at `w` with row r, the weights decoded into registers.
INLINE void multiply_group(Floats *y, int format, const uint8_t *w, int64_t k, Activations x,
                           int rows, bool from_memory) {
    const Layout layout = LAYOUTS[format];
    int parts = layout.inputs / 32, step = layout.bytes / parts;
    for (int r = 0; r < rows; r++) y[r] = (Floats)(0);
    for (int64_t b = 0; b < k / 32; b += parts, w += layout.bytes)
        for (int part = 0; part < parts; part++) {
            if (from_memory) fetch(w, part * step + AHEAD, step);
            Block block;
            read_block(&block, format, w, part);
            multiply_block(y, &block, x, b + part, rows, layout, false);
        }
}

#if defined(__AVX512VNNI__)
#include "panel_avx512.h"
#else

// Of a panel, a decoded part of a matrix: 32 inputs of its rows.
typedef Block PanelBlock;
enum { PANEL_GROUPS = 1, PANEL_TILE_ROWS = TILE_ROWS };

// Of groups that are decoded into registers, so many at once.
enum { DIRECT_GROUPS = 1, DIRECT_TILE_ROWS = TILE_ROWS };

// y[r][g] = the products of group g, `bytes` after the one before, with row r.
INLINE void multiply_groups(Floats (*y)[DIRECT_GROUPS], int format, const uint8_t *w, int64_t bytes,
                            int64_t k, Activations x, int rows, bool from_memory) {
    (void)bytes;
    multiply_group(y[0], format, w, k, x, rows, from_memory);
}

INLINE void place(PanelBlock *panel, int group, Block block, Layout layout) {
    (void)group, (void)layout;
#if defined(ARRANGED)
    arrange(block.code);
#endif
    *panel = block;
}

// sums[r] += what `blocks` blocks of a panel, from number `first` on, contribute to row r.
INLINE void multiply_panel(const PanelBlock *panel, int64_t first, int64_t blocks, Activations x,
                           Floats (*sums)[PANEL_GROUPS], int rows, Layout layout) {
    Floats y[MOST_ROWS];
    for (int r = 0; r < rows; r++) y[r] = sums[r][0];
    for (int64_t b = 0; b < blocks; b++)
        multiply_block(y, panel + b, x, first + b, rows, layout, true);
    for (int r = 0; r < rows; r++) sums[r][0] = y[r];
}

#endif
