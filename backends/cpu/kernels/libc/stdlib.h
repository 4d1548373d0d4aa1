// As string.h beside it; some of clang's own headers ask for this one.
#pragma once
#include <stddef.h>

void *aligned_alloc(size_t, size_t);
void *malloc(size_t);
int posix_memalign(void **, size_t, size_t);
void free(void *);
