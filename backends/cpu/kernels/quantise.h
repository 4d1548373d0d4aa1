// Activations become int8 with one scale per 32 (edge.h says how a quantised row is laid out).
#pragma once
#include "edge.h"
#include "vector.h"

enum { BLOCK = 32 };

INLINE void quantise_block(const float *x, int8_t *code, float *scale, int32_t *total, int32_t *half) {
    Floats a = load(x), b = load(x + LANES);
    float peak = largest(larger(magnitude(a), magnitude(b)));
    // Below this 127 / peak would overflow: such a block is all zeros.
    float inverse = peak > 1e-30f ? 127.0f / peak : 0.0f;
    *scale = peak > 1e-30f ? peak / 127.0f : 0.0f;
    Ints p = nearest(a * inverse), q = nearest(b * inverse);
    Bytes first = __builtin_convertvector(p, Bytes), second = __builtin_convertvector(q, Bytes);
    memcpy(code, &first, sizeof first);
    memcpy(code + LANES, &second, sizeof second);
    *half = __builtin_reduce_add(p);
    *total = *half + __builtin_reduce_add(q);
}

// Quantises values `first` to `last` (multiples of 32) of a row of k values into their places.
INLINE void quantise_values(const float *x, void *row, int64_t k, int64_t first, int64_t last) {
    int8_t *code = row;
    float *scale = (float *)(code + k);
    int32_t *total = (int32_t *)(scale + k / BLOCK), *half = total + k / BLOCK;
    for (int64_t i = first / BLOCK; i < last / BLOCK; i++)
        quantise_block(x + i * BLOCK, code + i * BLOCK, scale + i, total + i, half + i);
}
