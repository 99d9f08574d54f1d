/* A bounded ring of handled events. The run loop hands control to Python before it would overwrite one. */
#ifndef NV_TRACE_H
#define NV_TRACE_H

#include "event.h"

struct nv_trace_record {
	struct nv_event event;   /* event.data is meaningless here; event.value holds the first element */
	uint64_t done;           /* TSC when its handling ended */
	uint64_t sequence;       /* 0, 1, 2 ... over the run */
};

struct nv_trace {
	struct nv_trace_record *record; /* NULL: tracing is off */
	uint64_t size;           /* a power of two */
	uint64_t head;           /* written so far */
	uint64_t tail;           /* read so far */
};

void nv_trace_add(struct nv_trace *trace, const struct nv_event *event, uint64_t done);

#endif
