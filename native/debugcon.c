#include "debugcon.h"

#include <string.h>
#include <unistd.h>

#include "table.h"

int nv_debugcon_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_debugcon *debugcon = device;
	size_t count = (size_t)event->size * event->count;

	(void)offset;
	if (event->direction == NV_WRITE) {
		/* EINTR is a kick: the run must end even when nobody reads our output */
		ssize_t written = debugcon->out < 0 ? (ssize_t)count : write(debugcon->out, event->data, count);

		if (written != (ssize_t)count)
			debugcon->lost += written < 0 ? count : count - written;
	} else {
		memset(event->data, 0xe9, count);
		event->value = 0xe9;
	}
	return NV_HANDLED;
}
