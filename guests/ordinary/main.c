/* Switches x87 and SSE on, as an operating system does, then calls what was compiled without a thought of that. */
#include "option.h"
#include "start.h"
#include "work.h"

#define CR0_MP (1UL << 1)
#define CR0_EM (1UL << 2)
#define CR0_TS (1UL << 3)
#define CR0_NE (1UL << 5)
#define CR4_OSFXSR (1UL << 9)
#define CR4_OSXMMEXCPT (1UL << 10)

static void enable_vectors(void)
{
	uint64_t cr0, cr4;

	asm volatile("mov %%cr0, %0" : "=r"(cr0));
	asm volatile("mov %0, %%cr0" :: "r"((cr0 & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE));
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" :: "r"(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT));
	asm volatile("fninit");
}

int main(uint64_t ram)
{
	(void)ram;
	enable_vectors();
	for (uint64_t rounds = option_number("rounds", 1); rounds; rounds--)
		work();
	return 0;
}
