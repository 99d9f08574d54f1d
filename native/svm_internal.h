/* What the files of the svm engine share. */
#ifndef NV_SVM_INTERNAL_H
#define NV_SVM_INTERNAL_H

#include "registers.h"
#include "svm.h"

/* Exit codes (AMD APM vol. 2, appendix C). */
enum {
	EXIT_CR0_WRITE = 0x10,
	EXIT_EXCEPTION = 0x40,
	EXIT_DB = 0x41,
	EXIT_EXCEPTION_LAST = 0x5f,
	EXIT_INTR = 0x60,
	EXIT_NMI = 0x61,
	EXIT_SMI = 0x62,
	EXIT_INIT = 0x63,
	EXIT_VINTR = 0x64,
	EXIT_CR0_SELECTIVE = 0x65,
	EXIT_PUSHF = 0x70,
	EXIT_POPF = 0x71,
	EXIT_IRET = 0x74,
	EXIT_SWINT = 0x75,
	EXIT_PAUSE = 0x77,
	EXIT_HLT = 0x78,
	EXIT_IOIO = 0x7b,
	EXIT_MSR = 0x7c,
	EXIT_TASK_SWITCH = 0x7d,
	EXIT_SHUTDOWN = 0x7f,
	EXIT_VMRUN = 0x80,
	EXIT_VMLOAD = 0x82,
	EXIT_VMSAVE = 0x83,
	EXIT_STGI = 0x84,
	EXIT_CLGI = 0x85,
	EXIT_ICEBP = 0x88,
	EXIT_NPF = 0x400,
};

#define SHADOWED 1ull          /* of interrupt_shadow */

/* Attributes of a segment (15.5.1). */
#define SEGMENT_LONG 0x200
#define SEGMENT_BIG 0x400

#define NESTED_PAGING 1ull      /* of nested_paging */
#define NO_INTERRUPT 256       /* of the mailbox's interrupt: the switcher took none */

/* Bits of a nested page fault's error code, EXITINFO1 (AMD APM vol. 2, 15.25.6). */
#define NPF_PRESENT 1ull
#define NPF_WRITE 2
#define NPF_USER 4
#define NPF_RESERVED 8
#define NPF_FETCH 0x10
#define NPF_FINAL (1ull << 32)   /* level n's own address */
#define NPF_TABLES (1ull << 33)  /* one of its page tables */

/* Of a port access's EXITINFO1 (15.10.2). */
#define IO_IN 1

static inline int intercepts(const uint32_t *vectors, uint64_t code)
{
	return code < 6 * 32 && vectors[code / 32] >> code % 32 & 1;
}

/* Of an event as EVENTINJ: an instruction asked for it, INTn, INT3 or INTO. */
static inline int is_soft(uint64_t event)
{
	int kind = EVENT_KIND_OF(event), vector = EVENT_VECTOR(event);

	return kind == NV_EVENT_SOFTWARE_INTERRUPT || (kind == NV_EVENT_EXCEPTION && (vector == BP || vector == OF));
}

static inline uint64_t *register_of(struct nv_svm *svm, int number)
{
	return &svm->switched.mailbox->regs[number];
}

/* 16, 32 or 64: of level n's code segment. */
static inline int code_bits(const struct nv_vmcb *block)
{
	if (block->efer & EFER_LMA && block->cs.attributes & SEGMENT_LONG)
		return 64;
	return block->cs.attributes & SEGMENT_BIG ? 32 : 16;
}

/* Fields of virtual_interrupt (AMD APM vol. 2, 15.21.4). */
#define V_TPR 0xffull
#define V_IRQ (1ull << 8)
#define V_GIF (1ull << 9)
#define V_IGNORES_TPR (1ull << 20)
#define V_INTR_MASKING (1ull << 24)
#define V_GIF_ENABLE (1ull << 25)

/* svm_decode.c: the exit, or what svm->synthetic says, as an event. */
void nv_svm_decode(struct nv_svm *svm, struct nv_event *event);

/* What stands behind the prefixes of the event's instruction, of at least `count` bytes; NULL: not so many are known. A REX prefix, or 0,
 * goes to `rex`. */
const uint8_t *nv_svm_opcode(const struct nv_svm *svm, const struct nv_event *event, int count, uint8_t *rex);

/* The size of its addresses: 16, 32 or 64. */
int nv_svm_address_bits(const struct nv_svm *svm, const struct nv_event *event);

/* svm.c: the instruction is done, and level n stands behind it. trap: what comes of that when level n's trap flag is set. */
void nv_svm_skip(struct nv_svm *svm, const struct nv_event *event);
void nv_svm_trap(struct nv_svm *svm);

/* Where level n executes. */
struct nv_code nv_svm_code(const struct nv_svm *svm);

/* Its linear addresses, for accesses of the user's or the processor's own; ac: which RFLAGS.AC lets through. */
struct nv_paging *nv_svm_paging(struct nv_svm *svm, int user, int ac);

/* #UD, decoded: nv_undefined's part of it. */
void nv_svm_decode_undefined(struct nv_svm *svm, const struct nv_table *table, struct nv_event *event);

/* svm_step.c. end: executed says whether the instruction is behind level n. debug: begins the next one of those that levels
 * want to see, unless something comes first; 1: the instruction is done. steps: levels do, and stand above level `above`. */
void nv_svm_step_begin(struct nv_svm *svm, uint32_t code, int traps, uint8_t length);
void nv_svm_step_end(struct nv_svm *svm, int executed);
int nv_svm_step_debug(struct nv_svm *svm);
int nv_svm_steps(const struct nv_svm *svm, uint8_t above);

/* svm_deliver.c. prepare: what level n takes at its next entry, and what stops it, goes to the block; happens again when a kick comes
 * before level n runs. 1: that event is a software interrupt which its gate keeps from level n's privilege: the block has the exit
 * for the #GP that comes of it. taken: that it did, though the processor was not entered. entered: it ran. interrupted: what the exit
 * says of an event that was being delivered. raise: reinjects the exception that the exit stopped. */
uint64_t nv_svm_next_event(struct nv_svm *svm); /* what level n would take now, as EVENTINJ; 0: nothing */
int nv_svm_prepare(struct nv_svm *svm);
void nv_svm_taken(struct nv_svm *svm);
void nv_svm_entered(struct nv_svm *svm);
void nv_svm_interrupted(struct nv_svm *svm);
void nv_svm_raise(struct nv_svm *svm);

/* Level n, which stands at an instruction of this length, takes the interrupt or exception that the instruction is for. */
void nv_svm_inject_soft(struct nv_svm *svm, int kind, uint8_t vector, uint8_t length);

#endif
