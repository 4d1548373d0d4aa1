// Runs one call of one kernel: reads it from standard input, writes its buffers to standard output.
// Linked with the kernel's object into an aarch64 program that needs no C library.
#include "edge.h"

extern const Kernel kernel;  // the linker is told which

enum { READ = 63, WRITE = 64, EXIT = 93, MMAP = 222, MPROTECT = 226 };  // Linux, every 64-bit Arm
enum { READABLE = 1, WRITABLE = 2, PRIVATE_ANONYMOUS = 0x22, PAGE = 65536 };

typedef struct {
    int32_t rows, threads, context, slot_count, kv_int8, unused;
    int64_t sizes[EDGE_BUFFERS];  // -1 for NULL
    Call call;                    // whose buffers are still to be set
} Order;

static long ask(long number, long a, long b, long c, long d) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = -1;
    register long x5 __asm__("x5") = 0;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

// What kernels use of the C library. The compiler would make calls of themselves of these loops.
#define PLAIN __attribute__((no_builtin))
PLAIN void *memcpy(void *to, const void *from, size_t size) {
    for (size_t i = 0; i < size; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}
PLAIN void *memmove(void *to, const void *from, size_t size) {
    if ((char *)to < (const char *)from) return memcpy(to, from, size);
    while (size-- > 0) ((char *)to)[size] = ((const char *)from)[size];
    return to;
}
PLAIN void *memset(void *to, int byte, size_t size) {
    for (size_t i = 0; i < size; i++) ((char *)to)[i] = (char)byte;
    return to;
}

static _Noreturn void leave(int status) {
    for (;;) ask(EXIT, status, 0, 0, 0);
}

static void transfer(int number, int file, char *at, size_t size) {
    while (size > 0) {
        long done = ask(number, file, (long)at, (long)size, 0);
        if (done <= 0) leave(2);
        at += done;
        size -= (size_t)done;
    }
}

// Memory that ends where the process may not go: reading or writing beyond it is a crash.
static void *guarded(size_t size) {
    long pages = (long)((size + PAGE - 1) / PAGE * PAGE);
    long start = ask(MMAP, 0, pages + PAGE, READABLE | WRITABLE, PRIVATE_ANONYMOUS);
    if (start < 0 && start > -4096) leave(3);
    if (ask(MPROTECT, start + pages, PAGE, 0, 0) != 0) leave(3);
    return (char *)start + pages - size;
}

static void *received(size_t size) {
    void *memory = guarded(size);
    transfer(READ, 0, memory, size);
    return memory;
}

void _start(void) {
    static Order order;
    transfer(READ, 0, (char *)&order, sizeof order);
    Call *call = &order.call;
    Step step = {
        .rows = order.rows,
        .threads = order.threads,
        .context = order.context,
        .slot_count = order.slot_count,
        .kv_int8 = order.kv_int8,
    };
    size_t integers = (size_t)order.rows * sizeof(int32_t);
    step.tokens = received(integers);
    step.positions = received(integers);
    step.slots = received(integers);
    for (int i = 0; i < EDGE_BUFFERS; i++)
        call->buffers[i] = order.sizes[i] < 0 ? NULL : received((size_t)order.sizes[i]);
    if (kernel.scratch) {
        step.scratch_bytes = kernel.scratch(call, &step);
        step.scratch = guarded((step.scratch_bytes + 63) & ~(size_t)63);
    }
    int parts = kernel.parts(call, &step);
    for (int part = parts; part-- > 0;) kernel.run(call, &step, part, parts);
    for (int i = 0; i < EDGE_BUFFERS; i++)
        if (call->buffers[i]) transfer(WRITE, 1, call->buffers[i], (size_t)order.sizes[i]);
    leave(0);
}
