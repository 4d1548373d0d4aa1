// lookup: out [count][width] = the rows of a table [length][width] of the given numbers.
//   buffers: out, table, which [count] (int32); numbers: count, width, length
// lookup_back: the table's gradient [length][width]: each row the sum of what came of it.
//   buffers: gradient, by_out [count][width], which; numbers as above
#include "../edge.h"
#include <string.h>

enum { PIECE = 64 };  // columns of a part

static int parts_of_columns(const Call *call, const Step *step) {
    (void)step;
    return (call->numbers[1] + PIECE - 1) / PIECE;
}

static void run(const Call *call, int part, int back) {
    int64_t count = call->numbers[0], width = call->numbers[1], length = call->numbers[2];
    int64_t first = (int64_t)part * PIECE, piece = width - first < PIECE ? width - first : PIECE;
    float *out = (float *)call->buffers[0] + first;
    const float *in = (const float *)call->buffers[1] + first;
    const int32_t *which = call->buffers[2];
    if (back)
        for (int64_t row = 0; row < length; row++)
            memset(out + row * width, 0, piece * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        if (which[i] < 0 || which[i] >= length) {
            if (!back) memset(out + i * width, 0, piece * sizeof(float));
            continue;
        }
        float *to = out + (back ? which[i] : i) * width;
        const float *from = in + (back ? i : which[i]) * width;
        for (int64_t j = 0; j < piece; j++) to[j] = back ? to[j] + from[j] : from[j];
    }
}

static void run_lookup(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    run(call, part, 0);
}

static void run_back(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    run(call, part, 1);
}

const Kernel edge_lookup = {parts_of_columns, run_lookup, NULL};
const Kernel edge_lookup_back = {parts_of_columns, run_back, NULL};
