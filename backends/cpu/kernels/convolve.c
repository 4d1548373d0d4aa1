// A short causal convolution, one filter a channel, over what a slot remembers of its past.
// The state of a layer is f32 [slots][context][D].
#include <string.h>

#include "edge.h"

static int each_row(const Call *call, const Step *step) {
    (void)call;
    return step->rows;
}

static float *state_row(const Call *call, const Step *step, int64_t slot, int64_t position,
                        int index) {
    return (float *)call->buffers[index] + (slot * step->context + position) * call->numbers[0];
}

// --- edge_conv_store ---------------------------------------------------------------------------
// buffers: state, x f32 [D]; numbers: D.

static void conv_store(const Call *call, const Step *step, int part, int parts) {
    (void)parts;
    int64_t width = call->numbers[0];
    memcpy(state_row(call, step, step->slots[part], step->positions[part], 0),
           (const float *)call->buffers[1] + part * width, width * sizeof(float));
}

const Kernel edge_conv_store = {each_row, conv_store, NULL};

// --- edge_convolve -----------------------------------------------------------------------------
// buffers: out f32 [D], state, kernel f32 [D][taps]; numbers: D, taps.
// out[d] = sum over t of x[position - taps + 1 + t][d] * kernel[d][t]; 0 before position 0.

static void convolve(const Call *call, const Step *step, int part, int parts) {
    (void)parts;
    int64_t width = call->numbers[0], taps = call->numbers[1];
    int64_t first = step->positions[part] - taps + 1;
    float *out = (float *)call->buffers[0] + part * width;
    const float *kernel = call->buffers[2];
    memset(out, 0, width * sizeof(float));
    for (int64_t t = first < 0 ? -first : 0; t < taps; t++) {
        const float *x = state_row(call, step, step->slots[part], first + t, 1);
        for (int64_t d = 0; d < width; d++) out[d] += x[d] * kernel[d * taps + t];
    }
}

const Kernel edge_convolve = {each_row, convolve, NULL};
