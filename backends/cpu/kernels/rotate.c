// edge_rotate: turns pairs of a head's leading channels by the angles of the row's position.
// buffers: out f32 [heads * C], x f32 (may be out), table f32 [positions][2][R/2] of cosines and
// sines; numbers: heads, C, R (channels turned), 0 for halves (x[i], x[i + R/2]) or 1 for pairs
// (x[2i], x[2i + 1]).
#include "edge.h"

static int parts_of_rotate(const Call *call, const Step *step) {
    (void)call;
    return step->rows;
}

static void run_rotate(const Call *call, const Step *step, int part, int parts) {
    (void)parts;
    int64_t heads = call->numbers[0], width = call->numbers[1], half = call->numbers[2] / 2;
    const float *cosine = (const float *)call->buffers[2] + step->positions[part] * 2 * half;
    const float *sine = cosine + half;
    for (int64_t head = 0; head < heads; head++) {
        float *out = (float *)call->buffers[0] + (part * heads + head) * width;
        const float *x = (const float *)call->buffers[1] + (part * heads + head) * width;
        if (call->numbers[3] == 0) {
            for (int64_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half];
                out[i] = a * cosine[i] - b * sine[i];
                out[i + half] = a * sine[i] + b * cosine[i];
            }
        } else {
            for (int64_t i = 0; i < half; i++) {
                float a = x[2 * i], b = x[2 * i + 1];
                out[2 * i] = a * cosine[i] - b * sine[i];
                out[2 * i + 1] = a * sine[i] + b * cosine[i];
            }
        }
        for (int64_t i = 2 * half; i < width; i++) out[i] = x[i];
    }
}

const Kernel edge_rotate = {parts_of_rotate, run_rotate, NULL};
