// entropy: cross-entropy of wanted tokens, which is log(total) - score, and its gradient by the
// scores.
//   buffers: gradient [rows][tokens], result [rows][2] (total, score), scores [rows][tokens],
//   wanted [rows] (int32; below 0: none)
//   numbers: rows, tokens
#include "../edge.h"
#include "../vector.h"

static int parts_of_rows(const Call *call, const Step *step) {
    (void)step;
    return call->numbers[0] < 65535 ? call->numbers[0] : 65535;
}

static WIDE void run_row(float *gradient, float *result, const float *scores,
                         int32_t wanted, int64_t tokens) {
    if (wanted < 0 || wanted >= tokens) {
        memset(gradient, 0, tokens * sizeof(float));
        result[0] = 1;
        result[1] = 0;
        return;
    }
    Floats most = (Floats)(-__builtin_inff());
    int64_t i = 0;
    for (; i + LANES <= tokens; i += LANES) most = larger(load(scores + i), most);
    float peak = largest(most);
    for (; i < tokens; i++) peak = scores[i] > peak ? scores[i] : peak;
    result[1] = scores[wanted] - peak;
    double total = 0;
    for (i = 0; i < tokens; i += LANES) {
        Floats x = exponential(load_some(scores + i, tokens - i) - peak);
        store_some(gradient + i, x, tokens - i);
        total += sum(load_some(gradient + i, tokens - i));
    }
    float part = 1 / total;
    for (i = 0; i < tokens; i += LANES)
        store_some(gradient + i, load_some(gradient + i, tokens - i) * part, tokens - i);
    gradient[wanted] -= 1;
    result[0] = total;
}

static void run(const Call *call, const Step *step, int part, int parts) {
    (void)step;
    int64_t rows = call->numbers[0], tokens = call->numbers[1];
    const int32_t *wanted = call->buffers[3];
    for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; row++)
        run_row((float *)call->buffers[0] + row * tokens, (float *)call->buffers[1] + 2 * row,
                (const float *)call->buffers[2] + row * tokens, wanted[row], tokens);
}

const Kernel edge_entropy = {parts_of_rows, run, NULL};
