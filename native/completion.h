/* Completes what the engine's KVM cannot emulate: runs level n's instructions, one by one, on this processor.
 *
 * Python translates each instruction once (nestvmm/engines/completion) to an operation: machine code that loads the
 * general registers that it names, does it with its memory operand in our address space, and stores the registers. Vector and
 * x87 registers hold level n's values meanwhile, so the processor itself gives results, flags and exceptions. Nothing
 * privileged, no I/O and nothing that reads its own address is ever translated. */
#ifndef NV_COMPLETION_H
#define NV_COMPLETION_H

#include "paging.h"

#include <linux/kvm.h>

/* What an operation is. */
#define NV_OPERATION_STOP 0    /* KVM's to do, or nobody's */
#define NV_OPERATION_NATIVE 1  /* code */
#define NV_OPERATION_JUMP 2    /* to its value if condition; this and those to POP only in 64-bit mode */
#define NV_OPERATION_CALL 3    /* to its value */
#define NV_OPERATION_RETURN 4
#define NV_OPERATION_PUSH 5    /* its value: the memory operand, else register base, else target */
#define NV_OPERATION_POP 6     /* register base */
#define NV_OPERATION_CLAC 7
#define NV_OPERATION_STAC 8
#define NV_OPERATION_FAULT 9   /* raises exception target, #GP with error code 0 */
#define NV_OPERATION_TRAP 10   /* INT3: exception target behind the instruction */
#define NV_OPERATION_SHORT 11  /* its bytes go on in a page that could not be fetched */

/* A JUMP's condition: an opcode's low four bits (AMD APM vol. 3, table A-1), or: */
#define NV_CONDITION_ALWAYS 16

/* An operation's access. */
#define NV_ACCESS_READ 1
#define NV_ACCESS_WRITE 2
#define NV_ACCESS_ADDRESS 4    /* LEA: code gets the effective address */

/* Which registers an operation needs besides the general ones, and so which control bits forbid it. */
#define NV_UNIT_NONE 0
#define NV_UNIT_X87 1
#define NV_UNIT_WAIT 2
#define NV_UNIT_MMX 3
#define NV_UNIT_SSE 4
#define NV_UNIT_AVX 5
#define NV_UNIT_AVX512 6
#define NV_UNITS 7

#define NV_X87_SETS 1
#define NV_X87_LOADS 2

#define NV_NO_REGISTER 16

struct nv_operation {
	uint64_t linear;         /* address of its first byte */
	uint64_t bytes[2], mask[2]; /* little endian; mask covers `length` bytes */
	uint64_t code;
	uint64_t displacement;
	uint64_t target;         /* of a jump; exception; x87: what its last-opcode register gets */
	uint16_t size;           /* of the memory operand */
	uint16_t alignment;      /* that it needs, else 1 */
	uint8_t length;          /* 0: free */
	uint8_t kind, condition, unit, access;
	uint8_t base, index, scale; /* registers in struct kvm_regs's order; NV_NO_REGISTER; scale is a shift */
	uint8_t segment;         /* 0 to 5: ES CS SS DS FS GS */
	uint8_t address_bits;
	uint8_t mode;            /* bits of the code segment that it was decoded for */
	uint8_t claimed;         /* a level wants to see it, or hiding a feature forbids it: only the first of a run */
	uint8_t x87_pointers;    /* NV_X87_*: what it does with x87's pointers to its last instruction */
};

#define NV_OPERATIONS 4096

/* nv_completion_run's results. */
#define NV_COMPLETION_DONE 0     /* `count` instructions, at least one */
#define NV_COMPLETION_DECODE 1   /* fill nv_completion_slot() for the `bytes` at `linear`, then run again */
#define NV_COMPLETION_FAULT 2    /* level n takes exception `vector` */
#define NV_COMPLETION_REFUSED 3  /* the first instruction is none of ours */
#define NV_COMPLETION_UNBACKED 4 /* no memory backs address `linear`, or only for reading */
#define NV_COMPLETION_STATE 5    /* a mode or state that this does not know; `bytes` is empty */

struct nv_completion_state;

struct nv_completion {
	struct kvm_regs regs;    /* first: translated code finds it at offset 0 */
	uint64_t flags;          /* status flags, for translated code */
	uint64_t host_stack;
	uint64_t code_first, code_last; /* where translated code runs */
	uint8_t *code;           /* where it is written */
	struct nv_operation *operations;
	uint64_t linear;
	uint8_t bytes[16];       /* up to 15 that could be fetched at `linear` */
	uint32_t length;
	uint32_t mode;           /* 16, 32 or 64 */
	uint32_t limit;          /* most instructions in one run */
	uint32_t count;
	uint32_t vector;
	uint32_t has_error;
	uint32_t error;
	uint32_t xsave_size;
	uint32_t fresh;          /* nobody changed level n's state since KVM_RUN came back */
	uint64_t cr2;
	uint64_t total;          /* instructions completed so far, in all runs */
	uint64_t runs;
	struct nv_completion_state *state;
};

/* A completer for the vCPU `fd`, whose mapping is `run`; NULL with errno. kicked: ends a run when it becomes nonzero. xsave_size: of KVM's XSAVE
 * area in bytes; code_size: room for translated code in bytes. */
struct nv_completion *nv_completion_new(int fd, struct kvm_run *run, const int *kicked, const struct nv_slot *slots,
					uint32_t slot_count, uint32_t physical_bits, uint32_t xsave_size, uint64_t code_size);
void nv_completion_free(struct nv_completion *completion);

/* Runs level n's next instructions, from its KVM state and back into it. Negative errno when KVM refuses. */
int nv_completion_run(struct nv_completion *completion);

/* Where the operation for the instruction at `linear` belongs. */
struct nv_operation *nv_completion_slot(struct nv_completion *completion, uint64_t linear);

/* This processor's CPUID: EAX, EBX, ECX, EDX. */
void nv_completion_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);

/* Forgets all operations. */
void nv_completion_clear(struct nv_completion *completion);

#endif
