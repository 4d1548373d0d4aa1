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

#if FORMAT == F32
#define BLOCK_WORDS 8
#elif FORMAT == F16 || FORMAT == BF16
#define BLOCK_WORDS 4
#elif FORMAT == Q4_0
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
#define SUB_WORDS 32
#elif FORMAT == Q5_K
#define BLOCK_WORDS 360
#define SUB_WORDS 40
#elif FORMAT == Q6_K
#define BLOCK_WORDS 420
#define SUB_WORDS 48
#endif

#if FORMAT <= BF16
#define UNIT_INPUTS 1
#else
#define UNIT_INPUTS 32
#endif
#if FORMAT >= Q4_K
#define UNITS 8  // of a block
#if FORMAT == Q6_K
#define CODES 36  // words before the first codes
#else
#define CODES 40
#endif
#else
#define UNITS 1
#define SUB_WORDS 0
#endif
#define HAS_MINIMUM (FORMAT == Q4_1 || FORMAT == Q5_1 || FORMAT == Q4_K || FORMAT == Q5_K)
#define HAS_FIFTH (FORMAT == Q5_0 || FORMAT == Q5_1 || FORMAT == Q5_K)
#if FORMAT == Q4_0
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
