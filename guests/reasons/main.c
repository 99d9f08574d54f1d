/* One event for each level of tower.toml, count=N times (100): CPUID, RDTSC, RDMSR and WRMSR, port output, UD2. Prints what the levels
 * answered; the exit status is the number of answers that are wrong. levels.py has the other side. */
#include "io.h"
#include "option.h"
#include "printf.h"
#include "start.h"

enum { LEAF = 0x40000100, MSR = 0x4e560000, PORT_POST = 0x80 };

static unsigned int wrong;

static void expect(const char *what, uint64_t got, uint64_t wanted)
{
	if (got == wanted)
		return;
	wrong++;
	printf("%s gave 0x%lx, not 0x%lx\n", what, got, wanted);
}

static uint32_t cpuid(uint32_t leaf, uint32_t subleaf)
{
	asm volatile("cpuid" : "+a"(leaf), "+c"(subleaf) :: "ebx", "edx");
	return leaf;
}

static uint64_t rdtsc(void)
{
	uint32_t low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static uint64_t rdmsr(uint32_t index)
{
	uint32_t low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return (uint64_t)high << 32 | low;
}

static void wrmsr(uint32_t index, uint64_t value)
{
	asm volatile("wrmsr" :: "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

/* UD2, as an instruction of its own: the level that handles it doubles RAX. */
static uint64_t undefined(uint64_t value)
{
	asm volatile("ud2" : "+a"(value));
	return value;
}

int main(uint64_t ram)
{
	uint64_t count = option_number("count", 100);

	(void)ram;
	for (uint64_t i = 1; i <= count; i++) {
		expect("cpuid", cpuid(LEAF, (uint32_t)i), (uint32_t)i ^ 0x4c33);
		expect("rdtsc", rdtsc(), i << 40);
		wrmsr(MSR, i << 33 | i);
		expect("rdmsr", rdmsr(MSR), (i << 33 | i) + 1);
		expect("ud2", undefined(i), 2 * i);
		outb(PORT_POST, (uint8_t)i);
	}
	printf("%lu rounds: cpuid 0x%x rdtsc 0x%lx rdmsr 0x%lx ud2 0x%lx, %u wrong\n", count, cpuid(LEAF, 1), rdtsc(), rdmsr(MSR),
	       undefined(21), wrong);
	return wrong > 100 ? 100 : (int)wrong;
}
