// Panels out of packed weights (formats.h), dequantised: exactly the values that
// `edgellm.packing.unpack` gives, but for one rounding where a fused operation spares it.
#pragma once
#include "../formats.h"
#include "multiply.h"

// Inputs `first` … of a group, `count` <= 32 of them, one vector of the group's eight rows each.
// In the block formats `first` and `count` are multiples of 32.
INLINE void decode(Floats *values, int format, const uint8_t *group, int64_t first, int count) {
    if (format <= FORMAT_BF16) {
        for (int i = 0; i < count; i++) values[i] = load_weights(format, group, first + i);
        return;
    }
    Layout layout = LAYOUTS[format];
    // Signed codes are as the dot product of this processor takes them.
    bool is_signed = layout.limit == SIGNED_LIMIT;
    int turn = is_signed ? SIGNED_OFFSET * 0x01010101 : 0;
    int offset = is_signed ? 0 : layout.offset;
    Block block;
    const uint8_t *w = group + first / layout.inputs * layout.bytes;
    read_block(&block, format, w, first % layout.inputs / 32);
    for (int v = 0; v < 8; v++) {
        int half = layout.halves ? v / 4 : 0;
        Ints words;
        memcpy(&words, &block.code[v], sizeof words);
        for (int j = 0; j < 4; j++) {
            Ints signed_code = (words ^ turn) << (24 - 8 * j) >> 24;
            Floats code = __builtin_convertvector(signed_code - offset, Floats);
            values[4 * v + j] =
                layout.minimum ? multiply_add(code, block.scale[half], block.minimum[half])
                               : code * block.scale[half];
        }
    }
}

#define PAIRS(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

// Rows become columns.
INLINE void transpose(Floats *x) {
    Floats y[8], z[8];
    for (int i = 0; i < 8; i += 2) {
        y[i] = PAIRS(x[i], x[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        y[i + 1] = PAIRS(x[i], x[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            z[i + j] = PAIRS(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            z[i + j + 2] = PAIRS(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        x[i] = PAIRS(z[i], z[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        x[i + 4] = PAIRS(z[i], z[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// [input][output]: inputs `first` … of `groups` <= 4 groups, for y = x * transposed weights.
INLINE void panel_of_outputs(float *panel, int format, const uint8_t *w, int64_t bytes, int groups,
                             int64_t first, int64_t depth) {
    Floats values[32];
    if (groups < COLUMNS / LANES) memset(panel, 0, depth * COLUMNS * sizeof(float));
    for (int g = 0; g < groups; g++)
        for (int64_t k = 0; k < depth; k += 32) {
            int count = depth - k < 32 ? depth - k : 32;
            decode(values, format, w + g * bytes, first + k, count);
            for (int i = 0; i < count; i++)
                memcpy(panel + (k + i) * COLUMNS + g * LANES, &values[i], sizeof values[i]);
        }
}

// [output][input]: inputs `first` …, `count` <= 32, of `groups` groups, for x = y * weights.
INLINE void panel_of_inputs(float *panel, int format, const uint8_t *w, int64_t bytes,
                            int64_t groups, int64_t first, int count) {
    Floats values[32];
    for (int i = count; i < 32; i++) values[i] = (Floats)(0.0f);
    for (int64_t g = 0; g < groups; g++) {
        decode(values, format, w + g * bytes, first, count);
        Floats turned[8];
        for (int i = 0; i < 32; i += 8) {
            for (int j = 0; j < 8; j++) turned[j] = values[i + j];
            transpose(turned);
            for (int j = 0; j < 8; j++)
                memcpy(panel + (g * LANES + j) * COLUMNS + i, &turned[j], sizeof turned[j]);
        }
    }
}
