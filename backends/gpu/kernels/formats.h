// The formats that weights are packed in (edgellm/packing.py describes them), one of which FORMAT
// names. Matrices are read as words of four bytes.
//
// UNIT_INPUTS inputs make a unit, which a work item multiplies at a time: for each WIDE rows from
// `first` on `multiply` adds their products with the inputs of ROWS rows `x` to `sums`.
#define F32 0
#define F16 1
#define BF16 2
#define Q4_0 3
#define Q5_0 4
#define Q8_0 5
#define Q4_1 6
#define Q5_1 7
#define Q4_K 8
#define Q5_K 9
#define Q6_K 10
#define Q2_K 11
#define IQ4_NL 12
#define IQ4_XS 13

// Words of a block; those before its codes; in blocks of 256 inputs, those of the codes of a unit.
#if FORMAT == F32
#define BLOCK_WORDS 8
#elif FORMAT == F16 || FORMAT == BF16
#define BLOCK_WORDS 4
#elif FORMAT == Q4_0 || FORMAT == IQ4_NL
#define BLOCK_WORDS 36
#define CODES 4
#elif FORMAT == Q5_0
#define BLOCK_WORDS 44
#define CODES 4
#elif FORMAT == Q8_0
#define BLOCK_WORDS 68
#define CODES 4
#elif FORMAT == Q4_1
#define BLOCK_WORDS 40
#define CODES 8
#elif FORMAT == Q5_1
#define BLOCK_WORDS 48
#define CODES 8
#elif FORMAT == Q4_K
#define BLOCK_WORDS 296
#define CODES 40
#define SUB_WORDS 32
#elif FORMAT == Q5_K
#define BLOCK_WORDS 360
#define CODES 40
#define SUB_WORDS 40
#elif FORMAT == Q6_K
#define BLOCK_WORDS 420
#define CODES 36
#define SUB_WORDS 48
#elif FORMAT == Q2_K
#define BLOCK_WORDS 168
#define CODES 40
#define SUB_WORDS 16
#elif FORMAT == IQ4_XS
#define BLOCK_WORDS 276
#define CODES 20
#define SUB_WORDS 32
#endif

#if FORMAT <= BF16
#define UNIT_INPUTS 1
#else
#define UNIT_INPUTS 32
#endif
#ifdef SUB_WORDS
#define UNITS 8  // of a block
#else
#define UNITS 1
#define SUB_WORDS 0
#endif
#define HAS_MINIMUM \
    (FORMAT == Q4_1 || FORMAT == Q5_1 || FORMAT == Q4_K || FORMAT == Q5_K || FORMAT == Q2_K)
#define HAS_FIFTH (FORMAT == Q5_0 || FORMAT == Q5_1 || FORMAT == Q5_K)
#define HAS_LEVELS (FORMAT == IQ4_NL || FORMAT == IQ4_XS)
#if FORMAT == Q4_0 || HAS_LEVELS
#define OFFSET 8.0f
#elif FORMAT == Q5_0
#define OFFSET 16.0f
#elif FORMAT == Q6_K
#define OFFSET 32.0f
#else
#define OFFSET 0.0f
#endif

#define HALVES(p) ((GLOBAL const ushort *)(p))
#define BYTES(p) ((GLOBAL const uchar *)(p))

// The level of IQ4 that a code stands for. They lie so near a polynomial that rounding gives them
// exactly (the largest distance is 0.45), and no device has to look numbers up one by one.
#if HAS_LEVELS
Floats level(Floats code) {
    Floats y = FMA(code, SPLAT(0.00159f), SPLAT(0.0818f));
    y = FMA(y, code, SPLAT(-0.017f));
    y = FMA(y, code, SPLAT(11.44f));
    y = FMA(y, code, SPLAT(1.43f));
    return y + SPLAT(12582912.0f) - SPLAT(12582912.0f);  // 1.5 * 2^23: no bit is left for fractions
}
#else
#define level(code) (code)
#endif
