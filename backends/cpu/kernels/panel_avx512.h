// AVX-512: a register holds two groups of rows, here a pair. Operations and their order are those
// of multiply_block.
#pragma once

// A panel is two pairs, and a tile of it is those by six rows of activations, so that each
// activation and each code that is loaded is used several times.
enum { PAIRS = 2, PANEL_GROUPS = 2 * PAIRS, PANEL_TILE_ROWS = 6 };

typedef struct {
    __m512i code[8];
    __m512 scale[2], minimum[2];
} Pair;

typedef struct {
    Pair pair[PAIRS];
} PanelBlock;

INLINE void place(PanelBlock *panel, int group, Block block, Layout layout) {
    Pair *pair = &panel->pair[group / 2];
    int half = group % 2;
    for (int v = 0; v < 8; v++) memcpy((Bytes *)&pair->code[v] + half, &block.code[v], 32);
    for (int s = 0; s < (layout.halves ? 2 : 1); s++) {
        memcpy((Floats *)&pair->scale[s] + half, &block.scale[s], 32);
        if (layout.minimum) memcpy((Floats *)&pair->minimum[s] + half, &block.minimum[s], 32);
    }
}

INLINE void multiply_pairs(__m512 (*y)[PAIRS], const Pair *pair, int pairs, Activations x,
                           int64_t b, int rows, Layout layout) {
    int scales = layout.halves ? 2 : 1, codes = 8 / scales;
    for (int s = 0; s < scales; s++) {
        __m512i sum[MOST_ROWS][PAIRS];
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < pairs; p++)
                sum[r][p] = _mm512_set1_epi32(-layout.offset * total(x, r, b, layout, s));
#pragma clang loop unroll(full)
        for (int i = s * codes; i < (s + 1) * codes; i++)
            for (int r = 0; r < rows; r++) {
                __m512i inputs = _mm512_set1_epi32(four(x.code + r * x.stride + b * 32 + i * 4));
                for (int p = 0; p < pairs; p++)
                    sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], pair[p].code[i], inputs);
            }
        for (int r = 0; r < rows; r++) {
            __m512 scale = _mm512_set1_ps(row_float(x.scale, x.stride, r, b));
            for (int p = 0; p < pairs; p++)
                y[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][p]),
                                          _mm512_mul_ps(pair[p].scale[s], scale), y[r][p]);
        }
    }
    for (int s = 0; layout.minimum && s < scales; s++)
        for (int r = 0; r < rows; r++) {
            __m512 shifted = _mm512_set1_ps(shift(x, r, b, layout, s));
            for (int p = 0; p < pairs; p++)
                y[r][p] = _mm512_fmadd_ps(pair[p].minimum[s], shifted, y[r][p]);
        }
}

// sums[r] += what `blocks` blocks of a panel, from number `first` on, contribute to row r.
INLINE void multiply_panel(const PanelBlock *panel, int64_t first, int64_t blocks, Activations x,
                           Floats (*sums)[PANEL_GROUPS], int rows, Layout layout) {
    __m512 y[MOST_ROWS][PAIRS];
    memcpy(y, sums, (size_t)rows * sizeof *y);
    for (int64_t b = 0; b < blocks; b++)
        multiply_pairs(y, panel[b].pair, PAIRS, x, first + b, rows, layout);
    memcpy(sums, y, (size_t)rows * sizeof *y);
}

enum { DIRECT_GROUPS = 2, DIRECT_TILE_ROWS = 6 };

INLINE __m512i join(Bytes a, Bytes b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)a), (__m256i)b, 1);
}

INLINE __m512 join_floats(Floats a, Floats b) {
    return _mm512_insertf32x8(_mm512_castps256_ps512((__m256)a), (__m256)b, 1);
}

INLINE void read_pair(Pair *pair, int format, const uint8_t *w, int64_t bytes, int part) {
    const Layout layout = LAYOUTS[format];
    Block a, b;
    read_block(&a, format, w, part);
    read_block(&b, format, w + bytes, part);
    for (int v = 0; v < 8; v++) pair->code[v] = join(a.code[v], b.code[v]);
    for (int s = 0; s < (layout.halves ? 2 : 1); s++) {
        pair->scale[s] = join_floats(a.scale[s], b.scale[s]);
        if (layout.minimum) pair->minimum[s] = join_floats(a.minimum[s], b.minimum[s]);
    }
}

// y[r][g] = the products of group g, `bytes` after the one before, with row r.
INLINE void multiply_groups(Floats (*y)[DIRECT_GROUPS], int format, const uint8_t *w, int64_t bytes,
                            int64_t k, Activations x, int rows, bool from_memory) {
    if (rows == 1) {
        // One row waits for memory alone, which is fastest as one stream: a group, then the next.
        for (int g = 0; g < DIRECT_GROUPS; g++)
            multiply_group(&y[0][g], format, w + g * bytes, k, x, 1, from_memory);
        return;
    }
    const Layout layout = LAYOUTS[format];
    int parts = layout.inputs / 32, step = layout.bytes / parts;
    __m512 sums[MOST_ROWS][PAIRS];
    for (int r = 0; r < rows; r++) sums[r][0] = _mm512_setzero_ps();
    for (int64_t b = 0; b < k / 32; b += parts, w += layout.bytes)
        for (int part = 0; part < parts; part++) {
            // The next pair is fetched from its beginning to its end, also as one stream.
            if (from_memory)
                fetch(w, 2 * bytes + (b / parts) * layout.bytes + part * 2 * step, 2 * step);
            Pair pair;
            read_pair(&pair, format, w, bytes, part);
            multiply_pairs(sums, &pair, 1, x, b + part, rows, layout);
        }
    for (int r = 0; r < rows; r++) memcpy(y[r], &sums[r][0], sizeof sums[r][0]);
}
