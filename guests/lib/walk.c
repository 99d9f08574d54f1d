#include "walk.h"

/* Differs from page to page and from what an unbacked address reads as. */
static uint64_t pattern(uint64_t address)
{
	return address ^ 0x5a5a5a5a00000000;
}

uint64_t walk(uint64_t first, uint64_t last)
{
	uint64_t address;

	for (address = first; address < last; address += PAGE)
		*(volatile uint64_t *)address = pattern(address);
	for (address = first; address < last; address += PAGE)
		if (*(volatile uint64_t *)address != pattern(address))
			break;
	return address;
}
