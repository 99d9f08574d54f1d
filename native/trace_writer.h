/* Writes a trace ring to a file, in a thread of its own, so that level n does not wait for it. It knows no format: each site's text has
 * holes, bytes from 0x80 on, and what an event has there is filled in. */
#ifndef NV_TRACE_WRITER_H
#define NV_TRACE_WRITER_H

#include "trace.h"

#define NV_HOLE_SEQUENCE 0x80
#define NV_HOLE_TICKS 0x81       /* TSC at the exit */
#define NV_HOLE_QUALIFIER 0x82
#define NV_HOLE_QUALIFIER_HEX 0x83 /* with 0x */
#define NV_HOLE_VALUE 0x84       /* the first element */
#define NV_HOLE_COUNT 0x85
#define NV_HOLE_INFO 0x86
#define NV_HOLE_IN_C 0x87        /* true or false */
#define NV_HOLE_ENTRIES 0x88
/* Microseconds since `start`, to the nanosecond. */
#define NV_HOLE_AT_ENTERED 0x90
#define NV_HOLE_AT_EXIT 0x91
#define NV_HOLE_AT_ROUTED 0x92
/* How long: in microseconds, to the nanosecond; plus 8: in nanoseconds. */
#define NV_HOLE_GUEST 0xa0       /* from the entry to the exit */
#define NV_HOLE_DECODE 0xa1      /* from there until it was an event */
#define NV_HOLE_ROUTE 0xa2       /* until its handler was known */
#define NV_HOLE_HANDLE 0xa3      /* until it had its answer */
#define NV_HOLE_COMPLETE 0xa4    /* until that was level n's */
#define NV_HOLE_TOTAL 0xa5       /* from the exit until then */
#define NV_HOLE_IN_NS 8

#define NV_TRACE_TEXT_MAX 8192   /* the longest text of a site */

struct nv_trace_writer {
	struct nv_trace *trace;
	uint64_t start;          /* TSC */
	double ns;               /* of one tick */
	const char *closing;     /* what makes the file whole; it always ends so, where it is one in which one can go back */
	uint32_t closing_length;
	int fd;
	uint64_t offset;         /* where `closing` is in the file */
	int stopping;            /* set: the rest, then the end */
	int error;               /* errno of a write that failed; nothing is written any more then */
	uint64_t lock[8];        /* a pthread_mutex_t: one thread at a time writes; 0 at first, as what follows is */
	char *buffer;
};

/* The writing thread: until `stopping` is set and the ring is empty: 0, or -errno of a write that failed. Makes its thread the least
 * urgent: it writes when a processor has nothing else to do, which the ring has room for. */
int nv_trace_write(struct nv_trace_writer *writer);

/* Until at most `left` records are unwritten: writes with the writing thread. Where no file is that one can go back in, nobody knows when a
 * write ends: then it only waits, for 100 ms at most. At once when the writer failed. Not after the writing thread has ended. */
void nv_trace_relieve(struct nv_trace_writer *writer, uint64_t left);

#endif
