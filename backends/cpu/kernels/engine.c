// The engine: a pool of threads that runs a step's calls one after another, each cut into parts.
//
// Strategy. A call's parts are dealt to the threads as ranges. A thread takes its own range from the
// front, so that the same thread reads the same weights at every step and in the order they lie in
// memory; when it is through, it takes from the back of others' ranges. The caller is one of the
// threads. So it never waits for a thread that the system doesn't run, except for the one part that
// thread has begun; and a thread which was caught off its core with a part in its hands is left out
// for a while, since it will be again while another process keeps that core busy.
//
// Idle threads spin for a moment, which bridges the time between calls and between tokens, then
// sleep in a futex. In a forked child the pool's threads don't exist: there a pool can't be used.
#include "edge.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

// Of the C library, declared here so that no target's headers are needed. Linux with 64 bits:
// glibc, musl and bionic agree on these.
typedef unsigned long Thread;
typedef struct { long seconds, nanoseconds; } Time;
enum { MONOTONIC = 1, SETMASK = 2, WAIT_PRIVATE = 128, WAKE_PRIVATE = 129 };
#if defined(__x86_64__)
enum { FUTEX = 202 };
#define PAUSE() __builtin_ia32_pause()
#else
enum { FUTEX = 98 };
#define PAUSE() __asm__ volatile("yield")
#endif
int pthread_create(Thread *, const void *, void *(*)(void *), void *);
int pthread_join(Thread, void **);
int pthread_getcpuclockid(Thread, int *);
int pthread_sigmask(int, const void *, void *);
int sched_yield(void);
int clock_gettime(int, Time *);
long syscall(long, ...);

enum { ABI = 1 };

enum {
    MOST_THREADS = 256,
    MOST_PARTS = 0xffff,      // of a call that is shared out: ranges count in 16 bits
    SPINS = 64,               // between two looks at the clock
    AWAKE = 500 * 1000,       // nanoseconds that a thread without work spins before it sleeps: as
                              // long as drawing a token takes, for waking up takes 50,000
    PATIENCE = 1000 * 1000,   // nanoseconds after which a part that isn't finished is looked into
    REST = 20 * 1000 * 1000,  // nanoseconds that a thread without a core is first left out
    LONGEST_REST = 640 * 1000 * 1000,
};

// One thread's share of the pool; each group of fields that one side writes has its own cache line.
typedef struct {
    _Alignas(64) _Atomic uint64_t range;  // parts left: a count of calls (32 bits), next, end (16)
    _Alignas(64) _Atomic uint32_t done;   // parts finished, ever
    _Atomic bool working;                 // on a part
    _Alignas(64) _Atomic uint32_t asleep;
    _Atomic bool resting;                 // left out for a while
    int64_t rest, rest_end;               // how long, until when
    Thread thread;
    struct Pool *pool;
    int index;
} Worker;

typedef struct Pool {
    // The call in progress: written while no part is left, read by whoever has taken a part.
    const Kernel *kernel;
    const Call *call;
    const Step *step;
    int parts;
    uint32_t call_count, part_count;  // ever
    int threads, resting;
    _Atomic bool stop;
    Worker workers[];  // the first is the caller
} Pool;

static int64_t clock_now(int clock) {
    Time time;
    return clock_gettime(clock, &time) ? 0 : time.seconds * 1000000000LL + time.nanoseconds;
}

// Taking parts

static bool has_work(Worker *worker) {
    uint64_t range = atomic_load_explicit(&worker->range, memory_order_acquire);
    return (range >> 16 & 0xffff) < (range & 0xffff);
}

// A part off the front or the back of a worker's range, or -1.
static int take_from(Worker *worker, bool front) {
    uint64_t range = atomic_load_explicit(&worker->range, memory_order_acquire);
    for (;;) {
        int next = range >> 16 & 0xffff, end = range & 0xffff;
        if (next >= end) return -1;
        uint64_t left = front ? range + (1 << 16) : range - 1;
        if (atomic_compare_exchange_weak_explicit(&worker->range, &range, left,
                                                  memory_order_acq_rel, memory_order_acquire))
            return front ? next : end - 1;
    }
}

static int take(Pool *pool, Worker *self) {
    int part = take_from(self, true);
    for (int i = 1; part < 0 && i < pool->threads; i++) {
        if (atomic_load_explicit(&self->resting, memory_order_relaxed)) break;
        int other = self->index + i;
        part = take_from(&pool->workers[other < pool->threads ? other : other - pool->threads], false);
    }
    return part;
}

