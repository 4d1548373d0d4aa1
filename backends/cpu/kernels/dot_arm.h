// Dot products of 64-bit Arm: i8mm, dotprod, plain NEON. See dot_portable.h for what each function
// has to do.
#pragma once
#include <arm_neon.h>
#include "lanes.h"

// Every instruction below multiplies signed bytes; codes that aren't signed are below 64.
enum { SIGNED_LIMIT = 128, SIGNED_OFFSET = 0 };
INLINE Bytes signed_codes(Bytes codes) { return codes; }

INLINE Bytes from_table(const int8_t *table, Bytes index) {
    int8x16_t numbers = vld1q_s8(table);
    uint8x16_t halves[2];
    memcpy(halves, &index, sizeof halves);
    int8x16_t found[] = {vqtbl1q_s8(numbers, halves[0]), vqtbl1q_s8(numbers, halves[1])};
    memcpy(&index, found, sizeof index);
    return index;
}

// Of 32 registers each row takes 2 for integer sums and 2 for floats.
enum { TILE_ROWS = 4, DIRECT_ROWS = 4 };

// Rows 0 to 3 of a vector's 8, and rows 4 to 7.
typedef struct {
    int32x4_t low, high;
} Sums;

typedef struct {
    int8x16_t low, high;
} Codes;

INLINE Codes codes_of(const Bytes *code, int i) {
    Codes codes;
    memcpy(&codes, code + i, sizeof codes);
    return codes;
}

#if defined(__ARM_FEATURE_DOTPROD)

// `sdot` by lane: four activations with four codes of each row.
INLINE Sums dot16_row(Sums sum, const Codes *code, const int8_t *x, int limit) {
    (void)limit;
    int8x16_t row = vld1q_s8(x);
    sum.low = vdotq_laneq_s32(sum.low, code[0].low, row, 0);
    sum.high = vdotq_laneq_s32(sum.high, code[0].high, row, 0);
    sum.low = vdotq_laneq_s32(sum.low, code[1].low, row, 1);
    sum.high = vdotq_laneq_s32(sum.high, code[1].high, row, 1);
    sum.low = vdotq_laneq_s32(sum.low, code[2].low, row, 2);
    sum.high = vdotq_laneq_s32(sum.high, code[2].high, row, 2);
    sum.low = vdotq_laneq_s32(sum.low, code[3].low, row, 3);
    sum.high = vdotq_laneq_s32(sum.high, code[3].high, row, 3);
    return sum;
}

#else

// Products of bytes are added up in 16 bits as far as they fit, also after neighbours have been
// added to each other: four of codes to 31, two of codes to 63, one of codes to -128.
INLINE Sums dot16_row(Sums sum, const Codes *code, const int8_t *x, int limit) {
    int most = limit <= 31 ? 4 : limit <= 63 ? 2 : 1;
    int32x4_t fours = vreinterpretq_s32_s8(vld1q_s8(x));
    for (int first = 0; first < 4; first += most) {
        int16x8_t rows01, rows23, rows45, rows67;  // four sums of each row
        for (int i = first; i < first + most; i++) {
            int8x16_t wide = vreinterpretq_s8_s32(vdupq_n_s32(fours[i]));
            int8x8_t half = vget_low_s8(wide);
            int8x8_t low = vget_low_s8(code[i].low), high = vget_low_s8(code[i].high);
            rows01 = i == first ? vmull_s8(low, half) : vmlal_s8(rows01, low, half);
            rows23 = i == first ? vmull_high_s8(code[i].low, wide)
                                : vmlal_high_s8(rows23, code[i].low, wide);
            rows45 = i == first ? vmull_s8(high, half) : vmlal_s8(rows45, high, half);
            rows67 = i == first ? vmull_high_s8(code[i].high, wide)
                                : vmlal_high_s8(rows67, code[i].high, wide);
        }
        sum.low = vpadalq_s16(sum.low, vpaddq_s16(rows01, rows23));
        sum.high = vpadalq_s16(sum.high, vpaddq_s16(rows45, rows67));
    }
    return sum;
}

#endif

INLINE void dot16(Ints *sum, const Bytes *code, const int8_t *x, int64_t stride, int rows,
                  int limit) {
    Codes codes[4];
    for (int i = 0; i < 4; i++) codes[i] = codes_of(code, i);
    for (int r = 0; r < rows; r++) {
        Sums sums;
        memcpy(&sums, &sum[r], sizeof sums);
        sums = dot16_row(sums, codes, x + r * stride, limit);
        memcpy(&sum[r], &sums, sizeof sums);
    }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
#define ARRANGED

// `smmla` multiplies eight codes of two rows of weights with eight of two rows of activations. In a
// panel such codes lie together: of each 8 inputs rows 0 and 1, 2 and 3, 4 and 5, 6 and 7.
INLINE void arrange(Bytes *code) {
    for (int i = 0; i < 8; i += 2) {
        Codes first = codes_of(code, i), second = codes_of(code, i + 1);
        int32x4_t a = vreinterpretq_s32_s8(first.low), b = vreinterpretq_s32_s8(second.low);
        int32x4_t c = vreinterpretq_s32_s8(first.high), d = vreinterpretq_s32_s8(second.high);
        int32x4_t pairs[] = {vzip1q_s32(a, b), vzip2q_s32(a, b), vzip1q_s32(c, d), vzip2q_s32(c, d)};
        memcpy(code + i, pairs, sizeof pairs);
    }
}

// As dot16, of so many `inputs` with codes that have been arranged.
INLINE void dot_arranged(Ints *sum, const Bytes *code, int inputs, const int8_t *x, int64_t stride,
                         int rows) {
    for (int r = 0; r < rows; r += 2) {
        // A last row without a neighbour is multiplied twice.
        int other = r + 1 < rows ? r + 1 : r;
        Sums one, two;
        memcpy(&one, &sum[r], sizeof one);
        memcpy(&two, &sum[other], sizeof two);
        int32x4_t pairs[] = {vzip1q_s32(one.low, two.low), vzip2q_s32(one.low, two.low),
                             vzip1q_s32(one.high, two.high), vzip2q_s32(one.high, two.high)};
        for (int i = 0; i < inputs; i += 16) {
            int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x + r * stride + i));
            int64x2_t b = vreinterpretq_s64_s8(vld1q_s8(x + other * stride + i));
            int8x16_t both[] = {vreinterpretq_s8_s64(vzip1q_s64(a, b)),
                                vreinterpretq_s8_s64(vzip2q_s64(a, b))};
            for (int eight = 0; eight < 2; eight++) {
                Codes upper = codes_of(code, i / 4 + eight * 2);
                Codes lower = codes_of(code, i / 4 + eight * 2 + 1);
                pairs[0] = vmmlaq_s32(pairs[0], upper.low, both[eight]);
                pairs[1] = vmmlaq_s32(pairs[1], upper.high, both[eight]);
                pairs[2] = vmmlaq_s32(pairs[2], lower.low, both[eight]);
                pairs[3] = vmmlaq_s32(pairs[3], lower.high, both[eight]);
            }
        }
        one.low = vuzp1q_s32(pairs[0], pairs[1]), one.high = vuzp1q_s32(pairs[2], pairs[3]);
        two.low = vuzp2q_s32(pairs[0], pairs[1]), two.high = vuzp2q_s32(pairs[2], pairs[3]);
        memcpy(&sum[other], &two, sizeof two);
        memcpy(&sum[r], &one, sizeof one);
    }
}

#endif
