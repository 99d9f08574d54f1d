/* Writes a pattern to each page of memory, then reads it all back. */
#ifndef WALK_H
#define WALK_H

#include <stdint.h>

#define PAGE 4096UL

/* From a page to another: the first page whose contents are not what was written, `last` when there is none. */
uint64_t walk(uint64_t first, uint64_t last);

#endif
