/* One exit of level n in the neutral vocabulary, and the answer to it. The layout is fixed: C fills it, Python reads it in place. */
#ifndef NV_EVENT_H
#define NV_EVENT_H

#include <stdint.h>

#define NV_READ 0
#define NV_WRITE 1
#define NV_EXECUTE 2

#define NV_INSTRUCTION_MAX 15
#define NV_SPACE_SHIFT 56        /* above all bits of a physical address */

struct nv_event {
	uint64_t qualifier;      /* what the table looks up: port, MSR index, guest-physical address, vector, leaf, instruction key */
	uint64_t value;          /* data that moves, little endian, when count is 1 and size at most 8; a read's answer goes here */
	uint64_t info;           /* error code, KVM's suberror, or what the reason's row says */
	uint8_t *data;           /* the elements of a port or memory access: size * count bytes, lent until the next run */
	uint64_t ticks;          /* TSC when the exit reached L0 */
	uint32_t raw;            /* the engine's own code: KVM_EXIT_*, VMEXIT_*, VMX basic exit reason */
	uint32_t count;          /* elements of a string access, else 1 */
	uint16_t reason;         /* enum nv_reason */
	uint16_t claim;          /* whose turn it is: index into the table's claims, 0 when nobody is left */
	uint16_t slot;           /* the counter that this event goes to */
	uint8_t direction;       /* NV_READ, NV_WRITE or NV_EXECUTE */
	uint8_t size;            /* bytes of one element */
	uint8_t level;           /* the level whose software caused it: n */
	uint8_t instruction_length;
	uint8_t instruction[NV_INSTRUCTION_MAX]; /* bytes at RIP, as far as the engine knows them */
	/* 0 at first, all in one or two stores */
	uint8_t length;          /* bytes of the instruction that caused it, 0 where nobody told */
	uint8_t space;           /* whose physical address or window it is about: 0, or a machine's depth (nested.h) */
	uint8_t advance;         /* bytes that its completion moves RIP by; direct: 0, KVM does that */
	uint8_t fault;           /* answer: complete by #GP instead (MSR accesses) */
	uint8_t retry;           /* answer: nothing moves, level n comes to it again; only of what an intercept stopped */
	uint8_t served;          /* 1 when L0's C code handled it */
	uint8_t handler;         /* the level that handles it */
};

#endif
