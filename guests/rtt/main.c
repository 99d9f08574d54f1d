/* What one exit costs: `KIND [count=N] [at=ADDRESS]` runs one instruction N times between two RDTSCs and prints the cycles;
 * `KIND forever [at=ADDRESS]` runs it without end and without RDTSC, for measurements from outside. */
#include "io.h"
#include "option.h"
#include "printf.h"
#include "sample.h"
#include "start.h"

#define STATUS_USAGE 2

enum { PORT = 0x5000, HOLE = 0xd0000000, MSR = 0x4e560000 };

/* A kind's two loops. */
#define KIND(name, instruction) \
	static void name(uint64_t at, uint64_t count) \
	{ \
		(void)at; \
		MEASURE(count, instruction) \
	} \
	static void name##_forever(uint64_t at) \
	{ \
		(void)at; \
		for (;;) \
			instruction; \
	}

KIND(none, asm volatile(""))
KIND(port_in, asm volatile("inb %w0, %%al" :: "d"(at) : "al"))
KIND(port_out, asm volatile("outb %%al, %w0" :: "d"(at), "a"(0)))
KIND(mmio, asm volatile("movl (%0), %%eax" :: "r"(at) : "eax"))
KIND(mmio_write, asm volatile("movl %0, (%1)" :: "r"(0), "r"(at)))
KIND(msr, asm volatile("rdmsr" :: "c"(at) : "eax", "edx"))
KIND(msr_write, asm volatile("wrmsr" :: "c"(at), "a"(0), "d"(0)))
KIND(cpuid, asm volatile("cpuid" :: "a"(0), "c"(0) : "ebx", "edx"))

static const struct kind {
	const char *name;
	uint64_t at;
	void (*measure)(uint64_t at, uint64_t count);
	void (*forever)(uint64_t at);
} kinds[] = {
	{"none", 0, none, none_forever},
	{"port-in", PORT, port_in, port_in_forever},
	{"port-out", PORT, port_out, port_out_forever},
	{"mmio", HOLE, mmio, mmio_forever},
	{"mmio-write", HOLE, mmio_write, mmio_write_forever},
	{"msr", MSR, msr, msr_forever},
	{"msr-write", MSR, msr_write, msr_write_forever},
	{"cpuid", 0, cpuid, cpuid_forever},
};

int main(uint64_t ram)
{
	uint64_t count = option_number("count", 1000);

	(void)ram;
	for (const struct kind *kind = kinds; kind < kinds + sizeof kinds / sizeof *kinds; kind++) {
		if (!option_word(kind->name))
			continue;
		if (option_word("forever"))
			kind->forever(option_number("at", kind->at));
		if (count < 1 || count > SAMPLES_MAX) {
			printf("rtt: count is %lu, must be 1 to %u\n", count, SAMPLES_MAX);
			return STATUS_USAGE;
		}
		kind->measure(option_number("at", kind->at), count);
		sample_print(kind->name, count);
		return 0;
	}
	printf("rtt: name a kind:");
	for (const struct kind *kind = kinds; kind < kinds + sizeof kinds / sizeof *kinds; kind++)
		printf(" %s", kind->name);
	printf("\n");
	return STATUS_USAGE;
}
