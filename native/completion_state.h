/* What completion.c (KVM's side) and completion_loop.c (level n's side) share. */
#ifndef NV_COMPLETION_STATE_H
#define NV_COMPLETION_STATE_H

#include "completion.h"

#define NV_MEMORY_MAX 512      /* bytes of the longest memory operand */
#define NV_WANT_VECTORS 16     /* nv_completion_loop: fetch the vector registers, then go on */

#define NV_GP 13
#define NV_SS 12
#define NV_PF 14

struct nv_completion_state {
	uint8_t bounce[NV_MEMORY_MAX + 64] __attribute__((aligned(64))); /* operands that cross a page */
	struct nv_paging paging;
	struct kvm_sregs sregs;
	struct {
		uint64_t base, limit;
		int usable;                /* limit and rights are those of a flat or plain segment */
	} segment[6];
	uint8_t forbidden[NV_UNITS];   /* the exception that a unit's instructions raise, or 0 */
	uint8_t *area;                 /* level n's XSAVE area */
	uint8_t *initial;              /* an XSAVE area with nothing in it but our MXCSR */
	uint64_t supported;            /* XCR0 of this process, as far as it concerns vectors */
	uint64_t components;           /* of the area that are in the registers */
	uint64_t x87_instruction, x87_operand;
	uint16_t x87_opcode;
	const int *kicked;
	int fd;
	struct kvm_run *run;
	int shares;                    /* KVM leaves registers and events in `run` and takes registers from there */
	int shared;                    /* it did so when it came back last */
	int have_vectors;              /* area holds level n's, or did when they were loaded */
	int vectors_changed;
	int x87_pointers;              /* x87_instruction and x87_operand are level n's */
	int resumed;                   /* regs hold the state of a run that waits for an operation */
	volatile int inside;           /* in translated code */
	volatile int trap;             /* the exception that translated code raised */
	volatile uint64_t trap_error;
};

/* Runs operations until something is not here: NV_COMPLETION_* or NV_WANT_VECTORS. */
int nv_completion_loop(struct nv_completion *completion);

/* Calls translated code; nonzero when it raised an exception. */
int nv_completion_call(uint64_t code, struct nv_completion *completion, uint8_t *memory);
extern const char nv_completion_recover[];

#endif
