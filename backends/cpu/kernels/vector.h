// Sixteen numbers at a time, by clang's vector types: one source for AVX-512 (one register), AVX2
// (two), SSE and NEON (four). Only operations whose result doesn't depend on that are used, except
// `madd`, which rounds twice where a processor has no fused multiply-add.
#pragma once
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

// Functions that compute with 512-bit vectors say so: clang's tuning for x86-64-v4 halves them
// otherwise.
#define WIDE __attribute__((min_vector_width(512)))

enum { LANES = 16 };
typedef float Floats __attribute__((ext_vector_type(16)));
typedef int32_t Ints __attribute__((ext_vector_type(16)));
typedef uint32_t Words __attribute__((ext_vector_type(16)));
typedef int8_t Bytes __attribute__((ext_vector_type(16)));
typedef uint16_t Halves __attribute__((ext_vector_type(16)));  // float16, as bits

// --- to and from memory, whose alignment is only that of its elements ---------------------------

INLINE Floats load(const float *from) {
    Floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

INLINE void store(float *to, Floats x) { memcpy(to, &x, sizeof x); }

// The first `count` <= 16 lanes; the others are 0.
INLINE Floats load_some(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    float lanes[LANES] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i] = from[i];
    return load(lanes);
}

INLINE void store_some(float *to, Floats x, int64_t count) {
    if (count >= LANES) {
        store(to, x);
        return;
    }
    float lanes[LANES];
    store(lanes, x);
    for (int64_t i = 0; i < count; i++) to[i] = lanes[i];
}

// --- float16 ------------------------------------------------------------------------------------

#if defined(__F16C__) || defined(__aarch64__)
typedef _Float16 Hardware __attribute__((ext_vector_type(16)));

INLINE Floats from_halves(Halves bits) {
    Hardware x;
    memcpy(&x, &bits, sizeof x);
    return __builtin_convertvector(x, Floats);
}

INLINE Halves to_halves(Floats x) {
    Hardware rounded = __builtin_convertvector(x, Hardware);
    Halves bits;
    memcpy(&bits, &rounded, sizeof bits);
    return bits;
}
#else
// No conversion in hardware (SSE4.2). Shifted into place, a half's exponent is 112 too low, which a
// multiplication mends, for subnormals too; infinities and NaN aren't kept, nor stored anywhere.
INLINE Floats from_halves(Halves bits) {
    Words word = __builtin_convertvector(bits, Words) << 16;
    Words placed = (Words)((Ints)word >> 3) & 0x8fffe000;  // the sign stays where it is
    return (Floats)placed * 0x1p112f;
}

// Rounds to nearest, ties to even, |x| <= 65504.
INLINE Halves to_halves(Floats x) {
    Words word = (Words)x, magnitude = word & 0x7fffffff;
    // Adding 0.5, whose last place is a half's smallest step, lets the adder round subnormals.
    Words small = (Words)((Floats)magnitude + 0.5f) - 0x3f000000;
    Words normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    Words rounded = magnitude < 0x38800000 ? small : normal;
    return __builtin_convertvector(rounded | (word >> 16 & 0x8000), Halves);
}
#endif

INLINE Floats load_halves(const uint16_t *from) {
    Halves bits;
    memcpy(&bits, from, sizeof bits);
    return from_halves(bits);
}

INLINE Floats load_bytes(const int8_t *from) {
    Bytes codes;
    memcpy(&codes, from, sizeof codes);
    return __builtin_convertvector(codes, Floats);
}

// --- arithmetic ---------------------------------------------------------------------------------

// a * b + c
INLINE Floats madd(Floats a, Floats b, Floats c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}

// Of two numbers; spares what C's fmax does about NaN. Where a is NaN it's b.
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
INLINE Floats magnitude(Floats x) { return (Floats)((Words)x & 0x7fffffff); }

