// edge_store: keeps the rows' keys and values in the state of their slots (state.h).
// buffers: state, keys f32 [K * C], values f32 [K * C]; numbers: K, C.
// Numbers are kept within float16's range and NaN as 0: a position's garbage stays its own.
#include "state.h"

static const float LIMIT = 65504.0f;

INLINE Floats bounded(Floats x) {
    x = x == x ? x : 0.0f;
    return smaller(larger(x, (Floats)-LIMIT), (Floats)LIMIT);
}

// Scales that are tried: of the largest number's code 127, 126, …
enum { TRIES = 8 };

INLINE Ints codes_of(Floats x, float factor) {
    return nearest(smaller(larger(x * factor, (Floats)-127.0f), (Floats)127.0f));
}

INLINE float inverse(float scale) { return scale > 0.0f ? 1.0f / scale : 0.0f; }

// The scale, as float16, that leaves the least square error. Of heads with few channels the best is
// far better than the first, and attention to keys that are slightly off costs the most of int8.
INLINE uint16_t closest_scale(const float *x, int64_t width) {
    Floats peak = 0.0f;
    for (int64_t c = 0; c < width; c += LANES)
        peak = larger(peak, magnitude(bounded(load_some(x + c, width - c))));
    float most = largest(peak), least = __builtin_inff();
    uint16_t closest = 0;
    for (int try = 0; try < TRIES; try++) {
        Halves half = to_halves((Floats)(most / (float)(127 - try)));
        float scale = from_halves(half)[0], factor = inverse(scale);
        Floats squares = 0.0f;
        for (int64_t c = 0; c < width; c += LANES) {
            Floats value = bounded(load_some(x + c, width - c));
            Floats error = value - __builtin_convertvector(codes_of(value, factor), Floats) * scale;
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

// One head's channels of one position to float16, or to int8 with their scale, `stride` apart.
INLINE void keep(const float *x, int64_t width, int int8, void *to, int64_t stride,
                 uint16_t *scale) {
    float factor = 1.0f;
    if (int8) {
        *scale = closest_scale(x, width);
        factor = inverse(from_halves((Halves)*scale)[0]);
    }
    for (int64_t c = 0; c < width; c += LANES) {
        int64_t left = width - c < LANES ? width - c : LANES;
        Floats value = bounded(load_some(x + c, left));
        if (int8) {
            Ints codes = codes_of(value, factor);
            for (int64_t i = 0; i < left; i++)
                ((int8_t *)to)[(c + i) * stride] = (int8_t)codes[i];
        } else {
            Halves halves = to_halves(value);
            for (int64_t i = 0; i < left; i++) ((uint16_t *)to)[(c + i) * stride] = halves[i];
        }
    }
}

// A part is a head, for its rows write to the same cache lines; a single row is one part.
static int parts_of_store(const Call *call, const Step *step) {
    return step->rows == 1 ? 1 : (int)call->numbers[0];
}

WIDE static void run_store(const Call *call, const Step *step, int part, int parts) {
    StateShape shape = {call->numbers[0], call->numbers[1], step->context, step->kv_int8};
    int64_t heads = shape.heads, width = shape.width, element = shape.int8 ? 1 : sizeof(uint16_t);
    int64_t first = parts == 1 ? 0 : part, last = parts == 1 ? heads : part + 1;
    for (int64_t row = 0; row < step->rows; row++) {
        int64_t position = step->positions[row];
        for (int64_t head = first; head < last; head++) {
            HeadState s = head_state(shape, call->buffers[0], step->slots[row], head);
            int64_t offset = (row * heads + head) * width;
            int64_t sixteen = position / LANES * LANES * width + position % LANES;
            keep((const float *)call->buffers[1] + offset, width, shape.int8,
                 s.keys + sixteen * element, LANES, shape.int8 ? s.key_scales + position : NULL);
            keep((const float *)call->buffers[2] + offset, width, shape.int8,
                 s.values + position * width * element, 1,
                 shape.int8 ? s.value_scales + position : NULL);
        }
    }
}

const Kernel edge_store = {parts_of_store, run_store, NULL};
