/* The guest's memory: a window of ours, from an offset behind all that is ours to the end. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>

/* first: the first free address; ram: bytes of ours. Makes the nested page tables. Stops when nothing is left. */
void memory_init(uint64_t first, uint64_t ram);

uint64_t memory_offset(void);
uint64_t memory_size(void);

/* Physical address of the nested page tables' root. */
uint64_t memory_root(void);

/* The guest's memory at its physical address; NULL where that is not inside. */
void *memory_at(uint64_t address, uint64_t size);

/* Writes the guest's memory at its physical address: bytes, or zeros. Stops where that is not inside. */
void memory_write(uint64_t address, const void *data, uint64_t size);
void memory_clear(uint64_t address, uint64_t size);

#endif
