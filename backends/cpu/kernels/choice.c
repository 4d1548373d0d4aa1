// The greatest of many numbers, such as logits. NaN counts as minus infinity; of equal numbers the
// first comes first.
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define LANES 16

typedef float Floats __attribute__((ext_vector_type(LANES), aligned(4)));
typedef int32_t Masks __attribute__((ext_vector_type(LANES)));

static inline float number(float x) { return x > -__builtin_inff() ? x : -__builtin_inff(); }

// The first place from `begin` on that holds a number above `bound`, or `count`.
static int find_above(const float *x, int begin, int count, float bound) {
    for (; begin + LANES <= count; begin += LANES) {
        Masks above = *(const Floats *)(x + begin) > bound;
        if (__builtin_reduce_or(above)) break;
    }
    while (begin < count && !(x[begin] > bound)) begin++;
    return begin;
}

// The place of the greatest number; 0 where there is none.
EXPORT int edge_argmax(const float *x, int count) {
    int best = 0;
    // Each find raises the bound: about ln(count) times for numbers in random order.
    for (int at = 0; at < count; at = find_above(x, at, count, number(x[best])))
        if (x[at] > number(x[best])) best = at;
    return best;
}

typedef struct {
    float *values;
    int32_t *places;
} Heap;

// Whether entry i of the heap comes after entry j.
static inline int after(Heap heap, int i, int j) {
    if (heap.values[i] != heap.values[j]) return heap.values[i] < heap.values[j];
    return heap.places[i] > heap.places[j];
}

static inline void swap(Heap heap, int i, int j) {
    float value = heap.values[i];
    int32_t place = heap.places[i];
    heap.values[i] = heap.values[j], heap.places[i] = heap.places[j];
    heap.values[j] = value, heap.places[j] = place;
}

// Let entry i sink until no entry below it comes after it.
static void sink(Heap heap, int i, int count) {
    for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && after(heap, child + 1, child)) child++;
        if (!after(heap, child, i)) return;
        swap(heap, i, child);
    }
}

// The k greatest numbers, greatest first, and their places; 0 < k <= count.
EXPORT void edge_top_k(const float *x, int count, int k, int32_t *places, float *values) {
    Heap heap = {values, places};  // of the best so far, the last of them at the root
    for (int i = 0; i < k; i++) values[i] = number(x[i]), places[i] = i;
    for (int i = k / 2 - 1; i >= 0; i--) sink(heap, i, k);
    int at = k;
    while ((at = find_above(x, at, count, values[0])) < count) {
        values[0] = x[at], places[0] = at++;
        sink(heap, 0, k);
    }
    for (int left = k - 1; left > 0; left--) {
        swap(heap, 0, left);
        sink(heap, 0, left);
    }
}
