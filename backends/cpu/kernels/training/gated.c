// gated: out = activation(gate) * up.   buffers: out, gate, up, [values] each
//   numbers: values, activation
// gated_back: the gradients of gate and up.   buffers: dgate, dup, gate, up, dout; numbers as above
#include "../activation.h"

enum { SPAN = 4096 };  // values a part computes

static int parts_of_values(const Call *call, const Step *step) {
    (void)step;
    return (int)((call->numbers[0] + SPAN - 1) / SPAN);
}

// The activation's derivative.
INLINE Floats slope(int64_t activation, Floats x) {
    switch (activation) {
    case SILU: {
        Floats share = 1.0f / (1.0f + exponential(-x));
        return share * madd(x, 1.0f - share, (Floats)1.0f);
    }
    case GELU:  // the share of a normal distribution below x, and x times its density there
        return madd(x * 0x1.988454p-2f, exponential(x * x * -0.5f),
                    0.5f * one_plus_erf(x * 0x1.6a09e6p-1f));
    case GELU_TANH: {
        // y = x * share, where share = 1 / (1 + e^-z) and z = sqrt(8 / pi) * (x + 0.044715 x^3)
        Floats square = x * x;
        Floats z = x * madd(square, (Floats)0.044715f, (Floats)1.0f) * 1.5957691216f;
        Floats steep = madd(square, (Floats)0.134145f, (Floats)1.0f) * 1.5957691216f;
        Floats share = 1.0f / (1.0f + exponential(-z));
        return share * madd(x * steep, 1.0f - share, (Floats)1.0f);
    }
    default: return x > 0.0f ? x + x : 0.0f;
    }
}

INLINE void forward(int64_t activation, const Call *call, int64_t first, int64_t last) {
    float *out = call->buffers[0];
    const float *gate = call->buffers[1], *up = call->buffers[2];
    for (int64_t i = first; i < last; i += LANES)
        store_some(out + i,
                   activate(activation, load_some(gate + i, last - i)) * load_some(up + i, last - i),
                   last - i);
}

INLINE void back(int64_t activation, const Call *call, int64_t first, int64_t last) {
    float *by_gate = call->buffers[0], *by_up = call->buffers[1];
    const float *gate = call->buffers[2], *up = call->buffers[3], *given = call->buffers[4];
    for (int64_t i = first; i < last; i += LANES) {
        int64_t left = last - i;
        Floats x = load_some(gate + i, left), way = load_some(given + i, left);
        store_some(by_gate + i, way * load_some(up + i, left) * slope(activation, x), left);
        store_some(by_up + i, way * activate(activation, x), left);
    }
}

// The activation is a constant in each loop, so that the choice is made here, once.
#define RUN(name, values)                                                                          \
    static WIDE void name(const Call *call, const Step *step, int part, int parts) {               \
        (void)step, (void)parts;                                                                   \
        int64_t count = call->numbers[0], first = (int64_t)part * SPAN;                            \
        int64_t last = first + SPAN < count ? first + SPAN : count;                                \
        switch (call->numbers[1]) {                                                                \
        case SILU: values(SILU, call, first, last); break;                                         \
        case GELU: values(GELU, call, first, last); break;                                         \
        case GELU_TANH: values(GELU_TANH, call, first, last); break;                               \
        default: values(RELU_SQUARED, call, first, last); break;                                   \
        }                                                                                          \
    }

RUN(run_forward, forward)
RUN(run_back, back)

const Kernel edge_gated = {parts_of_values, run_forward, NULL};
const Kernel edge_gated_back = {parts_of_values, run_back, NULL};
