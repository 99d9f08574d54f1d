#include "next.h"
#include "minivisor.h"
#include "start.h"

#define PAGE 4096UL

const struct next *next_find(void)
{
	const struct next *next = (const void *)(((uintptr_t)image_end + PAGE - 1) & -PAGE);

	if (next->magic != NEXT_MAGIC)
		stop(STATUS_USAGE, "no image lies behind this one");
	if (next->size > RAM_BELOW_4G_MAX)
		stop(STATUS_USAGE, "the image behind this one has 0x%lx bytes", next->size);
	return next;
}

uint64_t next_end(const struct next *next)
{
	return (uintptr_t)next->image + next->size;
}
