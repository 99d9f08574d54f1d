/* Measurements in cycles: N samples, of which all are printed, or the least and the median. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdint.h>

#define SAMPLES_MAX 65536

extern uint32_t sample[SAMPLES_MAX];

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (uint64_t)high << 32 | low;
}

/* A macro, because a call between the two RDTSCs would be measured too. */
#define MEASURE(count, instruction) \
	for (uint64_t i = 0; i < (count); i++) { \
		uint64_t before = rdtsc(); \
		instruction; \
		sample[i] = (uint32_t)(rdtsc() - before); \
	}

/* Prints `rtt NAME cycles CYCLES CYCLES ...`, all of them in their order. */
void sample_list(const char *name, uint64_t count);

/* Prints `rtt NAME count N min CYCLES median CYCLES cycles` of sample[0] to sample[count - 1], and sorts them. */
void sample_print(const char *name, uint64_t count);

#endif
