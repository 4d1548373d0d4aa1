// edge_embed: one row of a packed matrix for each row of the step: its token's, or its position's.
// `step`; out f32 [width] for each row; the matrix, its width and length; 1 where positions say
// which row, else 0. Launched over (width, rows), a work item a column. Of a token that the matrix
// hasn't, its last row.
float element(GLOBAL const uint *block, int unit, int r, int i) {
#if FORMAT == F32
    return AS_FLOAT(block[r]);
#elif FORMAT == F16
    return FLOAT_OF_HALF(HALVES(block), r);
#elif FORMAT == BF16
    return AS_FLOAT((uint)HALVES(block)[r] << 16u);
#else
    GLOBAL const uint *codes = block + CODES + unit * SUB_WORDS + r;
    float d = FLOAT_OF_HALF(HALVES(block), r);
    int byte = i & 3, lane = i >> 2;
#if FORMAT == Q8_0
    return d * (float)((int)(codes[lane * GROUP_ROWS] << (uint)(24 - 8 * byte)) >> 24);
#elif FORMAT == Q2_K
    int half_ = i < 16 ? 0 : 1;
    uint code = (codes[half_ * GROUP_ROWS] >> (uint)(8 * byte + 2 * (lane & 3))) & 3u;
    uint factors = block[8 + unit / 2 * GROUP_ROWS + r] >> (uint)(unit % 2 * 16 + half_ * 8);
    float shift = FLOAT_OF_HALF(HALVES(block + 4), r) * (float)((factors >> 4u) & 15u);
    return d * (float)(factors & 15u) * (float)code - shift;
#else
    int nibble = i < 16 ? 0 : 4;
    uint code = (codes[(lane & 3) * GROUP_ROWS] >> (uint)(8 * byte + nibble)) & 15u;
#if HAS_FIFTH
    code |= ((codes[4 * GROUP_ROWS] >> (uint)(8 * byte + lane)) & 1u) << 4u;
#elif FORMAT == Q6_K
    int half_ = i < 16 ? 0 : 1;
    code |= ((codes[(4 + half_) * GROUP_ROWS] >> (uint)(8 * byte + 2 * (lane & 3))) & 3u) << 4u;
    int factor = BYTES(block + 4)[(2 * unit + half_) * GROUP_ROWS + r];
    d *= (float)(factor < 128 ? factor : factor - 256);
#elif FORMAT == IQ4_XS
    int factor = BYTES(block + 4)[unit * GROUP_ROWS + r];
    d *= (float)(factor < 128 ? factor : factor - 256);
#endif
#if FORMAT == Q4_K || FORMAT == Q5_K
    d *= (float)BYTES(block + 8)[unit * GROUP_ROWS + r];
    float shift = FLOAT_OF_HALF(HALVES(block + 4), r);
    return d * (float)code - shift * (float)BYTES(block + 24)[unit * GROUP_ROWS + r];
#elif HAS_MINIMUM
    return d * (float)code + FLOAT_OF_HALF(HALVES(block + 4), r);
#else
    return d * level((float)code - OFFSET);
#endif
#endif
#endif
}

KERNEL(edge_embed, GLOBAL const int *step, GLOBAL float *out, GLOBAL const uint *matrix,
       NUMBER(int, width), NUMBER(int, length), NUMBER(int, by_position)) {
    int column = INDEX, row = GROUP(1);
    if (column >= width) return;
    int place = by_position ? POSITION(step, row) : TOKEN(step, row);
    place = place < 0 || place >= length ? length - 1 : place;
    int unit = column / UNIT_INPUTS, units = width / UNIT_INPUTS;
    GLOBAL const uint *block =
        matrix + (place / GROUP_ROWS * (units / UNITS) + unit / UNITS) * BLOCK_WORDS;
    out[row * width + column] =
        element(block, unit % UNITS, place % GROUP_ROWS, column % UNIT_INPUTS);
}
