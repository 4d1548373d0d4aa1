// edge_norm: y = (x - mean) / sqrt(variance + eps) * weight + bias, over groups of a row by themselves,
// where the root mean square norm takes 0 for the mean.
// out f32 [groups * width], x, weight, bias or NULL with `biased` 0; groups, width; `centred` 1 for
// layer norm; `own` 1 where weight and bias are [groups * width], 0 where the groups share them;
// epsilon. Launched over (rows * groups), each with NORM_ITEMS work items.

// The sum of what the work items have, in an order that depends on their number alone.
#define TOTAL(sum)                                               \
    shared[ITEM] = sum;                                          \
    BARRIER;                                                     \
    if (ITEM == 0)                                               \
        for (int i = 1; i < NORM_ITEMS; i++) shared[0] += shared[i]; \
    BARRIER;                                                     \
    sum = shared[0];                                             \
    BARRIER;

KERNEL(edge_norm, GLOBAL float *out, GLOBAL const float *x, GLOBAL const float *weight,
       GLOBAL const float *bias, NUMBER(int, biased), NUMBER(int, groups), NUMBER(int, width),
       NUMBER(int, centred), NUMBER(int, own), NUMBER(float, epsilon)) {
    LOCAL float shared[NORM_ITEMS];
    int at = GROUP(0) * width, shift = own ? GROUP(0) % groups * width : 0;
    float mean = 0.0f, variance = 0.0f;
    if (centred) {
        for (int i = ITEM; i < width; i += NORM_ITEMS) mean += x[at + i];
        TOTAL(mean)
        mean /= (float)width;
    }
    for (int i = ITEM; i < width; i += NORM_ITEMS)
        variance = FMA(x[at + i] - mean, x[at + i] - mean, variance);
    TOTAL(variance)
    float factor = 1.0f / sqrt(variance / (float)width + epsilon);
    for (int i = ITEM; i < width; i += NORM_ITEMS) {
        float y = (x[at + i] - mean) * factor * weight[shift + i];
        out[at + i] = biased ? y + bias[shift + i] : y;
    }
}
