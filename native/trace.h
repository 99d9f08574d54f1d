/* A bounded ring of handled events, and the places in level n's code that they came from. One thread, level n's, fills it; another one
 * (trace_writer.h) empties it. The run loop hands control to Python before it would overwrite a record, and at a place not seen yet. */
#ifndef NV_TRACE_H
#define NV_TRACE_H

#include "event.h"

#define NV_TRACE_SITES 4096

/* Where level n was and who handled what it did: all that the lines of a trace about it have in common. */
struct nv_trace_site {
	uint64_t rip;
	uint32_t raw;
	uint16_t slot;
	uint8_t direction;
	uint8_t size;
	uint8_t level;           /* several run the same code, at the same addresses */
	uint8_t handler;
	uint8_t code[NV_INSTRUCTION_MAX];
	uint8_t code_length;
	uint32_t length;         /* of text */
	const char *text;        /* what is written of one event, with NV_HOLE_*; NULL: nobody has described this site */
};

struct nv_trace_record {
	struct nv_event event;   /* event.data is meaningless here; event.value holds the first element; event.ticks: the exit's TSC */
	uint64_t rip;            /* level n's at the exit, as KVM has it; 0: nobody told */
	uint64_t entered;        /* TSC when level n was entered last before */
	uint64_t decoded;        /* when the exit was an event */
	uint64_t routed;         /* when its first handler was known */
	uint64_t handled;        /* when it had its answer */
	uint64_t done;           /* when that was level n's */
	uint64_t sequence;       /* 0, 1, 2 ... over the run */
	uint32_t entries;        /* times that level n was entered since the event before: more than once for what L0 does by itself */
	uint32_t site;           /* index of its site */
};

struct nv_trace {
	struct nv_trace_record *record; /* NULL: tracing is off */
	struct nv_trace_site *sites;    /* NV_TRACE_SITES of them */
	uint64_t size;           /* a power of two */
	uint64_t head;           /* written so far; what the writer may read */
	uint64_t tail;           /* read so far; the writer's */
	uint64_t sequence;
	uint32_t wanted;         /* 1: the record at head waits for its site to be described */
	uint32_t entries;
	uint64_t rip, entered, decoded, routed; /* of the pending event */
};

/* The pending event is handled, by this time, and done by that. */
void nv_trace_add(struct nv_trace *trace, const struct nv_event *event, uint64_t handled, uint64_t done);

/* The site of the record at head is described now: the writer may have it. */
void nv_trace_described(struct nv_trace *trace);

/* Whether level n must wait: for a site's description, or for room. */
int nv_trace_waits(const struct nv_trace *trace);

#endif
