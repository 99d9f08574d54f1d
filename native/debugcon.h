/* QEMU's debug console: a write is a byte of output, a read answers 0xe9. */
#ifndef NV_DEBUGCON_H
#define NV_DEBUGCON_H

#include "event.h"

struct nv_debugcon {
	int out;
	uint64_t lost;
};

/* An nv_serve_fn; the device is a struct nv_debugcon. */
int nv_debugcon_serve(void *debugcon, uint64_t offset, struct nv_event *event);

#endif
