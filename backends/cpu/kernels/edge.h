// What every kernel sees: the step that is being computed, and its own call in that step.
//
// A step feeds some rows (one token each) to the model. Rows may belong to one sequence, to several,
// or both; each has its own position and slot. Every kernel computes each row from that row alone
// and from what its slot remembers, with the same arithmetic in the same order however many rows
// there are and however the work is split: a row's result doesn't depend on its neighbours.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { EDGE_BUFFERS = 16, EDGE_NUMBERS = 16, EDGE_REALS = 4 };

typedef struct {
    int32_t rows;              // in this step, at least 1
    int32_t threads;           // that take part
    const int32_t *tokens;     // [rows]
    const int32_t *positions;  // [rows], each below `context`; rows of one slot stand in order
    const int32_t *slots;      // [rows]
    int32_t context;           // positions that a slot has room for, a multiple of 16
    int32_t slot_count;
    int32_t kv_int8;           // 1 where keys and values are kept as int8, 0 for float16
    int32_t from_memory;       // 1 where weights are worth fetching ahead, 0 where a cache holds all
    void *scratch;             // for a kernel's own use during its call, 64-byte aligned
    size_t scratch_bytes;
} Step;

typedef struct {
    void *buffers[EDGE_BUFFERS];     // what they are, the kernel says; NULL where optional
    int64_t numbers[EDGE_NUMBERS];
    float reals[EDGE_REALS];
} Call;

// A kernel's work is cut into parts, which run in any order and at once. `parts` tells how many
// (at least 1; the caller does more than 65,535 alone); `run` does number `part` of them.
typedef struct {
    int (*parts)(const Call *call, const Step *step);
    void (*run)(const Call *call, const Step *step, int part, int parts);
    size_t (*scratch)(const Call *call, const Step *step);  // bytes; NULL where none is needed
} Kernel;

// How weights are packed: edgellm/packing.py describes the layouts and writes them.
typedef enum {
    FORMAT_F32 = 0, FORMAT_F16 = 1, FORMAT_BF16 = 2,
    FORMAT_Q4_0 = 3, FORMAT_Q5_0 = 4, FORMAT_Q8_0 = 5, FORMAT_Q4_1 = 6, FORMAT_Q5_1 = 7,
    FORMAT_Q4_K = 8, FORMAT_Q5_K = 9, FORMAT_Q6_K = 10,
    FORMAT_Q2_K = 11, FORMAT_IQ4_NL = 12, FORMAT_IQ4_XS = 13,
} Format;

// Activations quantised for the integer formats, one row: K values in blocks of 32,
// x = scale * code, |code| <= 127, scale = max |x| / 127 of its block.
//   int8_t code[K]; float scale[K/32]; int32_t sum[K/32]; int32_t half[K/32];
// `sum` adds a block's codes, `half` those of its first 16. Rows are padded to 64 bytes.
static inline size_t quantised_row_bytes(int64_t k) { return (size_t)((k + k / 32 * 12 + 63) & ~63LL); }
