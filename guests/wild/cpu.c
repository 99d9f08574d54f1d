/* Instructions. */
#include "wild.h"
#include "printf.h"
#include "trap.h"

/* Rewrites a function between its calls: stale code would give a stale number. */
int self_modify(void)
{
	static uint8_t code[] __attribute__((aligned(16))) = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $number, %eax; ret */
	volatile uint8_t *byte = code;

	for (uint8_t number = 0;; number++) {
		asm volatile("cli"); /* Bochs sees interrupts of the host's in a guest that has them off only after such an instruction */
		byte[1] = number;
		if (((uint32_t (*)(void))code)() != number) {
			printf("stale code\n");
			return 1;
		}
	}
}

/* Every MSR of the usual blocks read, written with what it held, and written with zero or all ones if that was refused. */
int msr_storm(void)
{
	static const struct {
		uint32_t first, last;
	} block[] = {
		{0, 0x3ff}, {0x400, 0x4ff}, {0x800, 0x8ff}, {0xc00, 0xcff}, {0x1000, 0x100f}, {0x40000000, 0x4000011f},
		{0x4b564d00, 0x4b564d0f}, {0x4e560000, 0x4e5600ff}, {0xc0000080, 0xc0000110}, {0xc0010000, 0xc00100ff},
		{0xc0010110, 0xc001011f}, {0xfffffff0, 0xffffffff},
	};
	unsigned int read = 0, written = 0, refused = 0;

	for (unsigned int i = 0; i < sizeof block / sizeof *block; i++) {
		for (uint64_t index = block[i].first; index <= block[i].last; index++) {
			uint64_t value = try_rdmsr((uint32_t)index);

			if (trap_vector() == TRAP_NONE) {
				read++;
				if (try_wrmsr((uint32_t)index, value) == TRAP_NONE)
					written++;
			} else {
				refused++;
				if (try_wrmsr((uint32_t)index, 0) == TRAP_NONE)
					written++;
			}
		}
	}
	printf("%u MSRs read, %u refused, %u written\n", read, refused, written);
	return 0;
}

int exception_storm(void)
{
	for (;;) {
		asm volatile(TRY("ud2") ::: "memory");
		asm volatile(TRY("mov (%0), %%al") :: "r"(1UL << 63) : "al", "memory");
		asm volatile(TRY("mov (%0), %%al") :: "r"(1UL << 40) : "al", "memory");
	}
}

static uint64_t safe_rip, safe_rsp;

/* Whatever the exception: back to garbage(), on its stack. */
static void escape(struct trap_frame *frame)
{
	frame->rip = safe_rip;
	frame->rsp = safe_rsp;
	frame->rflags = 2;
}

/* Calls code that may do anything; comes back if it returns with its stack in order, or by an exception. */
static void call_garbage(const void *code)
{
	asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %[rip]\n"
		     "push %%rbp; mov %%rsp, %[rsp]\n"
		     "call *%[code]\n"
		     "1: mov %[rsp], %%rsp; pop %%rbp; cld\n"
		     : [rip] "=m"(safe_rip), [rsp] "=m"(safe_rsp), [code] "+c"(code)
		     :: "rax", "rbx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}

/* Random bytes as code, 1000 times. They may loop, or destroy this program: any exit status will do. */
int garbage(void)
{
	static uint8_t code[64];

	for (unsigned int vector = 0; vector < 32; vector++)
		trap_handle(vector, escape);
	for (unsigned int i = 0; i < 1000; i++) {
		for (unsigned int k = 0; k < sizeof code; k++)
			code[k] = (uint8_t)(next_random() >> 8);
		call_garbage(code);
	}
	printf("survived\n");
	return 0;
}
