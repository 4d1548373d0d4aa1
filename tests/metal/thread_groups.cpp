// Threads are fibers that change places where they wait for each other, so all run on one processor,
// forwards or backwards, never as on a real device: what they share must be right in any order.
#include "thread_groups.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace {

constexpr size_t STACK = 128 << 10;

struct Fiber {
    enum State { READY, AT_BARRIER, IN_EXCHANGE, DONE } state;
    int line;
    bool started = false;
    jmp_buf place;
    ucontext_t context;
    void *stack = nullptr;
    MetalThread thread;
    unsigned round;  // of exchanges
};

const MetalKernel *kernel;
void *const *bound;
std::vector<Fiber> fibers;
unsigned current, count;
jmp_buf scheduler;
char values[2][1024 * SIMD_VALUE];  // of the last exchange and the one before

// A fiber lives on after its thread has ended, to run another.
void live() {
    for (;;) {
        Fiber &fiber = fibers[current];
        kernel->run(bound, &fiber.thread);
        fiber.state = Fiber::DONE;
        if (!_setjmp(fiber.place)) _longjmp(scheduler, 1);
    }
}

void resume(unsigned index) {
    current = index;
    if (_setjmp(scheduler)) return;
    Fiber &fiber = fibers[index];
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    if (!fiber.stack)
        fiber.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, live, 0);
    setcontext(&fiber.context);
}

void wait(Fiber::State state, int line) {
    Fiber &fiber = fibers[current];
    fiber.state = state;
    fiber.line = line;
    if (!_setjmp(fiber.place)) _longjmp(scheduler, 1);
}

void barrier(int line) { wait(Fiber::AT_BARRIER, line); }

// A lane may be one exchange ahead of another, so that two places are enough.
const char *exchange(const void *value, unsigned bytes, int line) {
    Fiber &fiber = fibers[current];
    char *row = values[fiber.round++ % 2];
    if (bytes) memcpy(row + current * SIMD_VALUE, value, bytes);
    unsigned first = current / SIMD_WIDTH * SIMD_WIDTH;
    wait(Fiber::IN_EXCHANGE, line);
    return row + first * SIMD_VALUE;
}

unsigned lane() { return current % SIMD_WIDTH; }

unsigned lanes() {
    unsigned first = current / SIMD_WIDTH * SIMD_WIDTH;
    return std::min<unsigned>(count - first, SIMD_WIDTH);
}

// Lets threads `first` to `end` go on where all wait at the same place.
bool together(unsigned first, unsigned end, Fiber::State state) {
    for (unsigned i = first; i < end; i++)
        if (fibers[i].state != state || fibers[i].line != fibers[first].line) return false;
    for (unsigned i = first; i < end; i++) fibers[i].state = Fiber::READY;
    return true;
}

std::string stuck() {
    char text[160];
    for (unsigned i = 0; i < count; i++)
        if (fibers[i].state != Fiber::DONE) {
            snprintf(text, sizeof text, "thread %u of %u waits %s (line %d), and not all others do", i,
                     count, fibers[i].state == Fiber::AT_BARRIER ? "at a barrier" : "for its simd-group",
                     fibers[i].line);
            return text;
        }
    return "";
}

std::string run_in_step(bool backwards) {
    for (;;) {
        for (unsigned i = 0; i < count; i++) {
            unsigned index = backwards ? count - 1 - i : i;
            if (fibers[index].state == Fiber::READY) resume(index);
        }
        bool freed = false;
        for (unsigned first = 0; first < count; first += SIMD_WIDTH) {
            unsigned end = std::min<unsigned>(first + SIMD_WIDTH, count);
            freed |= together(first, end, Fiber::IN_EXCHANGE);
        }
        if (!freed && !together(0, count, Fiber::AT_BARRIER)) return stuck();  // or done
    }
}

sigjmp_buf faulted;

void on_fault(int) { siglongjmp(faulted, 1); }

struct Guard {
    struct sigaction before[2];
#ifdef __SSE__
    // Apple's GPUs have no subnormal results either.
    unsigned rounding = _mm_getcsr();
#endif
    Guard() {
#ifdef __SSE__
        _mm_setcsr(rounding | _MM_FLUSH_ZERO_ON);
#endif
        struct sigaction action = {};
        action.sa_handler = on_fault;
        action.sa_flags = SA_NODEFER;
        sigaction(SIGSEGV, &action, &before[0]);
        sigaction(SIGBUS, &action, &before[1]);
    }
    ~Guard() {
#ifdef __SSE__
        _mm_setcsr(rounding);
#endif
        sigaction(SIGSEGV, &before[0], nullptr);
        sigaction(SIGBUS, &before[1], nullptr);
    }
};

std::string run_group(MetalThread thread, bool backwards) {
    // No value is there before it is written: NaN, in every kind of float.
    if (kernel->shared) memset(kernel->shared, 0xff, kernel->shared_end - kernel->shared);
    for (unsigned i = 0; i < count; i++) {
        unsigned index = backwards ? count - 1 - i : i;
        thread.local[0] = index % thread.size[0];
        thread.local[1] = index / thread.size[0] % thread.size[1];
        thread.local[2] = index / thread.size[0] / thread.size[1];
        if (!kernel->in_step) {
            kernel->run(bound, &thread);
            continue;
        }
        fibers[index].thread = thread;
        fibers[index].state = Fiber::READY;
        fibers[index].round = 0;
    }
    return kernel->in_step ? run_in_step(backwards) : "";
}

}  // namespace

const MetalSteps steps_of_threads = {barrier, exchange, lane, lanes};

std::string run_groups(const MetalKernel &which, void *const *buffers, const unsigned groups[3],
                       const unsigned size[3], unsigned order) {
    kernel = &which;
    bound = buffers;
    count = size[0] * size[1] * size[2];
    if (fibers.size() < count) {
        for (Fiber &fiber : fibers) fiber.started = false;  // they move
        fibers.resize(count);
    }
    Guard guard;
    if (sigsetjmp(faulted, 1)) {
        for (Fiber &fiber : fibers) fiber.started = false;
        return "a place out of a buffer";
    }
    MetalThread thread = {};
    memcpy(thread.groups, groups, sizeof thread.groups);
    memcpy(thread.size, size, sizeof thread.size);
    unsigned all = groups[0] * groups[1] * groups[2];
    for (unsigned i = 0; i < all; i++) {
        unsigned index = order & 2 ? all - 1 - i : i;
        thread.group[0] = index % groups[0];
        thread.group[1] = index / groups[0] % groups[1];
        thread.group[2] = index / groups[0] / groups[1];
        std::string fault = run_group(thread, order & 1);
        if (!fault.empty()) {
            for (Fiber &fiber : fibers) fiber.started = false;
            return fault;
        }
    }
    return "";
}
