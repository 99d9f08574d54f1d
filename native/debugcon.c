#include "debugcon.h"

#include <string.h>

#include "output.h"
#include "table.h"

#define SIGNATURE 0xe9

int nv_debugcon_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_debugcon *debugcon = device;
	size_t size = event->size;

	if (offset)
		return NV_DECLINED;
	if (event->direction == NV_WRITE && size == 1) {
		debugcon->lost += nv_output(debugcon->out, event->data, event->count);
		return NV_HANDLED;
	}
	/* of a wider element only the first byte is ours: the others belong to the ports behind it, where nothing is */
	for (size_t at = 0; at < size * event->count; at += size) {
		if (event->direction == NV_WRITE) {
			debugcon->lost += nv_output(debugcon->out, event->data + at, 1);
		} else {
			memset(event->data + at, 0xff, size);
			event->data[at] = SIGNATURE;
		}
	}
	if (event->direction != NV_WRITE)
		event->value = ~0xffull | SIGNATURE;
	return NV_HANDLED;
}
