// Reads packed weights: 32 inputs of a group's rows at a time become 8-bit codes and float scales.
//
// value = scale * (code - offset) + minimum
#pragma once
#include "edge.h"
#include "lanes.h"

#if defined(__x86_64__)
#include "dot_x86.h"
#elif defined(__aarch64__) && __has_include("dot_arm.h")
#include "dot_arm.h"
#else
#include "dot_portable.h"
#endif

typedef struct {
    int bytes;     // a block of 8 rows
    int inputs;    // of a block
    int limit;     // the largest magnitude of a code as it is multiplied
    int offset;    // of the codes
    bool halves;   // the first and last 16 of 32 inputs have scales (and minima) of their own
    bool minimum;  // there is a minimum
} Layout;

static const Layout LAYOUTS[] = {
    [FORMAT_Q4_0] = {144, 32, 15, 8, false, false},
    [FORMAT_Q4_1] = {160, 32, 15, 0, false, true},
    [FORMAT_Q5_0] = {176, 32, 31, 16, false, false},
    [FORMAT_Q5_1] = {192, 32, 31, 0, false, true},
    [FORMAT_Q8_0] = {272, 32, SIGNED_LIMIT, SIGNED_OFFSET, false, false},
    [FORMAT_Q4_K] = {1184, 256, 15, 0, false, true},
    [FORMAT_Q5_K] = {1440, 256, 31, 0, false, true},
    [FORMAT_Q6_K] = {1680, 256, 63, 32, true, false},
    [FORMAT_Q2_K] = {672, 256, 3, 0, true, true},
    [FORMAT_IQ4_NL] = {144, 32, SIGNED_LIMIT, SIGNED_OFFSET, false, false},
    [FORMAT_IQ4_XS] = {1104, 256, SIGNED_LIMIT, SIGNED_OFFSET, false, false},
};

// Bytes of one group of a matrix with k columns.
INLINE int64_t group_bytes(int format, int64_t k) {
    switch (format) {
    case FORMAT_F32: return k * 4 * LANES;
    case FORMAT_F16:
    case FORMAT_BF16: return k * 2 * LANES;
    default: return k / LAYOUTS[format].inputs * LAYOUTS[format].bytes;
    }
}

// Input i of a group's rows, in a float format.
INLINE Floats load_weights(int format, const uint8_t *w, int64_t i) {
    switch (format) {
    case FORMAT_F32: return load_floats(w + i * 4 * LANES);
    case FORMAT_F16: return load_halves(w + i * 2 * LANES);
    default: return load_brain_floats(w + i * 2 * LANES);
    }
}

typedef struct {
    Bytes code[8];  // code[v] holds inputs 4v … 4v+3 of each row
    // Of the first and the last 16 inputs; one for all in most formats.
    Floats scale[2], minimum[2];
} Block;

INLINE void read_nibbles(Bytes *code, const uint8_t *w) {
    for (int v = 0; v < 4; v++) {
        Bytes pair = load_bytes(w + v * 32);
        code[v] = pair & 15;
        code[v + 4] = pair >> 4;
    }
}

// The fifth bits: bit v of a byte belongs to code[v].
INLINE void read_fifth_bits(Bytes *code, const uint8_t *w) {
    Bytes bits = load_bytes(w);
    for (int v = 0; v < 8; v++)
        code[v] |= (v < 4 ? bits << (4 - v) : bits >> (v - 4)) & 16;
}

// The levels that the codes of IQ4 stand for.
INLINE void read_levels(Bytes *code) {
    static const int8_t LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
    for (int v = 0; v < 8; v++) code[v] = signed_codes(from_table(LEVELS, code[v]));
}

// Reads 32 inputs, number `part` of those of the block at `w`.
INLINE void read_block(Block *block, int format, const uint8_t *w, int part) {
    switch (format) {
    case FORMAT_Q4_0:
        block->scale[0] = load_halves(w);
        read_nibbles(block->code, w + 16);
        break;
    case FORMAT_Q4_1:
        block->scale[0] = load_halves(w);
        block->minimum[0] = load_halves(w + 16);
        read_nibbles(block->code, w + 32);
        break;
    case FORMAT_Q5_0:
        block->scale[0] = load_halves(w);
        read_nibbles(block->code, w + 16);
        read_fifth_bits(block->code, w + 144);
        break;
    case FORMAT_Q5_1:
        block->scale[0] = load_halves(w);
        block->minimum[0] = load_halves(w + 16);
        read_nibbles(block->code, w + 32);
        read_fifth_bits(block->code, w + 160);
        break;
    case FORMAT_Q8_0:
        block->scale[0] = load_halves(w);
        for (int v = 0; v < 8; v++) block->code[v] = signed_codes(load_bytes(w + 16 + v * 32));
        break;
    case FORMAT_Q4_K:
    case FORMAT_Q5_K: {
        int codes = format == FORMAT_Q4_K ? 128 : 160;
        block->scale[0] = load_halves(w) * load_octets(w + 32 + part * 8);
        block->minimum[0] = -load_halves(w + 16) * load_octets(w + 96 + part * 8);
        read_nibbles(block->code, w + 160 + part * codes);
        if (format == FORMAT_Q5_K) read_fifth_bits(block->code, w + 288 + part * codes);
        break;
    }
    case FORMAT_Q6_K: {
        Floats scale = load_halves(w);
        for (int half = 0; half < 2; half++)
            block->scale[half] = scale * load_signed_octets(w + 16 + (2 * part + half) * 8);
        const uint8_t *codes = w + 144 + part * 192;
        read_nibbles(block->code, codes);
        for (int half = 0; half < 2; half++) {
            Bytes bits = load_bytes(codes + 128 + half * 32);
            for (int v = 0; v < 4; v++)
                block->code[4 * half + v] |=
                    (v < 2 ? bits << (4 - 2 * v) : bits >> (2 * v - 4)) & 48;
        }
        break;
    }
    case FORMAT_Q2_K: {
        Floats scale = load_halves(w), minimum = -load_halves(w + 16);
        Ints factors;
        memcpy(&factors, w + 32 + part / 2 * 32, sizeof factors);
        factors >>= part % 2 * 16;
        for (int half = 0; half < 2; half++, factors >>= 8) {
            block->scale[half] = scale * __builtin_convertvector(factors & 15, Floats);
            block->minimum[half] = minimum * __builtin_convertvector(factors >> 4 & 15, Floats);
            Bytes bits = load_bytes(w + 160 + part * 64 + half * 32);
            for (int v = 0; v < 4; v++) block->code[4 * half + v] = bits >> 2 * v & 3;
        }
        break;
    }
    case FORMAT_IQ4_NL:
        block->scale[0] = load_halves(w);
        read_nibbles(block->code, w + 16);
        read_levels(block->code);
        break;
    case FORMAT_IQ4_XS:
        block->scale[0] = load_halves(w) * load_signed_octets(w + 16 + part * 8);
        read_nibbles(block->code, w + 80 + part * 128);
        read_levels(block->code);
        break;
    default: __builtin_unreachable();
    }
}
