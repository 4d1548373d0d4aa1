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
              PRIVATE const int *at, PRIVATE Floats *sums) {
#if FORMAT == F32
    Floats w = LOAD_FLOATS((GLOBAL const float *)block + first);
#elif FORMAT == F16
    Floats w = LOAD_HALVES(HALVES(block) + first);
#else
    Floats w = LOAD_BFLOATS(HALVES(block) + first);
#endif
    for (int t = 0; t < ROWS; t++) sums[t] = FMA(w, SPLAT(x[at[t]]), sums[t]);
}
#else

// A factor is applied to the sum of a block; in half precision to each value, for sums of codes
// would exceed its range.
#if HAS_MINIMUM
#define VALUE(code, d) REAL_FMA(d, REALS(code), minimum)
#define JOINED(d, part, sum) ((sum) + FLOATS_OF_REALS(part))
#elif defined(HALF_ARITHMETIC)
#define VALUE(code, d) (d * REALS((code) - OFFSET))
#define JOINED(d, part, sum) ((sum) + FLOATS_OF_REALS(part))
#else
#define VALUE(code, d) ((code) - OFFSET)
#define JOINED(d, part, sum) FMA(d, part, sum)
#endif
#define ADD(value, i, part)         \
    {                               \
        Reals w_ = value;           \
        for (int t = 0; t < ROWS; t++) \
            part[t] = REAL_FMA(w_, REAL_SPLAT(x[at[t] + (i)]), part[t]); \
    }

void multiply(GLOBAL const uint *block, int unit, int first, GLOBAL const float *x,
              PRIVATE const int *at, PRIVATE Floats *sums) {
    GLOBAL const uint *codes = block + CODES + unit * SUB_WORDS + first;
    Floats factor = LOAD_HALVES(HALVES(block) + first);
#if FORMAT == Q4_K || FORMAT == Q5_K
    Floats shift = LOAD_HALVES(HALVES(block + 4) + first) *
                   LOAD_BYTES(BYTES(block + 24) + unit * GROUP_ROWS + first);
    Reals minimum = REALS(-shift);
    factor *= LOAD_BYTES(BYTES(block + 8) + unit * GROUP_ROWS + first);
#elif HAS_MINIMUM
    Reals minimum = REALS(LOAD_HALVES(HALVES(block + 4) + first));
#elif FORMAT == Q6_K
    GLOBAL const uchar *factors = BYTES(block + 4) + 2 * unit * GROUP_ROWS + first;
    Reals d_high = REALS(factor * LOAD_SIGNED_BYTES(factors + GROUP_ROWS)), part_high[ROWS];
    for (int t = 0; t < ROWS; t++) part_high[t] = REAL_SPLAT(0.0f);
    factor *= LOAD_SIGNED_BYTES(factors);
#endif
    Reals d = REALS(factor), part[ROWS];
    for (int t = 0; t < ROWS; t++) part[t] = REAL_SPLAT(0.0f);
#if FORMAT == Q8_0
    for (int v = 0; v < 8; v++) {
        Words word = LOAD_WORDS(codes + v * GROUP_ROWS);
        for (int j = 0; j < 4; j++) ADD(VALUE(FROM_SIGNED_BYTE(word, j), d), 4 * v + j, part)
    }
#else
#if HAS_FIFTH
    Words fifth = LOAD_WORDS(codes + 4 * GROUP_ROWS);
#elif FORMAT == Q6_K
    Words upper = LOAD_WORDS(codes + 4 * GROUP_ROWS);
    Words upper_high = LOAD_WORDS(codes + 5 * GROUP_ROWS);
#endif
    for (int v = 0; v < 4; v++) {
        Words word = LOAD_WORDS(codes + v * GROUP_ROWS);
        for (int j = 0; j < 4; j++) {
            Words low = (word >> (uint)(8 * j)) & 15u, high = (word >> (uint)(8 * j + 4)) & 15u;
#if HAS_FIFTH
            low |= ((fifth >> (uint)(8 * j + v)) & 1u) << 4u;
            high |= ((fifth >> (uint)(8 * j + v + 4)) & 1u) << 4u;
#elif FORMAT == Q6_K
            low |= ((upper >> (uint)(8 * j + 2 * v)) & 3u) << 4u;
            high |= ((upper_high >> (uint)(8 * j + 2 * v)) & 3u) << 4u;
#endif
            ADD(VALUE(FROM_WORDS(low), d), 4 * v + j, part)
#if FORMAT == Q6_K
            ADD(VALUE(FROM_WORDS(high), d_high), 16 + 4 * v + j, part_high)
#else
            ADD(VALUE(FROM_WORDS(high), d), 16 + 4 * v + j, part)
#endif
        }
    }
#endif
    for (int t = 0; t < ROWS; t++) {
        sums[t] = JOINED(d, part[t], sums[t]);
#if FORMAT == Q6_K
        sums[t] = JOINED(d_high, part_high[t], sums[t]);
#endif
    }
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
    int at[ROWS];
    Floats sums[ROWS];
    for (int t = 0; t < ROWS; t++) {
        int row = GROUP(1) * ROWS + t;
        at[t] = (row < rows ? row : rows - 1) * width + split * UNIT_INPUTS;
        sums[t] = SPLAT(0.0f);
    }
    if (group < groups) {
        int units = width / UNIT_INPUTS;
        w += group * (units / UNITS) * BLOCK_WORDS;
        for (int unit = split; unit < units; unit += SPLITS) {
            multiply(w + unit / UNITS * BLOCK_WORDS, unit % UNITS, first, x, at, sums);
            for (int t = 0; t < ROWS; t++) at[t] += SPLITS * UNIT_INPUTS;
        }
    }
#if SPLITS > 1
    LOCAL float *mine = shared + beside * SPLITS * ROWS * GROUP_ROWS + first;
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
