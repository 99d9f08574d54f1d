/* QEMU's debug console (hw/char/debugcon.c), one port wide: a write is a byte of output, a read answers 0xe9. */
#ifndef NV_DEBUGCON_H
#define NV_DEBUGCON_H

#include "event.h"

struct nv_debugcon {
	int out;                 /* where the bytes go, -1 to drop them */
	uint64_t lost;           /* bytes that could not be written there */
};

/* An nv_serve_fn; the device is a struct nv_debugcon. */
int nv_debugcon_serve(void *debugcon, uint64_t offset, struct nv_event *event);

#endif
