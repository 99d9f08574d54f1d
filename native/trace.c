#include "trace.h"

void nv_trace_add(struct nv_trace *trace, const struct nv_event *event, uint64_t done)
{
	struct nv_trace_record *record = &trace->record[trace->head & (trace->size - 1)];

	record->event = *event;
	record->event.data = 0;
	record->done = done;
	record->sequence = trace->head++;
}
