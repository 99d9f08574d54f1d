#include <stdbool.h>

#include "below.h"
#include "io.h"
#include "offer.h"
#include "printf.h"
#include "sample.h"

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

static uint64_t vmmcall(uint64_t level, uint64_t value)
{
	uint64_t answer;

	asm volatile("vmmcall" : "=a"(answer) : "a"(HYPERCALL), "b"(level), "c"(value) : "memory");
	return answer;
}

static uint64_t vmcall(uint64_t level, uint64_t value)
{
	uint64_t answer;

	asm volatile("vmcall" : "=a"(answer) : "a"(HYPERCALL), "b"(level), "c"(value) : "memory");
	return answer;
}

static uint64_t hypercall(uint64_t level, uint64_t value)
{
	return by_vmcall ? vmcall(level, value) : vmmcall(level, value);
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

unsigned int below_hypercalls(uint64_t mask)
{
	unsigned int wrong = 0;

	for (uint64_t level = 1; level <= LEVEL_MAX; level++) {
		uint64_t answer;

		if (!(mask >> level & 1))
			continue;
		answer = hypercall(level, SALT);
		printf("hypercall %lu: 0x%lx\n", level, answer);
		if (answer != hypercall_answer(level, SALT))
			wrong++;
	}
	return wrong;
}

unsigned int below_ports(uint64_t mask)
{
	unsigned int wrong = 0;

	/* all are stored before any is read: a level that takes another's port is seen */
	for (uint64_t level = 1; level <= LEVEL_MAX; level++)
		if (mask >> level & 1)
			outb(OWN_PORT(level), (uint8_t)(level * 7));
	for (uint64_t level = 1; level <= LEVEL_MAX; level++) {
		if (!(mask >> level & 1))
			continue;
		printf("port %lu:", level);
		for (uint8_t count = 0; count < INS; count++) {
			uint8_t value = inb(OWN_PORT(level));

			printf(" 0x%x", value);
			if (value != port_answer(level, (uint8_t)(level * 7), count))
				wrong++;
		}
		printf("\n");
	}
	return wrong;
}

void below_measure(uint64_t level, uint64_t count)
{
	MEASURE(count, cpuid(MARK_LEAF(level)))
	sample_print("cpuid", count);
	if (by_vmcall) {
		MEASURE(count, vmcall(level, i))
	} else {
		MEASURE(count, vmmcall(level, i))
	}
	sample_print("hypercall", count);
	MEASURE(count, inb(OWN_PORT(level)))
	sample_print("port", count);
}
