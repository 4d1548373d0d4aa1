// edge_attend and edge_attend_merge: attention of each row to its own slot's past.
// buffers: out f32 [H * C], state (state.h), queries f32 [H * C], slopes f32 [H] or NULL;
// numbers: H, K, C (at most 4,096), window (0 for none: how many positions back a row sees, itself
// included); reals: scale of the scores, softcap (0 for none).
// score = cap * tanh(q . k * scale / cap) - slope * distance * scale; out = softmax(score) . v
//
// Positions are taken in chunks of 256. Each chunk is computed by itself and then joined to those
// before it, in order, so it makes no difference who computes which. A few rows (decoding) are
// spread over chunks, whose results edge_attend_merge joins: call it with the same arguments next,
// on the same scratch memory. Many rows (a prompt) are cut into tiles of rows that share their keys
// and values, joined on the way; then edge_attend_merge does nothing.
#include "product.h"
#include "state.h"

enum {
    CHUNK = 256,
    QUERIES = 16,         // most of a part: of as many rows, or heads with the same keys, as fit
    QUERY_VALUES = 4096,  // and most of their channels, which are kept on the stack
    SPREAD_ROWS = 8,
    PARTS_A_THREAD = 8,   // or fewer, so that a part has chunks in sequence
    HEADER = LANES,  // floats before a chunk's sums in scratch: its peak and total
};

typedef struct {
    StateShape state;
    int64_t heads, group, padded;          // H, heads with the same keys, C in whole vectors
    int64_t tile_rows, tile_heads;         // of a part
    int64_t tiles, blocks;                 // of rows, of a group's heads
    int64_t stride;                        // chunks of a slot
    int spread;
    int64_t first_chunk, end_chunk, span, spans;  // if spread: those seen, how many a part takes
} Plan;

// The positions that a row sees.
typedef struct {
    int64_t first, end;
} Span;

