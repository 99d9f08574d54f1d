#include "memory.h"
#include "minivisor.h"
#include "start.h"
#include "vendor.h"

#define LARGE (2UL << 20)
#define ENTRIES 512
#define DIRECTORIES (RAM_BELOW_4G_MAX >> 30)

static uint64_t root[ENTRIES] __attribute__((aligned(4096)));
static uint64_t pointers[ENTRIES] __attribute__((aligned(4096)));
static uint64_t pages[DIRECTORIES * ENTRIES] __attribute__((aligned(4096)));
static uint64_t offset, size;

void memory_init(uint64_t first, uint64_t ram)
{
	if (ram > RAM_BELOW_4G_MAX)
		ram = RAM_BELOW_4G_MAX;
	offset = (first + LARGE - 1) & -LARGE;
	if (ram < offset + LARGE)
		stop(STATUS_USAGE, "0x%lx bytes of RAM leave its guest none: at least 0x%lx are needed", ram, offset + LARGE);
	size = (ram - offset) & -LARGE;
	root[0] = (uintptr_t)pointers | vendor_table;
	for (unsigned int i = 0; i < DIRECTORIES; i++)
		pointers[i] = (uintptr_t)(pages + i * ENTRIES) | vendor_table;
	for (uint64_t i = 0; i < size / LARGE; i++)
		pages[i] = (offset + i * LARGE) | vendor_page;
}

uint64_t memory_offset(void)
{
	return offset;
}

uint64_t memory_size(void)
{
	return size;
}

uint64_t memory_root(void)
{
	return (uintptr_t)root;
}

void *memory_at(uint64_t address, uint64_t length)
{
	return address > size || length > size - address ? 0 : (void *)(offset + address);
}

static void *inside(uint64_t address, uint64_t length)
{
	void *at = memory_at(address, length);

	if (!at)
		stop(STATUS_USAGE, "the next image has 0x%lx bytes at 0x%lx, but 0x%lx of RAM", length, address, size);
	return at;
}

void memory_write(uint64_t address, const void *data, uint64_t length)
{
	void *to = inside(address, length);

	asm volatile("rep movsb" : "+D"(to), "+S"(data), "+c"(length) :: "memory");
}

void memory_clear(uint64_t address, uint64_t length)
{
	void *to = inside(address, length);

	asm volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(0) : "memory");
}
