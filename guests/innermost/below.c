#include <stdbool.h>

#include "below.h"
#include "io.h"
#include "offer.h"
#include "printf.h"
#include "sample.h"
#include "trap.h"

#define INS 3
#define SALT 0x123456789abcdef

struct mark {
	uint32_t eax, ebx, ecx, edx;
};

/* Which of the two hypercall instructions our hypervisor has. */
static bool by_vmcall;

static struct mark cpuid(uint32_t leaf)
{
	struct mark mark;

	asm volatile("cpuid" : "=a"(mark.eax), "=b"(mark.ebx), "=c"(mark.ecx), "=d"(mark.edx) : "a"(leaf), "c"(0) : "memory");
	return mark;
}

static uint64_t vmmcall(uint64_t number, uint64_t level, uint64_t value)
{
	asm volatile(TRY("vmmcall") : "+a"(number) : "b"(level), "c"(value) : "memory");
	return number;
}

static uint64_t vmcall(uint64_t number, uint64_t level, uint64_t value)
{
	asm volatile(TRY("vmcall") : "+a"(number) : "b"(level), "c"(value) : "memory");
	return number;
}

static uint64_t hypercall(uint64_t number, uint64_t level, uint64_t value)
{
	return by_vmcall ? vmcall(number, level, value) : vmmcall(number, level, value);
}

static bool is_minivisor(struct mark mark)
{
	return mark.ebx == MARK_EBX && mark.ecx == MARK_ECX && (mark.edx == MARK_EDX_SVM || mark.edx == MARK_EDX_VMX);
}

unsigned int below_marks(uint64_t mask, uint64_t top)
{
	unsigned int wrong = 0;

	printf("marks");
	for (uint64_t level = 1; level <= top; level++) {
		struct mark mark = cpuid(MARK_LEAF(level));
		bool expected = mask >> level & 1;

		if (is_minivisor(mark)) {
			printf(" %u", mark.eax);
			/* the highest is the last: hypercalls go there first */
			by_vmcall = mark.edx == MARK_EDX_VMX;
		}
		if (is_minivisor(mark) != expected || (expected && mark.eax != level))
			wrong++;
	}
	printf("\n");
	return wrong;
}

/* To a level that is not below, and by a number that nobody knows. */
static unsigned int refused_hypercalls(void)
{
	uint64_t answer;

	trap_clear();
	answer = hypercall(HYPERCALL, 0, SALT);
	hypercall(HYPERCALL + 1, 1, SALT);
	printf("hypercalls refused: 0x%lx, exception %d\n", answer, trap_vector());
	return (answer != HYPERCALL_NOBODY) + (trap_vector() != TRAP_UD);
}

unsigned int below_hypercalls(uint64_t mask)
{
	unsigned int wrong = 0;

	for (uint64_t level = 1; level <= LEVEL_MAX; level++) {
		uint64_t answer;

		if (!(mask >> level & 1))
			continue;
		trap_clear();
		answer = hypercall(HYPERCALL, level, SALT);
		printf("hypercall %lu: 0x%lx\n", level, answer);
		if (answer != hypercall_answer(level, SALT) || trap_vector() != TRAP_NONE)
			wrong++;
	}
	return wrong + (mask ? refused_hypercalls() : 0);
}

unsigned int below_ports(uint64_t mask)
{
	unsigned int wrong = 0;

	/* all are stored before any is read: a level that takes another's port is seen */
	for (uint64_t level = 1; level <= LEVEL_MAX; level++)
		if (mask >> level & 1)
			outb(OWN_PORT(level), (uint8_t)(level * 7));
	for (uint64_t level = 1; level <= LEVEL_MAX; level++) {
		uint32_t wide;

		if (!(mask >> level & 1))
			continue;
		printf("port %lu:", level);
		for (uint8_t count = 0; count < INS; count++) {
			uint8_t value = inb(OWN_PORT(level));

			printf(" 0x%x", value);
			if (value != port_answer(level, (uint8_t)(level * 7), count))
				wrong++;
		}
		/* wider than what the minivisor has: nobody's */
		wide = inl(OWN_PORT(level));
		printf(" wide 0x%x\n", wide);
		if (wide != 0xffffffff)
			wrong++;
	}
	return wrong;
}

void below_measure(uint64_t level, uint64_t count)
{
	MEASURE(count, cpuid(MARK_LEAF(level)))
	sample_print("cpuid", count);
	if (by_vmcall) {
		MEASURE(count, vmcall(HYPERCALL, level, i))
	} else {
		MEASURE(count, vmmcall(HYPERCALL, level, i))
	}
	sample_print("hypercall", count);
	MEASURE(count, inb(OWN_PORT(level)))
	sample_print("port", count);
}
