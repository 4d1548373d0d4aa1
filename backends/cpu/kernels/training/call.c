// One call at a time, from a function that tinygrad runs: it knows this one by its address.
#include "../edge.h"

typedef struct Pool Pool;
int edge_run(Pool *pool, const int32_t *which, const Call *calls, int count, Step *step,
             const volatile int32_t *cancel);

__attribute__((visibility("default"))) void edge_call(Pool *pool, int32_t which, const Call *call) {
    Step step = {.rows = 1};
    const int32_t never = 0;
    edge_run(pool, &which, call, 1, &step, &never);
}
