// Runs a kernel's thread groups, the threads of each in step.
#pragma once
#include <string>
#include <vector>

#include "steps.h"

// The first fault (a barrier that not all reach, a place out of a buffer), or "". `order` picks the
// order of groups and threads.
std::string run_groups(const MetalKernel &kernel, void *const *buffers, const unsigned groups[3],
                       const unsigned size[3], unsigned order);

// What a library's `metal_steps` is to be.
extern const MetalSteps steps_of_threads;
