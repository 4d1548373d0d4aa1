// edge_linear: products of rows with up to three packed matrices of one format.
// `step`; `part`, whose rows they are (ROWS_OF); x f32 [width] for each row; of each matrix the
// weights, y f32 [n] for each row, and n, 0 for none. Launched over (groups of GROUP_ROWS outputs
// of all matrices / BESIDE, rows / ROWS), each group with GROUP_ROWS / WIDE * SPLITS * BESIDE items.
//
// The inputs are split among SPLITS work items, whose sums are then added in order: so a result is
// the same for any ROWS, the rows that share the reading of weights. Rows beyond the last are
// computed like it, and not stored.
#define LANES (GROUP_ROWS / WIDE)

// Adds to `sums` the products of a unit of inputs, WIDE rows of weights from `first` on; row t's
// inputs are at x[at[t]].
#if FORMAT <= BF16
void multiply(GLOBAL const uint *block, int unit, int first, GLOBAL const float *x,
              PRIVATE const size_t *at, PRIVATE Floats *sums) {
#if FORMAT == F32
    Floats w = LOAD_FLOATS((GLOBAL const float *)block + first);
#elif FORMAT == F16
    Floats w = LOAD_HALVES(HALVES(block) + first);
#else
    Floats w = LOAD_BFLOATS(HALVES(block) + first);
#endif
#pragma unroll
    for (int t = 0; t < ROWS; t++) sums[t] = FMA(w, SPLAT(x[at[t]]), sums[t]);
}
#else

// A factor is applied to the sum of a block; in half precision to each value, for sums of codes
// would exceed its range.
#if HAS_MINIMUM
#define VALUE(code, d, minimum) REAL_FMA(d, REALS(code), minimum)
#define JOINED(d, part, sum) ((sum) + FLOATS_OF_REALS(part))
#elif defined(HALF_ARITHMETIC)
#define VALUE(code, d, minimum) (d * REALS(code))
#define JOINED(d, part, sum) ((sum) + FLOATS_OF_REALS(part))
#else
#define VALUE(code, d, minimum) (code)
#define JOINED(d, part, sum) FMA(d, part, sum)
#endif

// Bits of a code as a number, less the format's offset: with the exponent of 2^23 before it.
#define CODE(bits) level(AS_FLOATS((bits) | 0x4B000000u) - SPLAT(8388608.0f + OFFSET))

