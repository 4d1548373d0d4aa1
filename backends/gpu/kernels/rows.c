// What computes rows number by number.

// edge_gather: rows that are asked for, for the head. `step`; out f32 [width] for each row of the head;
// x f32 [width] for each row of the body. Launched over (width, rows of the head).
KERNEL(edge_gather, GLOBAL const int *step, GLOBAL float *out, GLOBAL const float *x,
       NUMBER(int, width)) {
    int column = INDEX, row = GROUP(1);
    if (column < width) out[row * width + column] = x[WANTED(step, row) * width + column];
}

// edge_gate: out = activation(gate) * up, or activation(gate) where `gated` is 0. All f32 [width] for
// each row. Launched over (width, rows).
#define SILU 0
#define GELU 1
#define GELU_TANH 2

// 1 + erf(x), Abramowitz and Stegun 7.1.28 being too coarse: by its series for small x, and by the
// continued fraction of erfc beyond.
float one_plus_erf(float x) {
    float a = fabs(x), result;
    if (a < 2.0f) {
        float term = a, sum = a, square = a * a;
        for (int n = 1; n < 24; n++) {
            term *= -square / (float)n;
            sum += term / (float)(2 * n + 1);
        }
        result = sum * 1.1283791671f;
        return x < 0.0f ? 1.0f - result : 1.0f + result;
    }
    float fraction = 0.0f;
    for (int n = 20; n > 0; n--) fraction = (float)n * 0.5f / (a + fraction);
    result = EXP(-a * a) * 0.5641895835f / (a + fraction);
    return x < 0.0f ? result : 2.0f - result;
}

KERNEL(edge_gate, GLOBAL float *out, GLOBAL const float *gates, GLOBAL const float *up,
       NUMBER(int, gated), NUMBER(int, width), NUMBER(int, activation)) {
    int column = INDEX, at = GROUP(1) * width + column;
    if (column >= width) return;
    float x = gates[at], y;
    if (activation == SILU)
        y = x / (1.0f + EXP(-x));
    else if (activation == GELU)
        y = 0.5f * x * one_plus_erf(x * 0.70710678118f);
    else if (activation == GELU_TANH)  // (1 + tanh(y)) / 2 = 1 / (1 + e^(-2y))
        y = x / (1.0f + EXP(-1.5957691216f * x * (1.0f + 0.044715f * x * x)));
    else
        y = x > 0.0f ? x * x : 0.0f;
    out[at] = gated ? y * up[at] : y;
}
