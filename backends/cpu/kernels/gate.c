// edge_gate: out = activation(gate) * up, the middle of a feed-forward block.
// buffers: out f32 [F], out quantised or NULL, gate f32 [F], up f32 [F] or NULL for 1;
// numbers: F (a multiple of 32 where quantised), activation.
#include "activation.h"
#include "quantise.h"

enum { SPAN = 2048 };  // values a part computes: some microseconds of work

INLINE void gate_values(int64_t activation, float *out, const float *gate, const float *up,
                        int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        Floats y = activate(activation, load_some(gate + i, count - i));
        store_some(out + i, up ? y * load_some(up + i, count - i) : y, count - i);
    }
}

static int64_t spans(const Call *call) { return (call->numbers[0] + SPAN - 1) / SPAN; }

static int parts_of_gate(const Call *call, const Step *step) {
    return (int)(step->rows * spans(call));
}

WIDE static void run_gate(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    int64_t width = call->numbers[0], row = part / spans(call);
    int64_t first = part % spans(call) * SPAN;
    int64_t last = first + SPAN < width ? first + SPAN : width;
    float *out = (float *)call->buffers[0] + row * width;
    const float *gate = (const float *)call->buffers[2] + row * width + first;
    const float *up = call->buffers[3];
    if (up) up += row * width + first;
    switch (call->numbers[1]) {  // a constant in each loop, so that the choice is made here, once
    case SILU: gate_values(SILU, out + first, gate, up, last - first); break;
    case GELU: gate_values(GELU, out + first, gate, up, last - first); break;
    case GELU_TANH: gate_values(GELU_TANH, out + first, gate, up, last - first); break;
    default: gate_values(RELU_SQUARED, out + first, gate, up, last - first); break;
    }
    if (call->buffers[1])
        quantise_values(out, (char *)call->buffers[1] + row * quantised_row_bytes(width), width,
                        first, last);
}

const Kernel edge_gate = {parts_of_gate, run_gate, NULL};