static void work(Pool *pool, Worker *self) {
    for (int part; (part = take(pool, self)) >= 0;) {
        atomic_store_explicit(&self->working, true, memory_order_relaxed);
        pool->kernel->run(pool->call, pool->step, part, pool->parts);
        atomic_store_explicit(&self->working, false, memory_order_relaxed);
        uint32_t done = atomic_load_explicit(&self->done, memory_order_relaxed);
        atomic_store_explicit(&self->done, done + 1, memory_order_release);
    }
}

// A worker's life

// Returns false when the pool is to end.
static bool wait_for_work(Worker *self) {
    int64_t begin = clock_now(MONOTONIC);
    while (!has_work(self)) {
        if (atomic_load_explicit(&self->pool->stop, memory_order_relaxed)) return false;
        for (int i = 0; i < SPINS && !has_work(self); i++) PAUSE();
        if (clock_now(MONOTONIC) - begin < AWAKE) continue;
        // Either this thread sees the work that is being dealt, or the caller sees it asleep.
        atomic_store(&self->asleep, 1);
        atomic_thread_fence(memory_order_seq_cst);
        if (!has_work(self) && !atomic_load(&self->pool->stop))
            syscall(FUTEX, &self->asleep, WAIT_PRIVATE, 1, NULL, NULL, 0);
        atomic_store(&self->asleep, 0);
    }
    return true;
}

