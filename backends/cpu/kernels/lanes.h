// Vectors of a group or two of weight rows: one lane a row, the same source for every processor.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

// Weights are packed in groups of 8 rows. A register of AVX-512 holds two groups side by side; where
// registers are smaller than 8 lanes, the compiler uses several for one of these vectors.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define LANES 16
#else
#define LANES 8
#endif
enum { GROUP = 8, GROUPS = LANES / GROUP };

#define VECTOR(type, lanes) type __attribute__((ext_vector_type(lanes)))
typedef VECTOR(float, LANES) Floats;
typedef VECTOR(int32_t, LANES) Ints;
typedef VECTOR(uint8_t, LANES * 4) Bytes;  // four inputs of each row
typedef VECTOR(uint16_t, LANES) Shorts;
typedef VECTOR(uint8_t, LANES) Octets;

// Where a vector's groups lie.
typedef struct {
    const uint8_t *at[GROUPS];
} Groups;

INLINE Groups offset_groups(Groups groups, int64_t bytes) {
    for (int i = 0; i < GROUPS; i++) groups.at[i] += bytes;
    return groups;
}

// Reads `size / GROUPS` bytes at the same offset of each group. The parts of a vector are the
// groups', one after another; the compiler turns the copies into loads.
INLINE void load_groups(void *vector, Groups groups, int64_t offset, size_t size) {
    for (int i = 0; i < GROUPS; i++)
        memcpy((uint8_t *)vector + i * (size / GROUPS), groups.at[i] + offset, size / GROUPS);
}

INLINE Bytes load_bytes(Groups groups, int64_t offset) {
    Bytes vector;
    load_groups(&vector, groups, offset, sizeof vector);
    return vector;
}

INLINE Floats load_octets(Groups groups, int64_t offset) {
    Octets vector;
    load_groups(&vector, groups, offset, sizeof vector);
    return __builtin_convertvector(vector, Floats);
}

INLINE Floats load_signed_octets(Groups groups, int64_t offset) {
    VECTOR(int8_t, LANES) vector;
    load_groups(&vector, groups, offset, sizeof vector);
    return __builtin_convertvector(vector, Floats);
}

// float16 to float32, exactly.
INLINE Floats widen_halves(Shorts bits) {
#if defined(__F16C__) || defined(__aarch64__)
    typedef VECTOR(_Float16, LANES) Halves;
    Halves halves;
    memcpy(&halves, &bits, sizeof halves);
    return __builtin_convertvector(halves, Floats);
#else
    // A half's exponent and fraction, moved to their places in a float, are short of 112 in the
    // exponent; a multiplication adds it, also to subnormals. Infinity and NaN keep a full exponent.
    Ints wide = __builtin_convertvector(bits, Ints);
    Ints magnitude = (wide & 0x7fff) << 13, sign = (wide & 0x8000) << 16;
    Floats finite;
    memcpy(&finite, &magnitude, sizeof finite);
    finite *= 0x1p112f;
    Ints value;
    memcpy(&value, &finite, sizeof value);
    Ints special = magnitude >= 0x7c00 << 13;
    value = sign | (special & (magnitude | 0x7f800000)) | (~special & value);
    memcpy(&finite, &value, sizeof finite);
    return finite;
#endif
}

INLINE Floats load_halves(Groups groups, int64_t offset) {
    Shorts bits;
    load_groups(&bits, groups, offset, sizeof bits);
    return widen_halves(bits);
}

INLINE Floats load_brain_floats(Groups groups, int64_t offset) {
    Shorts bits;
    load_groups(&bits, groups, offset, sizeof bits);
    Ints wide = __builtin_convertvector(bits, Ints) << 16;
    Floats values;
    memcpy(&values, &wide, sizeof values);
    return values;
}

INLINE Floats load_floats(Groups groups, int64_t offset) {
    Floats values;
    load_groups(&values, groups, offset, sizeof values);
    return values;
}

// a * b + c, rounded once where the processor can: without such an instruction it is a slow call.
INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}
