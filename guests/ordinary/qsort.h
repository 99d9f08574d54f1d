/* The C library's, which guests do not have. */
#ifndef ORDINARY_QSORT_H
#define ORDINARY_QSORT_H

#include <stddef.h>

void qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *));

#endif