static void wake(Worker *worker) {
    if (atomic_load(&worker->asleep) && atomic_exchange(&worker->asleep, 0))
        syscall(FUTEX, &worker->asleep, WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *live(void *argument) {
    Worker *self = argument;
    while (wait_for_work(self)) work(self->pool, self);
    return NULL;
}

// The caller's side

// How many threads take part in a step, without those that rest.
static int sharing(Pool *pool, const Step *step) {
    int count = step->threads;
    for (int i = 1; pool->resting && i < step->threads; i++)
        count -= atomic_load_explicit(&pool->workers[i].resting, memory_order_relaxed);
    return count;
}

// Give each of the `sharing` threads an even share of the call's parts, the caller first.
static void deal(Pool *pool, int sharing) {
    pool->call_count++;
    pool->part_count += (uint32_t)pool->parts;
    int begin = 0;
    for (int i = 0, share = 0; i < pool->step->threads; i++) {
        Worker *worker = &pool->workers[i];
        if (atomic_load_explicit(&worker->resting, memory_order_relaxed)) continue;
        int end = (int)(((int64_t)pool->parts * ++share + sharing - 1) / sharing);
        uint64_t range = (uint64_t)pool->call_count << 32 | (uint64_t)begin << 16 | (uint64_t)end;
        atomic_store_explicit(&worker->range, range, memory_order_release);
        begin = end;
    }
    atomic_thread_fence(memory_order_seq_cst);
    for (int i = 1; i < pool->threads; i++)
        if (has_work(&pool->workers[i])) wake(&pool->workers[i]);
}

static bool finished(Pool *pool) {
    uint32_t done = 0;
    for (int i = 0; i < pool->threads; i++)
        done += atomic_load_explicit(&pool->workers[i].done, memory_order_acquire);
    return done == pool->part_count;
}

// Processor time that a worker has had, or -1 if it isn't on a part or the system doesn't say.
static int64_t time_used(Worker *worker) {
    int clock;
    if (!atomic_load_explicit(&worker->working, memory_order_relaxed)) return -1;
    return pthread_getcpuclockid(worker->thread, &clock) ? -1 : clock_now(clock);
}

static void send_to_rest(Pool *pool, Worker *worker) {
    int64_t now = clock_now(MONOTONIC);
    bool again = worker->rest_end && now - worker->rest_end < 4 * worker->rest;
    worker->rest = !again ? REST : 2 * worker->rest < LONGEST_REST ? 2 * worker->rest : LONGEST_REST;
    worker->rest_end = now + worker->rest;
    atomic_store_explicit(&worker->resting, true, memory_order_relaxed);
    pool->resting++;
}

static void end_rests(Pool *pool) {
    int64_t now = clock_now(MONOTONIC);
    for (int i = 1; i < pool->threads; i++) {
        Worker *worker = &pool->workers[i];
        if (!atomic_load_explicit(&worker->resting, memory_order_relaxed)) continue;
        if (now < worker->rest_end) continue;
        atomic_store_explicit(&worker->resting, false, memory_order_relaxed);
        pool->resting--;
    }
}

// Wait for the parts that others have begun.
static void join(Pool *pool) {
    for (int i = 0; i < 16 * SPINS; i++) {
        if (finished(pool)) return;
        PAUSE();
    }
    for (;;) {
        int64_t used[MOST_THREADS], begin = clock_now(MONOTONIC), waited = 0;
        for (int i = 1; i < pool->threads; i++) used[i] = time_used(&pool->workers[i]);
        while (waited < PATIENCE) {
            sched_yield();  // the thread waited for may be next on this very core
            for (int i = 0; i < SPINS; i++) {
                if (finished(pool)) return;
                PAUSE();
            }
            waited = clock_now(MONOTONIC) - begin;
        }
        for (int i = 1; i < pool->threads; i++) {
            Worker *worker = &pool->workers[i];
            int64_t now = used[i] < 0 ? -1 : time_used(worker);
            if (now >= 0 && now - used[i] < waited / 2 && !atomic_load(&worker->resting))
                send_to_rest(pool, worker);
        }
    }
}

EXPORT int edge_abi(void) { return ABI; }

// A pool of so many threads, the caller's among them; of fewer where the system gives no more.
EXPORT Pool *edge_pool(int threads) {
    if (threads < 1) threads = 1;
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    size_t bytes = sizeof(Pool) + (size_t)threads * sizeof(Worker);
    Pool *pool = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    if (!pool) return NULL;
    memset(pool, 0, bytes);
    pool->threads = 1;
    // Signals are for the threads that have handlers in mind.
    uint64_t every[16], before[16];
    memset(every, 0xff, sizeof every);
    pthread_sigmask(SETMASK, every, before);
    for (int i = 0; i < threads; i++) {
        pool->workers[i].pool = pool;
        pool->workers[i].index = i;
    }
    // Workers read the count of threads when there is work, hence after the last has been counted.
    while (pool->threads < threads) {
        Worker *worker = &pool->workers[pool->threads];
        if (pthread_create(&worker->thread, NULL, live, worker)) break;
        pool->threads++;
    }
    pthread_sigmask(SETMASK, before, NULL);
    return pool;
}

EXPORT int edge_pool_threads(const Pool *pool) { return pool->threads; }

EXPORT void edge_pool_free(Pool *pool) {
    atomic_store(&pool->stop, true);
    for (int i = 1; i < pool->threads; i++) wake(&pool->workers[i]);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
    free(pool);
}

// The table of the kernels that calls are made to, by number: written for each model.
const Kernel *const *edge_kernels(void);

// Run calls in order, by as many of the pool's threads as the step says (by all where it says 0);
// which[i] is the number of call i's kernel. Returns 0, or 1 as soon as *cancel isn't 0, which is
// looked at before each call.
EXPORT int edge_run(Pool *pool, const int32_t *which, const Call *calls, int count, Step *step,
                    const volatile int32_t *cancel) {
    const Kernel *const *kernels = edge_kernels();
    if (step->threads < 1 || step->threads > pool->threads) step->threads = pool->threads;
    if (pool->resting) end_rests(pool);
    for (int i = 0; i < count; i++) {
        if (*cancel) return 1;
        const Kernel *kernel = kernels[which[i]];
        int parts = kernel->parts(&calls[i], step), threads = sharing(pool, step);
        if (parts == 1 || parts > MOST_PARTS || threads == 1) {
            for (int part = 0; part < parts; part++) kernel->run(&calls[i], step, part, parts);
            continue;
        }
        pool->kernel = kernel;
        pool->call = &calls[i];
        pool->step = step;
        pool->parts = parts;
        deal(pool, threads);
        work(pool, &pool->workers[0]);
        join(pool);
    }
    return 0;
}

// The most scratch memory that any of the calls asks for, in bytes.
EXPORT size_t edge_scratch(const int32_t *which, const Call *calls, int count, const Step *step) {
    size_t most = 0;
    for (int i = 0; i < count; i++) {
        const Kernel *kernel = edge_kernels()[which[i]];
        size_t bytes = kernel->scratch ? kernel->scratch(&calls[i], step) : 0;
        if (bytes > most) most = bytes;
    }
    return most;
}
