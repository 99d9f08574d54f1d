#include "trace.h"

#include <string.h>

static uint32_t site_index(uint64_t rip, const struct nv_event *event)
{
	/* Knuth's multiplicative hash: instructions lie close together */
	uint64_t key = rip * 4 + event->direction + ((uint64_t)event->slot << 48) + ((uint64_t)event->size << 40) + ((uint64_t)event->level << 32);

	return key * 0x9e3779b97f4a7c15ull >> 52;
}

static int same_site(const struct nv_trace_site *site, uint64_t rip, const struct nv_event *event)
{
	return site->text && site->rip == rip && site->raw == event->raw && site->slot == event->slot &&
	       site->level == event->level && site->handler == event->handler &&
	       site->direction == event->direction && site->size == event->size && site->code_length == event->instruction_length &&
	       !memcmp(site->code, event->instruction, event->instruction_length);
}

static void publish(struct nv_trace *trace)
{
	trace->wanted = 0;
	__atomic_store_n(&trace->head, trace->head + 1, __ATOMIC_RELEASE);
}

void nv_trace_add(struct nv_trace *trace, const struct nv_event *event, uint64_t handled, uint64_t done)
{
	struct nv_trace_record *record = &trace->record[trace->head & (trace->size - 1)];

	record->event = *event;
	record->event.data = 0;
	record->rip = trace->rip;
	record->entered = trace->entered;
	record->decoded = trace->decoded;
	record->routed = trace->routed;
	record->handled = handled;
	record->done = done;
	record->sequence = trace->sequence++;
	record->entries = trace->entries;
	record->site = site_index(trace->rip, event);
	trace->entries = 0;
	if (same_site(&trace->sites[record->site], trace->rip, event))
		publish(trace);
	else
		trace->wanted = 1;
}

void nv_trace_described(struct nv_trace *trace)
{
	const struct nv_trace_record *record = &trace->record[trace->head & (trace->size - 1)];
	struct nv_trace_site *site = &trace->sites[record->site];

	site->rip = record->rip;
	site->raw = record->event.raw;
	site->slot = record->event.slot;
	site->level = record->event.level;
	site->handler = record->event.handler;
	site->direction = record->event.direction;
	site->size = record->event.size;
	site->code_length = record->event.instruction_length;
	memcpy(site->code, record->event.instruction, sizeof site->code);
	publish(trace);
}

int nv_trace_waits(const struct nv_trace *trace)
{
	return trace->wanted || trace->head - __atomic_load_n(&trace->tail, __ATOMIC_ACQUIRE) == trace->size;
}
