// Causal attention over whole rows of training, forward and back.
//
// q, out and their gradients are [batch][T][heads][width]; k and v have `keys` heads, a group of
// query heads sharing one. Position t sees those from first[b][t] up to itself, and of them the last
// `window` where that isn't 0. Scores are capped at cap * tanh(score / cap) unless cap is 0; with
// slopes, slope * scale is taken off for every position that a key lies back.
//
// Nothing is kept from the way forward: the way back computes the scores of a few queries anew.
#include "../edge.h"
#include "../vector.h"
#include "multiply.h"
#include <stdlib.h>

enum { QUERIES = 48 };  // whose scores are in memory at once

typedef struct {
    int64_t batch, length, heads, keys, width, window;
    float scale, cap;
    const int32_t *first;
    const float *slopes;
} Attention;

static Attention attention(const Call *call, int first) {
    const int64_t *n = call->numbers;
    return (Attention){n[0], n[1], n[2], n[3], n[4], n[5], call->reals[0], call->reals[1],
                       call->buffers[first], call->buffers[first + 1]};
}

// The first position that queries `begin` up to `end` of row b see, rounded down to a panel.
static int64_t start_of(const Attention *a, int64_t b, int64_t begin, int64_t end) {
    int64_t start = begin;
    for (int64_t t = begin; t < end; t++) {
        int64_t seen = a->first[b * a->length + t];
        if (a->window && t - a->window + 1 > seen) seen = t - a->window + 1;
        if (seen < start) start = seen;
    }
    return start / COLUMNS * COLUMNS;
}

// Shares [count][stride] of positions from `start` on for queries from `begin` on: scores in, and
// the derivatives of the caps into `slope` where there is a cap.
static WIDE void shares(const Attention *a, int64_t b, int64_t head, int64_t begin, int64_t count,
                        int64_t start, int64_t stride, float *scores, float *slope) {
    for (int64_t i = 0; i < count; i++) {
        int64_t t = begin + i, seen = a->first[b * a->length + t];
        if (a->window && t - a->window + 1 > seen) seen = t - a->window + 1;
        float *row = scores + i * stride, *down = slope + i * stride;
        int64_t from = seen - start, end = t + 1 - start;
        float most = -__builtin_inff();
        for (int64_t j = 0; j < from; j++) row[j] = 0;
        for (int64_t j = from; j < end; j += LANES) {
            Floats x = load_some(row + j, end - j) * a->scale;
            if (a->cap != 0) {
                Floats bent = hyperbolic_tangent(x / a->cap);
                store_some(down + j, 1.0f - bent * bent, end - j);
                x = bent * a->cap;
            }
            if (a->slopes) {
                float lanes[LANES];
                for (int l = 0; l < LANES; l++) lanes[l] = (float)(t - start - j - l);
                x -= load(lanes) * (a->slopes[head] * a->scale);
            }
            store_some(row + j, x, end - j);
            int64_t left = end - j < LANES ? end - j : LANES;
            for (int64_t l = 0; l < left; l++) most = row[j + l] > most ? row[j + l] : most;
        }
        Floats total = (Floats)(0.0f);
        for (int64_t j = from; j < end; j += LANES) {
            Floats x = exponential(load_some(row + j, end - j) - most);
            store_some(row + j, x, end - j);
            total += load_some(row + j, end - j);
        }
        float whole = 1.0f / sum(total);
        for (int64_t j = from; j < end; j += LANES)
            store_some(row + j, load_some(row + j, end - j) * whole, end - j);
        for (int64_t j = end; j < stride; j++) row[j] = 0;
    }
}

// out [count][stride] = a [count][width] * transposed b [length][width], panel by panel.
static void against(Matrix a, Matrix b, int64_t count, int64_t width, int64_t length, float *out,
                    int64_t stride, float *panel) {
    for (int64_t j = 0; j < length; j += COLUMNS) {
        int64_t columns = length - j < COLUMNS ? length - j : COLUMNS;
        multiply(a, matrix(b.at + j * b.row, b.column, b.row), count, width, columns, out + j,
                 stride, 0, panel);
    }
}

// out [count][width], rows `stride` apart, = or += a [count][length] * b [length][width].
static void weighted(Matrix a, Matrix b, int64_t count, int64_t length, int64_t width, float *out,
                     int64_t stride, int add, float *panel) {
    for (int64_t j = 0; j < width; j += COLUMNS) {
        int64_t columns = width - j < COLUMNS ? width - j : COLUMNS;
        multiply(a, matrix(b.at + j, b.row, b.column), count, length, columns, out + j, stride, add,
                 panel);
    }
}

static int64_t padded(int64_t length) { return (length + COLUMNS - 1) / COLUMNS * COLUMNS; }

// attention: out = shares * v.   buffers: out, q, k, v, first, slopes or NULL
//   numbers: batch, T, heads, keys, width, window; reals: scale, cap
static int parts_forward(const Call *call, const Step *step) {
    (void)step;
    return call->numbers[0] * call->numbers[2] * ((call->numbers[1] + QUERIES - 1) / QUERIES);
}

