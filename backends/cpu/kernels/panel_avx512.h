// Panels with AVX-512: a register holds two groups of rows, and a tile is two such registers by six
// rows of activations, so that each activation and each code that is loaded is used several times.
// Operations and their order are those of multiply_block.
#pragma once

enum { PANEL_GROUPS = 4, PAIRS = 2, PANEL_TILE_ROWS = 6 };

typedef struct {
    uint8_t code[8][PAIRS][64];
    float scale[2][PAIRS][16], minimum[PAIRS][16];
} PanelBlock;

INLINE void place(PanelBlock *panel, int group, Block block, Layout layout) {
    int pair = group / 2, half = group % 2;
    for (int v = 0; v < 8; v++) memcpy(panel->code[v][pair] + half * 32, &block.code[v], 32);
    for (int s = 0; s < (layout.halves ? 2 : 1); s++)
        memcpy(panel->scale[s][pair] + half * 8, &block.scale[s], 32);
    if (layout.minimum) memcpy(panel->minimum[pair] + half * 8, &block.minimum, 32);
}

INLINE void multiply_pairs(__m512 (*y)[PAIRS], const PanelBlock *block, Activations x, int64_t b,
                           int rows, Layout layout) {
    int scales = layout.halves ? 2 : 1, codes = 8 / scales;
    for (int s = 0; s < scales; s++) {
        __m512i sum[MOST_ROWS][PAIRS];
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PAIRS; p++)
                sum[r][p] = _mm512_set1_epi32(-layout.offset * total(x, r, b, layout, s));
#pragma clang loop unroll(full)
        for (int i = s * codes; i < (s + 1) * codes; i++)
            for (int r = 0; r < rows; r++) {
                __m512i four_inputs = _mm512_set1_epi32(four(x.code + r * x.stride + b * 32 + i * 4));
                for (int p = 0; p < PAIRS; p++)
                    sum[r][p] = _mm512_dpbusd_epi32(
                        sum[r][p], _mm512_loadu_si512(block->code[i][p]), four_inputs);
            }
        for (int r = 0; r < rows; r++) {
            __m512 scale = _mm512_set1_ps(row_float(x.scale, x.stride, r, b));
            for (int p = 0; p < PAIRS; p++)
                y[r][p] = _mm512_fmadd_ps(
                    _mm512_cvtepi32_ps(sum[r][p]),
                    _mm512_mul_ps(_mm512_loadu_ps(block->scale[s][p]), scale), y[r][p]);
        }
    }
    if (layout.minimum)
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PAIRS; p++)
                y[r][p] = _mm512_fmadd_ps(_mm512_loadu_ps(block->minimum[p]),
                                          _mm512_set1_ps(shift(x, r, b)), y[r][p]);
}

// sums[r] += what `blocks` blocks of a panel, from number `first` on, contribute to row r.
INLINE void multiply_panel(const PanelBlock *panel, int64_t first, int64_t blocks, Activations x,
                           Floats (*sums)[PANEL_GROUPS], int rows, Layout layout) {
    __m512 y[MOST_ROWS][PAIRS];
    memcpy(y, sums, (size_t)rows * sizeof *y);
    for (int64_t b = 0; b < blocks; b++)
        multiply_pairs(y, panel + b, x, first + b, rows, layout);
    memcpy(sums, y, (size_t)rows * sizeof *y);
}
