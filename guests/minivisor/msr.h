/* Model-specific registers. */
#ifndef MSR_H
#define MSR_H

#include <stdint.h>

#define MSR_EFER 0xc0000080
#define MSR_PAT 0x277

static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
	asm volatile("wrmsr" :: "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index) : "memory");
}

#endif
