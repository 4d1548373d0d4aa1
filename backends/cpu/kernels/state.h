// What one attention layer remembers of a slot: keys, then values, of every position.
//
// float16: keys [K][context / 16][C][16], values [K][context][C]. Sixteen keys lie side by side, so
// that sixteen scores grow at once; of the values, one position's channels do.
// int8: the same with int8 codes, each part followed by float16 scales [K][context]:
// x = scale * code.
#pragma once
#include "edge.h"
#include "vector.h"

typedef struct {
    int64_t heads, width, context;  // K, C
    int int8;
} StateShape;

// Kernels read whole vectors, past the last value of a slot.
enum { STATE_PADDING = 64 };

static inline size_t state_bytes(StateShape s) {
    size_t values = (size_t)(s.heads * s.context * s.width);
    size_t scales = (size_t)(s.heads * s.context) * sizeof(uint16_t);
    size_t each = s.int8 ? values + scales : values * sizeof(uint16_t);
    return ((2 * each + 63) & ~(size_t)63) + STATE_PADDING;
}

// One head's part of a slot; elements are int8_t or float16 by the shape.
typedef struct {
    char *keys, *values;
    uint16_t *key_scales, *value_scales;  // [context], NULL for float16
} HeadState;

static inline HeadState head_state(StateShape s, void *state, int64_t slot, int64_t head) {
    char *base = (char *)state + (size_t)slot * state_bytes(s);
    int64_t element = s.int8 ? 1 : sizeof(uint16_t);
    int64_t size = s.context * s.width * element, scales = s.int8 ? s.context * 2 : 0;
    char *second = base + s.heads * (size + scales);
    return (HeadState){
        base + head * size,
        second + head * size,
        s.int8 ? (uint16_t *)(base + s.heads * size + head * scales) : NULL,
        s.int8 ? (uint16_t *)(second + s.heads * size + head * scales) : NULL,
    };
}

// Copies the first `length` positions of one slot to another; those after them are leftovers.
static inline void copy_state(StateShape s, void *state, int64_t from, int64_t to, int64_t length) {
    int64_t element = s.int8 ? 1 : sizeof(uint16_t);
    int64_t rounded = (length + LANES - 1) / LANES * LANES;
    for (int64_t head = 0; head < s.heads; head++) {
        HeadState source = head_state(s, state, from, head), target = head_state(s, state, to, head);
        memcpy(target.keys, source.keys, (size_t)(rounded * s.width * element));
        memcpy(target.values, source.values, (size_t)(length * s.width * element));
        if (s.int8) {
            memcpy(target.key_scales, source.key_scales, (size_t)length * sizeof(uint16_t));
            memcpy(target.value_scales, source.value_scales, (size_t)length * sizeof(uint16_t));
        }
    }
}
