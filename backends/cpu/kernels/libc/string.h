// What the kernels use of the C library, so that they compile for any target without its headers.
#pragma once
#include <stddef.h>

void *memcpy(void *restrict, const void *restrict, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
