#include "ignore.h"

#include <string.h>

#include "table.h"

int nv_ignore_serve(void *device, uint64_t offset, struct nv_event *event)
{
	(void)device;
	(void)offset;
	if (event->direction != NV_WRITE) {
		event->value = ~0ull;
		if (event->count != 1)
			memset(event->data, 0xff, (size_t)event->size * event->count);
	}
	return NV_HANDLED;
}
