// Dot products for a processor without any of its own, and what every such file offers.
//
// A dot product multiplies codes of weights, one row a lane, with codes of activations.
#pragma once
#include "lanes.h"

// How codes that are signed in the file (Q8_0) are held: the weight is code - SIGNED_OFFSET, the
// magnitude of a code is SIGNED_LIMIT at most.
enum { SIGNED_LIMIT = 128, SIGNED_OFFSET = 0 };

INLINE Bytes signed_codes(Bytes codes) { return codes; }

// The number of a table for each index, 0 to 15.
INLINE Bytes from_table(const int8_t *table, Bytes index) {
    Bytes found;
    for (int i = 0; i < LANES * 4; i++) found[i] = (uint8_t)table[index[i]];
    return found;
}

// So many rows of activations are multiplied at once, as registers allow: 2, 4 or 6. More than
// DIRECT_ROWS in all are worth the decoding of weights into memory.
enum { TILE_ROWS = 4, DIRECT_ROWS = 4 };

// sum[r][i] += the products of 16 codes, those of row i of the weights in four vectors, with the 16
// activations at x + r * stride, for each of `rows` rows r. `limit` is the largest magnitude of a
// code; those of 128 are signed.
INLINE void dot16(Ints *sum, const Bytes *code, const int8_t *x, int64_t stride, int rows,
                  int limit) {
    for (int r = 0; r < rows; r++)
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 16; i++) {
                uint8_t c = code[i / 4][lane * 4 + i % 4];
                sum[r][lane] += (limit == 128 ? (int8_t)c : c) * x[r * stride + i];
            }
}
