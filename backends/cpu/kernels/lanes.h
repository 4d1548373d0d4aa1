// Vectors of a group of weight rows, one lane a row: the same source for every processor.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

// Weights are packed in groups of this many rows. Where a register has fewer lanes, the compiler
// uses two of them for each of these vectors.
enum { LANES = 8 };

#define VECTOR(type, lanes) type __attribute__((ext_vector_type(lanes)))
typedef VECTOR(float, LANES) Floats;
typedef VECTOR(int32_t, LANES) Ints;
typedef VECTOR(uint8_t, LANES * 4) Bytes;  // four inputs of each row

// These read from any address; the compiler turns the copies into loads.
INLINE Bytes load_bytes(const uint8_t *p) {
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    return bytes;
}

INLINE Floats load_floats(const void *p) {
    Floats floats;
    memcpy(&floats, p, sizeof floats);
    return floats;
}

INLINE Floats load_octets(const uint8_t *p) {
    VECTOR(uint8_t, LANES) octets;
    memcpy(&octets, p, sizeof octets);
    return __builtin_convertvector(octets, Floats);
}

INLINE Floats load_signed_octets(const uint8_t *p) {
    VECTOR(int8_t, LANES) octets;
    memcpy(&octets, p, sizeof octets);
    return __builtin_convertvector(octets, Floats);
}

// float16 to float32, exactly.
INLINE Floats load_halves(const uint8_t *p) {
#if defined(__F16C__) || defined(__aarch64__)
    VECTOR(_Float16, LANES) halves;
    memcpy(&halves, p, sizeof halves);
    return __builtin_convertvector(halves, Floats);
#else
    // A half's exponent and fraction, moved to their places in a float, are short of 112 in the
    // exponent, infinity and NaN of another 112. Subnormals are integers in units of 2^-24; made of
    // float subnormals they would be right too, but many times slower.
    VECTOR(uint16_t, LANES) bits;
    memcpy(&bits, p, sizeof bits);
    Ints wide = __builtin_convertvector(bits, Ints), magnitude = wide & 0x7fff;
    Ints normal = (magnitude << 13) + (112 << 23), special = magnitude >= 0x7c00;
    normal += special & (112 << 23);
    Ints small = (Ints)(__builtin_convertvector(magnitude, Floats) * 0x1p-24f);
    Ints subnormal = magnitude < 0x400;
    return (Floats)((subnormal & small) | (~subnormal & normal) | (wide & 0x8000) << 16);
#endif
}

INLINE Floats load_brain_floats(const uint8_t *p) {
    VECTOR(uint16_t, LANES) bits;
    memcpy(&bits, p, sizeof bits);
    return (Floats)(__builtin_convertvector(bits, Ints) << 16);
}

// a * b + c, rounded once where the processor can: without such an instruction it is a slow call.
INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}
