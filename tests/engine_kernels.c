// Kernels that show how the engine runs parts: in `edge_kernels` below.
#include <stdatomic.h>
#include "edge.h"

static int as_told(const Call *call, const Step *step) {
    (void)step;
    return (int)call->numbers[0];
}

// buffers: int32 [parts]; numbers: parts. Counts how often each part is run.
static void count(const Call *call, const Step *step, int part, int parts) {
    (void)step;
    atomic_fetch_add((_Atomic int32_t *)call->buffers[0] + part, parts == call->numbers[0]);
}

// buffers: out uint32 [parts], in uint32 [parts]; numbers: parts. Each part reads all of `in`, so
// it shows whether the call before had ended.
static void mix(const Call *call, const Step *step, int part, int parts) {
    (void)step;
    const uint32_t *in = call->buffers[1];
    uint32_t sum = (uint32_t)part;
    for (int i = 0; i < parts; i++) sum = sum * 31 + in[i];
    ((uint32_t *)call->buffers[0])[part] = sum;
}

// numbers: parts, rounds. Takes time.
static void burn(const Call *call, const Step *step, int part, int parts) {
    (void)step, (void)part, (void)parts;
    for (volatile int64_t i = 0; i < call->numbers[1]; i++) {}
}

// buffers: uint64 [parts]; numbers: parts, rounds. As `burn`, and says which stack it ran on.
static void where(const Call *call, const Step *step, int part, int parts) {
    burn(call, step, part, parts);
    ((uint64_t *)call->buffers[0])[part] = (uint64_t)__builtin_frame_address(0) >> 20;
}

int sched_getcpu(void);

// buffers: int32 [parts]; numbers: parts, rounds. As `burn`, and says which processor it ran on.
static void processor(const Call *call, const Step *step, int part, int parts) {
    burn(call, step, part, parts);
    ((int32_t *)call->buffers[0])[part] = sched_getcpu();
}

static size_t told(const Call *call, const Step *step) { return call->numbers[1] * step->rows; }

static const Kernel COUNT = {as_told, count, NULL}, MIX = {as_told, mix, NULL};
static const Kernel BURN = {as_told, burn, told}, WHERE = {as_told, where, NULL};
static const Kernel PROCESSOR = {as_told, processor, NULL};

const Kernel *const *edge_kernels(void) {
    static const Kernel *const kernels[] = {&COUNT, &MIX, &BURN, &WHERE, &PROCESSOR};
    return kernels;
}