static Span span_of(const Call *call, const Step *step, int64_t row) {
    int64_t position = step->positions[row], window = call->numbers[3];
    return (Span){window && position >= window ? position - window + 1 : 0, position + 1};
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

// The plan as far as it doesn't depend on positions.
static Plan outline(const Call *call, const Step *step) {
    Plan p = {.state = {call->numbers[1], call->numbers[2], step->context, step->kv_int8}};
    p.heads = call->numbers[0];
    p.group = p.heads / p.state.heads;
    p.padded = pieces(p.state.width, LANES) * LANES;
    int64_t queries = most(least(QUERIES, QUERY_VALUES / p.padded), 1);
    p.tile_heads = least(p.group, queries);
    p.tile_rows = queries / p.tile_heads;
    p.blocks = pieces(p.group, p.tile_heads);
    p.tiles = pieces(step->rows, p.tile_rows);
    p.stride = pieces(step->context, CHUNK);
    return p;
}

static Plan plan(const Call *call, const Step *step) {
    Plan p = outline(call, step);
    if (step->rows <= SPREAD_ROWS) {
        Span seen = span_of(call, step, 0);
        for (int64_t row = 1; row < step->rows; row++) {
            Span span = span_of(call, step, row);
            seen = (Span){least(seen.first, span.first), most(seen.end, span.end)};
        }
        p.first_chunk = seen.first / CHUNK;
        p.end_chunk = pieces(seen.end, CHUNK);
        int64_t chunks = p.end_chunk - p.first_chunk, parts = p.tiles * p.state.heads * p.blocks;
        p.span = pieces(chunks, least(chunks, pieces(PARTS_A_THREAD * step->threads, parts)));
        p.spans = pieces(chunks, p.span);
        p.spread = chunks > 1;
    }
    return p;
}

// --- what one chunk gives, and its joining to those before ---------------------------------------

typedef struct {
    float peak, total;  // the largest score, the sum of e^(score - peak)
    float *sums;        // of e^(score - peak) * v, [padded]
} Partial;

static float *scratch_of(const Plan *p, const Step *step, int64_t row, int64_t head, int64_t chunk) {
    return (float *)step->scratch +
           ((row * p->heads + head) * p->stride + chunk) * (p->padded + HEADER);
}

INLINE void join(Partial *to, const Partial *next, int64_t padded, int first) {
    if (first) {
        memcpy(to->sums, next->sums, padded * sizeof(float));
        to->peak = next->peak;
        to->total = next->total;
        return;
    }
    float peak = to->peak > next->peak ? to->peak : next->peak;
    Floats before = exponential((Floats)(to->peak - peak));
    Floats after = exponential((Floats)(next->peak - peak));
    for (int64_t c = 0; c < padded; c += LANES)
        store(to->sums + c, madd(load(to->sums + c), before, load(next->sums + c) * after));
    to->total = to->total * before[0] + next->total * after[0];
    to->peak = peak;
}

INLINE void finish(const Partial *joined, float *out, int64_t width) {
    float factor = 1.0f / joined->total;
    for (int64_t c = 0; c < width; c += LANES)
        store_some(out + c, load(joined->sums + c) * factor, width - c);
}

// --- one chunk -----------------------------------------------------------------------------------

// Up to QUERIES queries that share their keys: rows `first_row` on, all of one slot, of each the
// heads from `first_head` on.
typedef struct {
    int64_t first_row, rows, first_head, heads;
    HeadState past;
    float queries[QUERY_VALUES];  // [query][padded], scaled
    float weights[QUERIES * CHUNK];
    float sums[QUERY_VALUES];
    float joined_sums[QUERY_VALUES];
    Partial partials[QUERIES], joined[QUERIES];  // of one chunk, of all so far
} Tile;

INLINE Floats lanes_from(int64_t first) {
    const Ints count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return __builtin_convertvector(count + (int32_t)first, Floats);
}

// Turns products of one query and the keys from `begin` (a multiple of 16) on into weights, for
// the positions of `seen`; all other weights become 0.
INLINE Partial weigh(const Call *call, int64_t position, int64_t head, Span seen, int64_t begin,
                     int64_t end, const HeadState *past, float *weights) {
    float cap = call->reals[1];
    float slope = call->buffers[3] ? ((float *)call->buffers[3])[head] * call->reals[0] : 0.0f;
    Floats peaks = -__builtin_inff();
    for (int64_t at = begin; at < end; at += LANES) {
        Floats score = load(weights + at - begin);
        if (past->key_scales) score *= load_halves(past->key_scales + at);
        if (cap != 0.0f) score = hyperbolic_tangent(score * (1.0f / cap)) * cap;
        if (slope != 0.0f) score += lanes_from(at - position) * slope;
        if (at < seen.first || at + LANES > seen.end) {
            Floats place = lanes_from(at);
            score = place >= (float)seen.first ? score : -__builtin_inff();
            score = place < (float)seen.end ? score : -__builtin_inff();
        }
        store(weights + at - begin, score);
        peaks = larger(peaks, score);
    }
    Partial partial = {.peak = largest(peaks)};
    Floats total = 0.0f;
    for (int64_t at = begin; at < end; at += LANES) {
        Floats weight = exponential(load(weights + at - begin) - partial.peak);
        total += weight;
        if (past->value_scales) weight *= load_halves(past->value_scales + at);
        store(weights + at - begin, weight);
    }
    partial.total = sum(total);
    return partial;
}

// Fills `partials`; a query that sees nothing of the chunk gets a total of 0.
INLINE void attend_chunk(const Plan *p, const Call *call, const Step *step, Tile *tile,
                         int64_t chunk, int more, int int8) {
    int64_t width = p->state.width, queries = tile->rows * tile->heads;
    int64_t element = int8 ? 1 : sizeof(uint16_t);
    Span whole = {chunk * CHUNK, chunk * CHUNK + CHUNK}, seen = {whole.end, whole.first};
    for (int64_t row = tile->first_row; row < tile->first_row + tile->rows; row++) {
        Span span = span_of(call, step, row);
        seen.first = least(seen.first, most(span.first, whole.first));
        seen.end = most(seen.end, least(span.end, whole.end));
    }
    for (int64_t i = 0; i < queries; i++) tile->partials[i].total = 0.0f;
    if (seen.first >= seen.end) return;
    int64_t begin = seen.first / LANES * LANES;

    product(int8, &(Product){
        .left = tile->queries, .left_step = p->padded,
        .right = tile->past.keys + begin * width * element,
        .right_step = LANES, .vector_step = LANES * width,
        .out = tile->weights, .out_step = CHUNK,
        .rows = queries, .vectors = pieces(seen.end - begin, LANES), .depth = width,
        .next = tile->past.values - tile->past.keys,
    });
    for (int64_t i = 0; i < queries; i++) {
        int64_t row = tile->first_row + i / tile->heads, head = tile->first_head + i % tile->heads;
        Span span = span_of(call, step, row);
        if (span.first >= whole.end || span.end <= whole.first) continue;
        tile->partials[i] = weigh(call, step->positions[row], head, span, begin, seen.end,
                                  &tile->past, tile->weights + i * CHUNK);
        tile->partials[i].sums = tile->sums + i * p->padded;
    }
    // A later row's positions weigh 0 for an earlier one: adding 0 * v changes nothing, since only
    // finite values are stored.
    product(int8, &(Product){
        .left = tile->weights, .left_step = CHUNK,
        .right = tile->past.values + begin * width * element,
        .right_step = width, .vector_step = LANES,
        .out = tile->sums, .out_step = p->padded,
        .rows = queries, .vectors = p->padded / LANES, .depth = seen.end - begin,
        // The next chunk's keys, wherever this thread goes on to them.
        .next = more ? tile->past.keys - tile->past.values + CHUNK * width * element : 0,
    });
}

// Separate functions, so that each is compiled for its own kind of state.
WIDE static __attribute__((noinline)) void attend_halves(
    const Plan *p, const Call *call, const Step *step, Tile *tile, int64_t chunk, int more) {
    attend_chunk(p, call, step, tile, chunk, more, 0);
}

WIDE static __attribute__((noinline)) void attend_bytes(
    const Plan *p, const Call *call, const Step *step, Tile *tile, int64_t chunk, int more) {
    attend_chunk(p, call, step, tile, chunk, more, 1);
}

// --- edge_attend ---------------------------------------------------------------------------------

// Attends with the tile's queries to chunks `begin` to `end`, leaving each result in scratch if the
// call is spread, and else the joined result in `out`.
INLINE void attend_tile(const Plan *p, const Call *call, const Step *step, Tile *tile,
                        int64_t begin, int64_t end) {
    int64_t width = p->state.width, queries = tile->rows * tile->heads;
    for (int64_t i = 0; i < queries; i++) {
        int64_t row = tile->first_row + i / tile->heads, head = tile->first_head + i % tile->heads;
        const float *query = (const float *)call->buffers[2] + (row * p->heads + head) * width;
        for (int64_t c = 0; c < width; c++)
            tile->queries[i * p->padded + c] = query[c] * call->reals[0];
        tile->joined[i] = (Partial){.sums = tile->joined_sums + i * p->padded};
    }
    for (int64_t chunk = begin; chunk < end; chunk++) {
        (p->state.int8 ? attend_bytes : attend_halves)(p, call, step, tile, chunk, chunk + 1 < end);
        for (int64_t i = 0; i < queries; i++) {
            const Partial *partial = &tile->partials[i];
            if (partial->total == 0.0f) continue;
            if (!p->spread) {
                join(&tile->joined[i], partial, p->padded, tile->joined[i].total == 0.0f);
                continue;
            }
            float *kept = scratch_of(p, step, tile->first_row + i / tile->heads,
                                     tile->first_head + i % tile->heads, chunk);
            kept[0] = partial->peak;
            kept[1] = partial->total;
            memcpy(kept + HEADER, partial->sums, p->padded * sizeof(float));
        }
    }
    for (int64_t i = 0; i < queries && !p->spread; i++) {
        int64_t row = tile->first_row + i / tile->heads, head = tile->first_head + i % tile->heads;
        finish(&tile->joined[i], (float *)call->buffers[0] + (row * p->heads + head) * width,
               width);
    }
}

static int parts_of_attend(const Call *call, const Step *step) {
    Plan p = plan(call, step);
    return (int)(p.tiles * p.state.heads * p.blocks * (p.spread ? p.spans : 1));
}

WIDE static void run_attend(const Call *call, const Step *step, int part, int parts) {
    Plan p = plan(call, step);
    int64_t rest = parts - 1 - part;  // from the end: the last rows see most and take longest
    int64_t begin = 0, end = 0;
    if (p.spread) {
        begin = p.first_chunk + rest % p.spans * p.span;
        end = least(begin + p.span, p.end_chunk);
        rest /= p.spans;
    }
    int64_t block = rest % p.blocks, key_head = rest / p.blocks % p.state.heads;
    int64_t row = rest / p.blocks / p.state.heads * p.tile_rows;
    int64_t end_row = least(row + p.tile_rows, step->rows);
    Tile tile;
    tile.first_head = key_head * p.group + block * p.tile_heads;
    tile.heads = least(p.tile_heads, p.group - block * p.tile_heads);
    while (row < end_row) {  // a tile for each slot
        int32_t slot = step->slots[row];
        tile.first_row = row;
        while (row < end_row && step->slots[row] == slot) row++;
        tile.rows = row - tile.first_row;
        tile.past = head_state(p.state, call->buffers[1], slot, key_head);
        if (!p.spread) {
            begin = span_of(call, step, tile.first_row).first / CHUNK;
            end = pieces(span_of(call, step, row - 1).end, CHUNK);
        }
        attend_tile(&p, call, step, &tile, begin, end);
    }
}

// Of any step with as many rows or fewer.
static size_t scratch_for_attend(const Call *call, const Step *step) {
    Plan p = outline(call, step);
    return (size_t)(least(step->rows, SPREAD_ROWS) * p.heads * p.stride * (p.padded + HEADER)) *
           sizeof(float);
}

const Kernel edge_attend = {parts_of_attend, run_attend, scratch_for_attend};

// --- edge_attend_merge ---------------------------------------------------------------------------

static int parts_of_merge(const Call *call, const Step *step) {
    return plan(call, step).spread ? step->rows * (int)call->numbers[1] : 1;
}

WIDE static void run_merge(const Call *call, const Step *step, int part, int parts) {
    (void)parts;
    Plan p = plan(call, step);
    if (!p.spread) return;
    int64_t row = part / p.state.heads, first = part % p.state.heads * p.group;
    Span seen = span_of(call, step, row);
    for (int64_t head = first; head < first + p.group; head++) {
        Partial joined = {0};
        for (int64_t chunk = seen.first / CHUNK; chunk * CHUNK < seen.end; chunk++) {
            float *kept = scratch_of(&p, step, row, head, chunk);
            Partial next = {kept[0], kept[1], kept + HEADER};
            if (joined.sums)
                join(&joined, &next, p.padded, 0);
            else
                joined = next;  // the first chunk's place serves for the joined result
        }
        finish(&joined, (float *)call->buffers[0] + (row * p.heads + head) * p.state.width,
               p.state.width);
    }
}

const Kernel edge_attend_merge = {parts_of_merge, run_merge, scratch_for_attend};
