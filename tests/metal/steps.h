// What a compiled Metal library and the fake device know of each other.
#pragma once

typedef struct {
    unsigned group[3], groups[3];  // which thread group, of how many
    unsigned local[3], size[3];    // which of its threads, of how many
} MetalThread;

typedef struct {
    int index;           // as the host binds it
    unsigned bytes;      // of what a reference needs; 0 for pointers
    unsigned alignment;  // of what is there
    const char *name;
} MetalParameter;

typedef struct {
    const char *name;
    void (*run)(void *const *buffers, const MetalThread *thread);
    int in_step;  // has barriers or simd-group functions
    char *shared, *shared_end;  // its threadgroup memory
    int count;
    const MetalParameter *parameters;
} MetalKernel;

enum { SIMD_WIDTH = 32, SIMD_VALUE = 16 };

// Lines are those of the translated source.
typedef struct {
    void (*barrier)(int line);
    // Waits for the thread's simd-group; returns the values of all its lanes, SIMD_VALUE bytes each.
    const char *(*exchange)(const void *value, unsigned bytes, int line);
    unsigned (*lane)(void);
    unsigned (*lanes)(void);
} MetalSteps;

// A library defines `metal_kernels`, ending with one without a name, and `metal_steps`, to be set.