static WIDE void run_forward(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    Attention a = attention(call, 4);
    int64_t blocks = (a.length + QUERIES - 1) / QUERIES;
    // The last queries see most: they come first.
    int64_t begin = (blocks - 1 - part % blocks) * QUERIES, head = part / blocks % a.heads;
    int64_t b = part / blocks / a.heads, end = begin + QUERIES;
    if (end > a.length) end = a.length;
    int64_t start = start_of(&a, b, begin, end), length = end - start, stride = padded(length);
    int64_t wide = a.heads * a.width, narrow = a.keys * a.width;
    int64_t at = (b * a.length + begin) * wide + head * a.width;
    int64_t from = (b * a.length + start) * narrow + head / (a.heads / a.keys) * a.width;
    float *room = malloc((DEPTH * COLUMNS + 2 * QUERIES * stride) * sizeof(float));
    float *panel = room, *scores = panel + DEPTH * COLUMNS, *slope = scores + QUERIES * stride;
    Matrix q = matrix((float *)call->buffers[1] + at, wide, 1);
    Matrix k = matrix((float *)call->buffers[2] + from, narrow, 1);
    Matrix v = matrix((float *)call->buffers[3] + from, narrow, 1);
    against(q, k, end - begin, a.width, length, scores, stride, panel);
    shares(&a, b, head, begin, end - begin, start, stride, scores, slope);
    weighted(matrix(scores, stride, 1), v, end - begin, length, a.width,
             (float *)call->buffers[0] + at, wide, 0, panel);
    free(room);
}

const Kernel edge_attention = {parts_forward, run_forward, NULL};

// attention_back: the gradients of q, and of k and v for each query head [batch][T][heads][width].
//   buffers: dq, dk, dv, q, k, v, dout, first, slopes or NULL; numbers and reals as above
static int parts_back(const Call *call, const Step *step) {
    (void)step;
    return call->numbers[0] * call->numbers[2];
}

static WIDE void run_back(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)parts;
    Attention a = attention(call, 7);
    int64_t head = part % a.heads, b = part / a.heads;
    int64_t wide = a.heads * a.width, narrow = a.keys * a.width, stride = padded(a.length);
    float *room = malloc((DEPTH * COLUMNS + 3 * QUERIES * stride) * sizeof(float));
    float *panel = room, *scores = panel + DEPTH * COLUMNS, *slope = scores + QUERIES * stride;
    float *back = slope + QUERIES * stride;
    int64_t whole = b * a.length * wide + head * a.width;
    float *dk = (float *)call->buffers[1] + whole, *dv = (float *)call->buffers[2] + whole;
    for (int64_t t = 0; t < a.length; t++) {
        memset(dk + t * wide, 0, a.width * sizeof(float));
        memset(dv + t * wide, 0, a.width * sizeof(float));
    }
    for (int64_t begin = 0; begin < a.length; begin += QUERIES) {
        int64_t end = begin + QUERIES < a.length ? begin + QUERIES : a.length;
        int64_t count = end - begin, start = start_of(&a, b, begin, end), length = end - start;
        int64_t at = whole + begin * wide;
        int64_t from = (b * a.length + start) * narrow + head / (a.heads / a.keys) * a.width;
        Matrix q = matrix((float *)call->buffers[3] + at, wide, 1);
        Matrix k = matrix((float *)call->buffers[4] + from, narrow, 1);
        Matrix v = matrix((float *)call->buffers[5] + from, narrow, 1);
        Matrix dout = matrix((float *)call->buffers[6] + at, wide, 1);
        against(q, k, count, a.width, length, scores, stride, panel);
        shares(&a, b, head, begin, count, start, stride, scores, slope);
        against(dout, v, count, a.width, length, back, stride, panel);
        weighted(matrix(scores, 1, stride), dout, length, count, a.width, dv + start * wide, wide,
                 1, panel);
        // Of softmax: share * (d - the mean of d by shares); and of what was done before it.
        for (int64_t i = 0; i < count; i++) {
            float *share = scores + i * stride, *d = back + i * stride, *bent = slope + i * stride;
            Floats mean = (Floats)(0.0f);
            for (int64_t j = 0; j < length; j += LANES)
                mean = madd(load_some(share + j, length - j), load_some(d + j, length - j), mean);
            float middle = sum(mean);
            for (int64_t j = 0; j < length; j += LANES) {
                Floats s = load_some(share + j, length - j);
                Floats x = s * (load_some(d + j, length - j) - middle) * a.scale;
                if (a.cap != 0) x = s == 0.0f ? 0.0f : x * load_some(bent + j, length - j);
                store_some(d + j, x, length - j);
            }
        }
        weighted(matrix(back, stride, 1), k, count, length, a.width,
                 (float *)call->buffers[0] + at, wide, 0, panel);
        weighted(matrix(back, 1, stride), q, length, count, a.width, dk + start * wide, wide, 1,
                 panel);
    }
    free(room);
}

const Kernel edge_attention_back = {parts_back, run_back, NULL};