// The first 16 inputs and the others add up apart, and so do even and odd ones: then no sum waits
// for the one before.
void multiply(GLOBAL const uint *block, int unit, int first, GLOBAL const float *x,
              PRIVATE const size_t *at, PRIVATE Floats *sums) {
    GLOBAL const uint *codes = block + CODES + unit * SUB_WORDS + first;
    Floats factor = LOAD_HALVES(HALVES(block) + first);
#if FORMAT == Q4_K || FORMAT == Q5_K
    Floats shift = LOAD_HALVES(HALVES(block + 4) + first) *
                   LOAD_BYTES(BYTES(block + 24) + unit * GROUP_ROWS + first);
    Reals minimum = REALS(-shift);
    factor *= LOAD_BYTES(BYTES(block + 8) + unit * GROUP_ROWS + first);
#elif FORMAT == Q2_K
    Words factors = LOAD_WORDS(block + 8 + unit / 2 * GROUP_ROWS + first) >> (uint)(unit % 2 * 16);
    Floats shift = LOAD_HALVES(HALVES(block + 4) + first);
    Reals minimum = REALS(-shift * CODE((factors >> 4u) & 15u));
    Reals minimum_high = REALS(-shift * CODE((factors >> 12u) & 15u));
#elif HAS_MINIMUM
    Reals minimum = REALS(LOAD_HALVES(HALVES(block + 4) + first));
#endif
#if FORMAT == Q6_K
    GLOBAL const uchar *factors = BYTES(block + 4) + 2 * unit * GROUP_ROWS + first;
    Reals d = REALS(factor * LOAD_SIGNED_BYTES(factors));
    Reals d_high = REALS(factor * LOAD_SIGNED_BYTES(factors + GROUP_ROWS));
#elif FORMAT == Q2_K
    Reals d = REALS(factor * CODE(factors & 15u));
    Reals d_high = REALS(factor * CODE((factors >> 8u) & 15u));
#else
#if FORMAT == IQ4_XS
    factor *= LOAD_SIGNED_BYTES(BYTES(block + 4) + unit * GROUP_ROWS + first);
#endif
    Reals d = REALS(factor);
#define d_high d
#define minimum_high minimum
#endif
    Reals low[2 * ROWS], high[2 * ROWS];
#pragma unroll
    for (int t = 0; t < 2 * ROWS; t++) low[t] = high[t] = REAL_SPLAT(0.0f);
#if HAS_FIFTH
    Words fifth = LOAD_WORDS(codes + 4 * GROUP_ROWS);
#elif FORMAT == Q6_K
    Words upper_low = LOAD_WORDS(codes + 4 * GROUP_ROWS);
    Words upper_high = LOAD_WORDS(codes + 5 * GROUP_ROWS);
#elif FORMAT == Q2_K
    Words pairs_low = LOAD_WORDS(codes), pairs_high = LOAD_WORDS(codes + GROUP_ROWS);
#endif
#pragma unroll
    for (int v = 0; v < 4; v++) {
#if FORMAT != Q2_K
        Words word = LOAD_WORDS(codes + v * GROUP_ROWS);
#endif
#if FORMAT == Q8_0
        Words word_high = LOAD_WORDS(codes + (v + 4) * GROUP_ROWS);
#endif
#pragma unroll
        for (int j = 0; j < 4; j++) {
#if FORMAT == Q8_0
            Floats code_low = FROM_SIGNED_BYTE(word, j);
            Floats code_high = FROM_SIGNED_BYTE(word_high, j);
#else
#if FORMAT == Q2_K
            Words bits_low = (pairs_low >> (uint)(8 * j + 2 * v)) & 3u;
            Words bits_high = (pairs_high >> (uint)(8 * j + 2 * v)) & 3u;
#else
            Words bits_low = (word >> (uint)(8 * j)) & 15u;
            Words bits_high = (word >> (uint)(8 * j + 4)) & 15u;
#endif
#if HAS_FIFTH
            bits_low |= ((fifth >> (uint)(8 * j + v)) & 1u) << 4u;
            bits_high |= ((fifth >> (uint)(8 * j + v + 4)) & 1u) << 4u;
#elif FORMAT == Q6_K
            bits_low |= ((upper_low >> (uint)(8 * j + 2 * v)) & 3u) << 4u;
            bits_high |= ((upper_high >> (uint)(8 * j + 2 * v)) & 3u) << 4u;
#endif
            Floats code_low = CODE(bits_low), code_high = CODE(bits_high);
#endif
            Reals w_low = VALUE(code_low, d, minimum);
            Reals w_high = VALUE(code_high, d_high, minimum_high);
#pragma unroll
            for (int t = 0; t < ROWS; t++) {
                GLOBAL const float *input = x + at[t] + 4 * v + j;
                int i = 2 * t + j % 2;
                low[i] = REAL_FMA(w_low, REAL_SPLAT(input[0]), low[i]);
                high[i] = REAL_FMA(w_high, REAL_SPLAT(input[16]), high[i]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < ROWS; t++)
        sums[t] = JOINED(d_high, high[2 * t] + high[2 * t + 1],
                         JOINED(d, low[2 * t] + low[2 * t + 1], sums[t]));
}
#endif

KERNEL(edge_linear, GLOBAL const int *step, NUMBER(int, part), GLOBAL const float *x, NUMBER(int, width),
       GLOBAL const uint *w0, GLOBAL float *y0, NUMBER(int, n0),
       GLOBAL const uint *w1, GLOBAL float *y1, NUMBER(int, n1),
       GLOBAL const uint *w2, GLOBAL float *y2, NUMBER(int, n2)) {
#if SPLITS > 1
    LOCAL float shared[BESIDE * SPLITS * ROWS * GROUP_ROWS];
#endif
    int first = ITEM % LANES * WIDE, split = ITEM / LANES % SPLITS, beside = ITEM / LANES / SPLITS;
    int group = GROUP(0) * BESIDE + beside, rows = ROWS_OF(step, part);
    GLOBAL const uint *w = w0;
    GLOBAL float *y = y0;
    int n = n0, groups = (n0 + GROUP_ROWS - 1) / GROUP_ROWS;
    if (group >= groups && n1 > 0) {
        group -= groups;
        w = w1, y = y1, n = n1, groups = (n1 + GROUP_ROWS - 1) / GROUP_ROWS;
        if (group >= groups && n2 > 0) {
            group -= groups;
            w = w2, y = y2, n = n2, groups = (n2 + GROUP_ROWS - 1) / GROUP_ROWS;
        }
    }
    size_t at[ROWS];
    Floats sums[ROWS];
#pragma unroll
    for (int t = 0; t < ROWS; t++) {
        int row = GROUP(1) * ROWS + t;
        at[t] = (size_t)(row < rows ? row : rows - 1) * width + split * UNIT_INPUTS;
        sums[t] = SPLAT(0.0f);
    }
    if (group < groups) {
        int units = width / UNIT_INPUTS;
        w += group * (units / UNITS) * BLOCK_WORDS;
        for (int unit = split; unit < units; unit += SPLITS) {
            multiply(w + unit / UNITS * BLOCK_WORDS, unit % UNITS, first, x, at, sums);
#pragma unroll
            for (int t = 0; t < ROWS; t++) at[t] += SPLITS * UNIT_INPUTS;
        }
    }
#if SPLITS > 1
    LOCAL float *mine = shared + beside * SPLITS * ROWS * GROUP_ROWS + first;
#pragma unroll
    for (int t = 0; t < ROWS; t++) STORE_FLOATS(sums[t], mine + (split * ROWS + t) * GROUP_ROWS);
    BARRIER;
    for (int t = 0; t < ROWS && split == 0; t++)
        for (int other = 1; other < SPLITS; other++)
            sums[t] += LOAD_FLOATS(mine + (other * ROWS + t) * GROUP_ROWS);
#endif
    for (int t = 0; t < ROWS && split == 0 && group < groups; t++) {
        int row = GROUP(1) * ROWS + t, output = group * GROUP_ROWS + first;
        float values[WIDE];
        STORE_FLOATS(sums[t], values);
        for (int i = 0; i < WIDE && output + i < n && row < rows; i++)
            y[row * n + output + i] = values[i];
    }
}
