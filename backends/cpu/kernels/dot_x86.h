// Dot products of x86-64: AVX-512 VNNI, AVX-VNNI, AVX2, SSE4.2. See dot_portable.h for what each
// function has to do.
#pragma once
#include <immintrin.h>
#include "lanes.h"

// Four activations of a row in every lane.
INLINE int32_t four(const int8_t *x) {
    int32_t bits;
    memcpy(&bits, x, 4);
    return bits;
}

INLINE Bytes from_table(const int8_t *table, Bytes index) {
    __m128i numbers = _mm_loadu_si128((const __m128i *)table);
#if defined(__AVX2__)
    return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(numbers), (__m256i)index);
#else
    __m128i halves[2];
    memcpy(halves, &index, sizeof halves);
    for (int i = 0; i < 2; i++) halves[i] = _mm_shuffle_epi8(numbers, halves[i]);
    memcpy(&index, halves, sizeof index);
    return index;
#endif
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

// The instruction multiplies unsigned by signed bytes: signed codes are moved up by 128.
enum { SIGNED_LIMIT = 255, SIGNED_OFFSET = 128 };
INLINE Bytes signed_codes(Bytes codes) { return codes ^ 128; }

#if defined(__AVX512VNNI__)
enum { TILE_ROWS = 4, DIRECT_ROWS = 8 };
#else
enum { TILE_ROWS = 4, DIRECT_ROWS = 24 };
#endif

INLINE Ints dot4(Ints sum, Bytes code, const int8_t *x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm256_dpbusd_epi32((__m256i)sum, (__m256i)code, _mm256_set1_epi32(four(x)));
#else
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)code, _mm256_set1_epi32(four(x)));
#endif
}

INLINE void dot16(Ints *sum, const Bytes *code, const int8_t *x, int64_t stride, int rows,
                  int limit) {
    (void)limit;
    for (int i = 0; i < 4; i++)
        for (int r = 0; r < rows; r++) sum[r] = dot4(sum[r], code[i], x + r * stride + i * 4);
}

#else

// `maddubs` multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating. Codes to
// 31 leave room for four such pairs, to 63 for two. Signed codes lend their sign to the
// activations (which are never -128), and then one pair, of at most 2 * 128 * 127, just fits.
enum { SIGNED_LIMIT = 128, SIGNED_OFFSET = 0 };
INLINE Bytes signed_codes(Bytes codes) { return codes; }

#if defined(__AVX2__)
enum { TILE_ROWS = 4, DIRECT_ROWS = 24, REGISTERS = 1 };
typedef __m256i Register;
#define OPERATION(name) _mm256_##name
#else
enum { TILE_ROWS = 2, DIRECT_ROWS = 2, REGISTERS = 2 };
typedef __m128i Register;
#define OPERATION(name) _mm_##name
#endif

INLINE Register pairs(Register code, Register x, int limit) {
    if (limit < 128) return OPERATION(maddubs_epi16)(code, x);
    return OPERATION(maddubs_epi16)(OPERATION(abs_epi8)(code), OPERATION(sign_epi8)(x, code));
}

INLINE Register widen(Register pairs) {
    return OPERATION(madd_epi16)(pairs, OPERATION(set1_epi16)(1));
}

INLINE Register dot16_register(Register sum, const Register *code, int step, const int8_t *x,
                               int limit) {
    Register product[4];
    for (int v = 0; v < 4; v++)
        product[v] = pairs(code[v * step], OPERATION(set1_epi32)(four(x + v * 4)), limit);
    if (limit == 128) {
        for (int v = 0; v < 4; v++) sum = OPERATION(add_epi32)(sum, widen(product[v]));
        return sum;
    }
    Register left = OPERATION(add_epi16)(product[0], product[1]);
    Register right = OPERATION(add_epi16)(product[2], product[3]);
    if (limit <= 31) return OPERATION(add_epi32)(sum, widen(OPERATION(add_epi16)(left, right)));
    return OPERATION(add_epi32)(sum, OPERATION(add_epi32)(widen(left), widen(right)));
}

INLINE void dot16(Ints *sum, const Bytes *code, const int8_t *x, int64_t stride, int rows,
                  int limit) {
    Register codes[4 * REGISTERS], sums[REGISTERS];
    memcpy(codes, code, sizeof codes);
    for (int r = 0; r < rows; r++) {
        memcpy(sums, &sum[r], sizeof sums);
        for (int i = 0; i < REGISTERS; i++)
            sums[i] = dot16_register(sums[i], codes + i, REGISTERS, x + r * stride, limit);
        memcpy(&sum[r], sums, sizeof sums);
    }
}

#undef OPERATION
#endif