INLINE float sum(Floats x) {
    __auto_type eight = x.lo + x.hi;
    __auto_type four = eight.lo + eight.hi;
    __auto_type two = four.lo + four.hi;
    return two.x + two.y;
}

INLINE float largest(Floats x) {
    __auto_type eight = x.lo > x.hi ? x.lo : x.hi;
    __auto_type four = eight.lo > eight.hi ? eight.lo : eight.hi;
    __auto_type two = four.lo > four.hi ? four.lo : four.hi;
    return two.x > two.y ? two.x : two.y;
}

// Nearest integers of |x| < 2^22: adding 1.5 * 2^23 pushes the fraction out, and the integer then
// is the sum's last bits.
INLINE Ints nearest(Floats x) { return (Ints)(x + 0x1.8p23f) - (Ints)(Floats)0x1.8p23f; }

// --- functions ----------------------------------------------------------------------------------

// e^x: relative error below 2e-7 from -80 to 88; 0 below -80, e^88 above 88.
// 0 comes early so that a product with the smallest float16 is still no underflow.
INLINE Floats exponential(Floats x) {
    Floats bounded = smaller(larger(x, (Floats)-80.0f), (Floats)88.0f);
    // n = round(x / ln 2), as in `nearest`.
    Floats shifted = madd(bounded, (Floats)0x1.715476p0f, (Floats)0x1.8p23f);
    Floats n = shifted - 0x1.8p23f;
    // ln 2 in two pieces, so that r = x - n ln 2 keeps its last bits; |r| <= ln 2 / 2.
    Floats r = madd(n, (Floats)-0x1.62e4p-1f, bounded);
    r = madd(n, (Floats)-0x1.7f7d1cp-20f, r);
    Floats p = (Floats)0x1.6a23d2p-10f;  // (e^r - 1 - r) / r^2, a minimax fit
    p = madd(p, r, (Floats)0x1.123a20p-7f);
    p = madd(p, r, (Floats)0x1.5558f2p-5f);
    p = madd(p, r, (Floats)0x1.555492p-3f);
    p = madd(p, r, (Floats)0x1.fffffcp-2f);
    p = madd(p, r * r, r) + 1.0f;
    Floats power = (Floats)((Words)p + ((Words)shifted << 23));  // times 2^n
    return x < -80.0f ? 0.0f : power;
}

// tanh: relative error below 1e-6.
INLINE Floats hyperbolic_tangent(Floats x) {
    Floats a = magnitude(x);
    Floats large = 1.0f - 2.0f / (exponential(a + a) + 1.0f);
    // Near 0 that cancels; there the odd series, fitted up to 0.625 (Cephes, tanhf).
    Floats z = x * x;
    Floats p = (Floats)-5.70498872745e-3f;
    p = madd(p, z, (Floats)2.06390887954e-2f);
    p = madd(p, z, (Floats)-5.37397155531e-2f);
    p = madd(p, z, (Floats)1.33314422036e-1f);
    p = madd(p, z, (Floats)-3.33332819422e-1f);
    Floats small = madd(p * z, a, a);
    Floats positive = a < 0.625f ? small : large;
    return (Floats)((Words)positive | ((Words)x & 0x80000000));
}

// 1 + erf(x): error below 6e-7 (Abramowitz and Stegun, 7.1.26).
INLINE Floats one_plus_erf(Floats x) {
    Floats a = magnitude(x);
    Floats t = 1.0f / madd(a, (Floats)0.3275911f, (Floats)1.0f);
    Floats p = (Floats)1.061405429f;
    p = madd(p, t, (Floats)-1.453152027f);
    p = madd(p, t, (Floats)1.421413741f);
    p = madd(p, t, (Floats)-0.284496736f);
    p = madd(p, t, (Floats)0.254829592f);
    Floats rest = p * t * exponential(-a * a);  // 1 - erf(|x|)
    return x < 0.0f ? rest : 2.0f - rest;
}
