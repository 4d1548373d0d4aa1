// edge_store: keeps the rows' keys and values in the state of their slots (state.h).
// buffers: state, keys f32 [K * C], values f32 [K * C]; numbers: K, C.
// Numbers are kept within float16's range and NaN as 0: a position's garbage stays its own.
#include "state.h"

static const float LIMIT = 65504.0f;

INLINE Floats bounded(Floats x) {
    x = x == x ? x : 0.0f;
    return smaller(larger(x, (Floats)-LIMIT), (Floats)LIMIT);
}

enum {
    MOST_TRIES = 8,     // of scales: the largest number's code is 127, 126, …
    TRIED = 256,        // numbers in all tries: among many channels all scales are alike
    MOST_WIDTH = 4096,  // more channels a head doesn't have: MAX_HEAD_DIM in backends/cpu/build.py
};

INLINE Floats rounded(Floats x, float factor) {
    Floats code = smaller(larger(x * factor, (Floats)-127.0f), (Floats)127.0f);
    return (code + 0x1.8p23f) - 0x1.8p23f;
}

INLINE float inverse(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

// The scale, as float16, that leaves the least square error. With few channels the best one is far
// better than the first; keys that are slightly off are what a model suffers from most with int8.
INLINE uint16_t closest_scale(const float *x, int64_t width) {
    Floats peak = 0.0f;
    for (int64_t c = 0; c < width; c += LANES) peak = larger(peak, magnitude(load(x + c)));
    float most = largest(peak), least = __builtin_inff();
    int64_t tries = TRIED / width < MOST_TRIES ? TRIED / width : MOST_TRIES;
    uint16_t closest = 0;
    for (int64_t try = 0; try == 0 || try < tries; try++) {
        Halves half = to_halves((Floats)(most / (float)(127 - try)));
        float scale = from_halves(half)[0], factor = inverse(scale);
        Floats squares = 0.0f;
        for (int64_t c = 0; c < width; c += LANES) {
            Floats value = load(x + c), error = madd(rounded(value, factor), (Floats)-scale, value);
            squares = madd(error, error, squares);
        }
        float total = sum(squares);
        if (total < least) {
            least = total;
            closest = half[0];
        }
    }
    return closest;
}

// One head's channels of one position to float16, `stride` apart.
INLINE void keep_halves(const float *x, int64_t width, uint16_t *to, int64_t stride) {
    for (int64_t c = 0; c < width; c += LANES) {
        int64_t left = width - c < LANES ? width - c : LANES;
        Halves halves = to_halves(bounded(load_some(x + c, left)));
        for (int64_t i = 0; i < left; i++) to[(c + i) * stride] = halves[i];
    }
}

// The same to int8 with their scale.
INLINE void keep_bytes(const float *x, int64_t width, int8_t *to, int64_t stride, uint16_t *scale) {
    float values[MOST_WIDTH];
    for (int64_t c = 0; c < width; c += LANES)
        store(values + c, bounded(load_some(x + c, width - c)));
    *scale = closest_scale(values, width);
    float factor = inverse(from_halves((Halves)*scale)[0]);
    for (int64_t c = 0; c < width; c += LANES) {
        Ints codes = __builtin_convertvector(rounded(load(values + c), factor), Ints);
        for (int64_t i = 0; i < LANES && c + i < width; i++)
            to[(c + i) * stride] = (int8_t)codes[i];
    }
}

// A part is a head, for its rows write to the same cache lines; a single row is one part.
static int parts_of_store(const Call *call, const Step *step) {
    return step->rows == 1 ? 1 : (int)call->numbers[0];
}

WIDE static void run_store(const Call *call, const Step *step, int part, int parts) {
    StateShape shape = {call->numbers[0], call->numbers[1], step->context, step->kv_int8};
    int64_t heads = shape.heads, width = shape.width;
    int64_t first = parts == 1 ? 0 : part, last = parts == 1 ? heads : part + 1;
    for (int64_t row = 0; row < step->rows; row++) {
        int64_t position = step->positions[row];
        // Sixteen positions of a channel lie side by side, all channels of a value do.
        int64_t key = position / LANES * LANES * width + position % LANES, value = position * width;
        for (int64_t head = first; head < last; head++) {
            HeadState s = head_state(shape, call->buffers[0], step->slots[row], head);
            const float *k = (const float *)call->buffers[1] + (row * heads + head) * width;
            const float *v = (const float *)call->buffers[2] + (row * heads + head) * width;
            if (shape.int8) {
                keep_bytes(k, width, (int8_t *)s.keys + key, LANES, s.key_scales + position);
                keep_bytes(v, width, (int8_t *)s.values + value, 1, s.value_scales + position);
            } else {
                keep_halves(k, width, (uint16_t *)s.keys + key, LANES);
                keep_halves(v, width, (uint16_t *)s.values + value, 1);
            }
        }
    }
}

const Kernel edge_store = {parts_of_store, run_store, NULL};
