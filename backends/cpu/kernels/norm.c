// Norms of rows, and the quantisation of rows for the integer formats.
#include "quantise.h"

static int each_row(const Call *call, const Step *step) {
    (void)call;
    return step->rows;
}

// --- edge_norm ---------------------------------------------------------------------------------
// buffers: out f32 [G * W], out quantised or NULL, x f32, weight f32, bias f32 or NULL;
// numbers: G, W, 0 for root mean square or 1 for layer norm, 0 where weight and bias are [W] and
// shared by the groups or 1 where they are [G * W]; reals: epsilon.
// Each of a row's G groups is normed by itself: y = (x - mean) / sqrt(variance + eps) * weight +
// bias, where the root mean square norm takes 0 for the mean.

INLINE float total(const float *x, int64_t width) {
    Floats even = 0.0f, odd = 0.0f;
    int64_t i = 0;
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        even += load(x + i);
        odd += load(x + i + LANES);
    }
    for (; i < width; i += LANES) even += load_some(x + i, width - i);
    return sum(even + odd);
}

INLINE float total_square(const float *x, int64_t width, float mean) {
    Floats even = 0.0f, odd = 0.0f;
    int64_t i = 0;
    for (; i + 2 * LANES <= width; i += 2 * LANES) {
        Floats a = load(x + i) - mean, b = load(x + i + LANES) - mean;
        even = madd(a, a, even);
        odd = madd(b, b, odd);
    }
    for (; i + LANES <= width; i += LANES) {
        Floats a = load(x + i) - mean;
        even = madd(a, a, even);
    }
    float rest = 0.0f;
    for (; i < width; i++) rest += (x[i] - mean) * (x[i] - mean);
    return sum(even + odd) + rest;
}

INLINE void norm_group(float *out, const float *x, const float *weight, const float *bias,
                       int64_t width, int centred, float epsilon) {
    float mean = centred ? total(x, width) / (float)width : 0.0f;
    float variance = total_square(x, width, mean) / (float)width;
    float factor = 1.0f / __builtin_sqrtf(variance + epsilon);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        Floats y = (load(x + i) - mean) * factor * load(weight + i);
        store(out + i, bias ? y + load(bias + i) : y);
    }
    for (; i < width; i++) {
        float y = (x[i] - mean) * factor * weight[i];
        out[i] = bias ? y + bias[i] : y;
    }
}

WIDE static void norm(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    int64_t groups = call->numbers[0], width = call->numbers[1], k = groups * width;
    float *out = (float *)call->buffers[0] + part * k;
    const float *x = (const float *)call->buffers[2] + part * k;
    const float *weight = call->buffers[3], *bias = call->buffers[4];
    int64_t stride = call->numbers[3] ? width : 0;
    for (int64_t g = 0; g < groups; g++)
        norm_group(out + g * width, x + g * width, weight + g * stride,
                   bias ? bias + g * stride : NULL, width, call->numbers[2] == 1, call->reals[0]);
    if (call->buffers[1])
        quantise_values(out, (char *)call->buffers[1] + part * quantised_row_bytes(k), k, 0, k);
}

const Kernel edge_norm = {each_row, norm, NULL};

// --- edge_quantise -----------------------------------------------------------------------------
// buffers: out quantised, x f32 [K]; numbers: K, a multiple of 32.

WIDE static void quantise(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    int64_t k = call->numbers[0];
    const float *x = (const float *)call->buffers[1] + part * k;
    quantise_values(x, (char *)call->buffers[0] + part * quantised_row_bytes(k), k, 0, k);
}

const Kernel edge_quantise = {each_row, quantise, NULL};
