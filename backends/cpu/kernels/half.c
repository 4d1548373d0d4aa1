// Conversions between float16 and float32 for processors that have no instruction for them: clang
// calls these by the names of its run-time library, which isn't linked.
#include <stdint.h>

#if defined(__x86_64__) && !defined(__F16C__)

float __extendhfsf2(_Float16 half);
_Float16 __truncsfhf2(float value);

float __extendhfsf2(_Float16 half) {
    uint32_t bits = __builtin_bit_cast(uint16_t, half), sign = (bits & 0x8000) << 16;
    // Shifted into place a half's exponent is 112 too small, which a product with 2^112 mends for
    // normal and subnormal numbers alike; infinities and NaN keep the highest exponent.
    float value = __builtin_bit_cast(float, (bits & 0x7fff) << 13) * 0x1p112f;
    uint32_t wide = __builtin_bit_cast(uint32_t, value);
    if ((bits & 0x7c00) == 0x7c00) wide |= 0x7f800000;
    return __builtin_bit_cast(float, wide | sign);
}

// To the nearest, to the even one of two.
_Float16 __truncsfhf2(float value) {
    uint32_t bits = __builtin_bit_cast(uint32_t, value), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    uint32_t half;
    if (bits > 0x7f800000) half = 0x7e00;         // NaN
    else if (bits >= 0x477ff000) half = 0x7c00;   // 65520 and more: infinity
    else if (bits < 0x38800000) {                 // below 2^-14: adding 0.5 rounds at 2^-24
        float shifted = __builtin_bit_cast(float, bits) + 0.5f;
        half = __builtin_bit_cast(uint32_t, shifted) - 0x3f000000;
    } else half = (bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
    return __builtin_bit_cast(_Float16, (uint16_t)(half | sign));
}

#endif
