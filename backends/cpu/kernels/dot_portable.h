// Dot products for a processor without any of its own, and what every such file offers.
//
// A dot product multiplies codes of weights, one row a lane, with codes of activations.
#pragma once
#include "lanes.h"

// How codes that are signed in the file (Q8_0) are held: the weight is code - SIGNED_OFFSET, the
// magnitude of a code is SIGNED_LIMIT at most.
enum { SIGNED_LIMIT = 128, SIGNED_OFFSET = 0 };

INLINE Bytes signed_codes(Bytes codes) { return codes; }

// The tile of a matrix product: so many rows of activations by so many vectors of weight rows.
enum { TILE_ROWS = 4, TILE_VECTORS = 1 };

// sum[v * rows + r][i] += the products of 16 codes, those of row i in four vectors, with the 16
// activations at x + r * stride, for each of `rows` rows r and each vector v; the vectors' codes lie
// `step` bytes apart. `limit` is the largest magnitude of a code; those of 128 are signed.
INLINE void dot16(Ints *sum, const Bytes *code, int vectors, int64_t step, const int8_t *x,
                  int64_t stride, int rows, int limit) {
    for (int v = 0; v < vectors; v++) {
        const uint8_t *codes = (const uint8_t *)code + v * step;
        for (int r = 0; r < rows; r++)
            for (int lane = 0; lane < LANES; lane++)
                for (int i = 0; i < 16; i++) {
                    uint8_t c = codes[i / 4 * sizeof(Bytes) + lane * 4 + i % 4];
                    sum[v * rows + r][lane] += (limit == 128 ? (int8_t)c : c) * x[r * stride + i];
                }
    }
}
