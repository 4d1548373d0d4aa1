// edge_attend: each head's softmax over the positions that its row sees, and the sum of their values.
// `step`; the state's keys and its values (state.h); q f32 [heads * width] for each row; slopes
// f32 [heads] or NULL with `sloped` 0; out f32 [heads * width] for each row; `parts`, see below;
// heads, key heads, width, window (0: none), context; scale, cap of scores (0: none).
//
// Positions are computed in chunks of CHUNK, each by itself and then joined to those before it, in
// order: so it makes no difference whether a group of work items computes all chunks of a row and
// head, as for a prompt, or one. Launched over (1, heads, rows) with `spread` 0, one group computes
// all; over (chunks, heads, rows) with `spread` 1, each leaves its chunk in
// parts f32 [rows][heads][chunks of context][HEADER + width], and attend_merge joins them. In
// either case with ATTEND_ITEMS work items.
#define HEADER 2  // before a chunk's sums: its largest score, and the sum of e^(score - it)
#define TALLIES 16

// The positions of a chunk that a row sees.
#define FIRST_SEEN(position) (window > 0 && position >= window ? position - window + 1 : 0)

// Joins a chunk's sum to that of those before it.
#define JOIN_SUM(sum, before, next, after) FMA(sum, before, (next) * (after))

KERNEL(edge_attend, GLOBAL const int *step, GLOBAL const Kept *keys, GLOBAL const Kept *values,
       GLOBAL const float *q, GLOBAL const float *slopes, GLOBAL float *out, GLOBAL float *parts,
       NUMBER(int, sloped), NUMBER(int, spread), NUMBER(int, heads), NUMBER(int, key_heads),
       NUMBER(int, width), NUMBER(int, window), NUMBER(int, context), NUMBER(float, scale),
       NUMBER(float, cap)) {
    LOCAL float weights[CHUNK];
    LOCAL float tallies[TALLIES];
    int head = GROUP(1), row = GROUP(2), position = POSITION(step, row);
    int place = SLOT(step, row) * key_heads + head / (heads / key_heads);
    int begin = FIRST_SEEN(position), end = position + 1, chunks = (context + CHUNK - 1) / CHUNK;
    int chunk = spread ? GROUP(0) : begin / CHUNK;
    int last = spread ? chunk : position / CHUNK;
    float slope = sloped ? slopes[head] * scale : 0.0f;
    q += (row * heads + head) * width;
    out += (row * heads + head) * width;
    keys += place * context * width;
    values += place * context * PADDED(width);
    float joined_peak = 0.0f, joined_total = 0.0f;
    // All work items of a group see the same chunks.
    for (; chunk <= last && chunk * CHUNK < end && (chunk + 1) * CHUNK > begin; chunk++) {
        int base = chunk * CHUNK, count = end - base < CHUNK ? end - base : CHUNK;
        for (int i = ITEM * WIDE; i < count; i += ATTEND_ITEMS * WIDE) {
            int at = base + i;
            GLOBAL const Kept *key =
                keys + at / BESIDE_KEYS * BESIDE_KEYS * width + at % BESIDE_KEYS;
            Floats products = SPLAT(0.0f);
            for (int c = 0; c < width; c++)
                products = FMA(SPLAT(q[c] * scale), LOAD_KEPT(key + c * BESIDE_KEYS), products);
            STORE_FLOATS(products, weights + i);
        }
        BARRIER;
        if (ITEM < TALLIES) {
            float peak = -INFINITY;
            for (int i = ITEM; i < count; i += TALLIES) {
                int at = base + i;
                float score = weights[i];
                if (cap != 0.0f) score = TANH(score / cap) * cap;
                score = FMA((float)(at - position), slope, score);
                score = at >= begin ? score : -INFINITY;
                weights[i] = score;
                peak = fmax(peak, score);
            }
            tallies[ITEM] = peak;
        }
        BARRIER;
        float peak = tallies[0];
        for (int i = 1; i < TALLIES; i++) peak = fmax(peak, tallies[i]);
        BARRIER;
        if (ITEM < TALLIES) {
            float total = 0.0f;
            for (int i = ITEM; i < count; i += TALLIES) {
                float weight = EXP(weights[i] - peak);
                weights[i] = weight;
                total += weight;
            }
            tallies[ITEM] = total;
        }
        BARRIER;
        float total = 0.0f;
        for (int i = 0; i < TALLIES; i++) total += tallies[i];

        int first = base > begin ? base : begin, after = base + count;
        GLOBAL float *part = parts + ((row * heads + head) * chunks + chunk) * (HEADER + width);
        float new_peak = joined_total > 0.0f ? fmax(joined_peak, peak) : peak;
        float old_factor = joined_total > 0.0f ? EXP(joined_peak - new_peak) : 0.0f;
        float new_factor = EXP(peak - new_peak);
        float new_total = JOIN_SUM(joined_total, old_factor, total, new_factor);
        for (int c = ITEM * WIDE; c < width; c += ATTEND_ITEMS * WIDE) {
            Floats sums = SPLAT(0.0f);
            for (int at = first; at < after; at++)
                sums = FMA(SPLAT(weights[at - base]), LOAD_KEPT(values + at * PADDED(width) + c),
                           sums);
            float sum[WIDE];
            STORE_FLOATS(sums, sum);
            for (int i = 0; i < WIDE && c + i < width; i++) {
                if (spread)
                    part[HEADER + c + i] = sum[i];
                else {
                    float before = joined_total > 0.0f ? out[c + i] : 0.0f;
                    float whole = JOIN_SUM(before, old_factor, sum[i], new_factor);
                    out[c + i] = chunk == last ? whole / new_total : whole;
                }
            }
        }
        if (spread && ITEM == 0) {
            part[0] = peak;
            part[1] = total;
        }
        joined_peak = new_peak;
        joined_total = new_total;
        BARRIER;  // before the next chunk's scores
    }
}

// edge_attend_merge: joins what `attend` has left in `parts`, in order. Launched over (1, heads, rows).
KERNEL(edge_attend_merge, GLOBAL const int *step, GLOBAL float *out, GLOBAL const float *parts,
       NUMBER(int, heads), NUMBER(int, width), NUMBER(int, window), NUMBER(int, context)) {
    int head = GROUP(1), row = GROUP(2), position = POSITION(step, row);
    int first = FIRST_SEEN(position) / CHUNK, last = position / CHUNK;
    int chunks = (context + CHUNK - 1) / CHUNK;
    out += (row * heads + head) * width;
    parts += (row * heads + head) * chunks * (HEADER + width);
    for (int c = ITEM; c < width; c += ATTEND_ITEMS) {
        float joined_peak = 0.0f, joined_total = 0.0f, sum = 0.0f;
        for (int chunk = first; chunk <= last; chunk++) {
            GLOBAL const float *part = parts + chunk * (HEADER + width);
            float peak = joined_total > 0.0f ? fmax(joined_peak, part[0]) : part[0];
            float old_factor = joined_total > 0.0f ? EXP(joined_peak - peak) : 0.0f;
            float new_factor = EXP(part[0] - peak);
            sum = JOIN_SUM(sum, old_factor, part[HEADER + c], new_factor);
            joined_total = JOIN_SUM(joined_total, old_factor, part[1], new_factor);
            joined_peak = peak;
        }
        out[c] = sum / joined_total;
    }
}
