#include "rtt.h"
#include "sample.h"

#define PAGE 4096

void page(uint64_t at, uint64_t count)
{
	static uint64_t touched;
	volatile uint8_t *next = (volatile uint8_t *)(at + PAGE * touched);

	MEASURE(count, next[PAGE * i] = 1)
	touched += count;
}
