/* Exceptions and interrupts. An instruction wrapped in TRY() may fault: the fault is recorded and the guest goes on behind it. */
#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H

#include <stdint.h>

#include "trap_vectors.h"

enum { TRAP_DB = 1, TRAP_BP = 3, TRAP_UD = 6, TRAP_GP = 13, TRAP_PF = 14 };

#define TRAP_NONE (-1)

/* Exit status of a guest that took an exception which it did not expect. */
#define TRAP_STATUS 254

struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

typedef void (*trap_fn)(struct trap_frame *frame);

void trap_init(void);

/* An IDT without entries: the next exception shuts the processor down. */
void trap_drop(void);

/* Calls handler on this vector; NULL: TRY(), or the end. */
void trap_handle(unsigned int vector, trap_fn handler);

/* The vector that the last TRY() since trap_clear() faulted with, TRAP_NONE if it did not. */
void trap_clear(void);
int trap_vector(void);
uint64_t trap_error(void);

#define TRY(instruction) \
	"1:	" instruction "\n2:\n" \
	".pushsection .fixup, \"a\"\n.quad 1b, 2b\n.popsection\n"

/* The value of an MSR; trap_vector() says whether it faulted. */
static inline uint64_t try_rdmsr(uint32_t index)
{
	uint32_t low = 0, high = 0;

	trap_clear();
	asm volatile(TRY("rdmsr") : "+a"(low), "+d"(high) : "c"(index) : "memory");
	return (uint64_t)high << 32 | low;
}

/* The vector that WRMSR faulted with, or TRAP_NONE. */
static inline int try_wrmsr(uint32_t index, uint64_t value)
{
	trap_clear();
	asm volatile(TRY("wrmsr") :: "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index) : "memory");
	return trap_vector();
}

#endif
