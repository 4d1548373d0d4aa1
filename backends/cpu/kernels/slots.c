// What whoever opens a model needs to know of slots' memory, and the copying of a slot's beginning.
#include "state.h"

#define EXPORT __attribute__((visibility("default")))

// Bytes that one attention layer takes for one slot.
EXPORT int64_t edge_state_bytes(int64_t heads, int64_t width, int64_t context, int int8) {
    return (int64_t)state_bytes((StateShape){heads, width, context, int8});
}

// Copy the first `length` positions of one slot to another in an attention layer's memory.
EXPORT void edge_copy_state(void *state, int64_t heads, int64_t width, int64_t context, int int8,
                            int64_t source, int64_t target, int64_t length) {
    copy_state((StateShape){heads, width, context, int8}, state, source, target, length);
}
