// The functions in the middle of feed-forward blocks.
#pragma once
#include "edge.h"
#include "vector.h"

enum { SILU = 0, GELU = 1, GELU_TANH = 2, RELU_SQUARED = 3 };

INLINE Floats activate(int64_t activation, Floats x) {
    switch (activation) {
    case SILU: return x / (1.0f + exponential(-x));
    case GELU: return 0.5f * x * one_plus_erf(x * 0x1.6a09e6p-1f);  // x / sqrt(2)
    case GELU_TANH: {
        Floats inner = x * madd(x * x, (Floats)0.044715f, (Floats)1.0f);
        // (1 + tanh(y)) / 2 = 1 / (1 + e^(-2y)), with y = sqrt(2 / pi) * inner
        return x / (1.0f + exponential(inner * -1.5957691216f));
    }
    default: return x > 0.0f ? x * x : 0.0f;
    }
}
