/* What one exit costs: `KIND [runs=N] [count=N] [at=ADDRESS] [bell=PORT] [list]` runs one instruction `count` times between two RDTSCs
 * each, prints the least and the median of the cycles, or all with `list`, and that `runs` times; `KIND forever [at=ADDRESS]` runs it
 * without end and without RDTSC, for measurements from outside. A byte written to `bell` says that a run begins, one to the port behind
 * it that it is over. */
#include <stddef.h>

#include "io.h"
#include "offer.h"
#include "option.h"
#include "printf.h"
#include "rtt.h"
#include "sample.h"
#include "start.h"

#define STATUS_USAGE 2
#define RUNS_MAX 100000

enum { PORT = 0x5000, HOLE = 0xd0000000, MSR = 0x4e560000, FRESH = 0x1000000 };

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

static inline void do_cpuid(uint32_t leaf)
{
	uint32_t subleaf = 0;

	asm volatile("cpuid" : "+a"(leaf), "+c"(subleaf) :: "ebx", "edx");
}

static inline void do_vmcall(uint64_t level)
{
	uint64_t number = HYPERCALL;

	asm volatile("vmcall" : "+a"(number) : "b"(level), "c"(0) : "memory");
}

static inline void do_vmmcall(uint64_t level)
{
	uint64_t number = HYPERCALL;

	asm volatile("vmmcall" : "+a"(number) : "b"(level), "c"(0) : "memory");
}

KIND(none, asm volatile(""))
KIND(port_in, asm volatile("inb %w0, %%al" :: "d"(at) : "al"))
KIND(port_out, asm volatile("outb %%al, %w0" :: "d"(at), "a"(0)))
KIND(mmio, asm volatile("movl (%0), %%eax" :: "r"(at) : "eax"))
KIND(mmio_write, asm volatile("movl %0, (%1)" :: "r"(0), "r"(at)))
KIND(msr, asm volatile("rdmsr" :: "c"(at) : "eax", "edx"))
KIND(msr_write, asm volatile("wrmsr" :: "c"(at), "a"(0), "d"(0)))
KIND(cpuid, do_cpuid((uint32_t)at))
KIND(vmcall, do_vmcall(at))
KIND(vmmcall, do_vmmcall(at))

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
	{"vmcall", 1, vmcall, vmcall_forever},
	{"vmmcall", 1, vmmcall, vmmcall_forever},
	{"page", FRESH, page, NULL},
	{"timer", 0, timer, NULL},
};

static int measure(const struct kind *kind)
{
	uint64_t count = option_number("count", 1000), runs = option_number("runs", 1), bell = option_number("bell", 0);
	uint64_t at = option_number("at", kind->at);

	if (count < 1 || count > SAMPLES_MAX) {
		printf("rtt: count is %lu, must be 1 to %u\n", count, SAMPLES_MAX);
		return STATUS_USAGE;
	}
	if (runs < 1 || runs > RUNS_MAX) {
		printf("rtt: runs is %lu, must be 1 to %u\n", runs, RUNS_MAX);
		return STATUS_USAGE;
	}
	for (uint64_t run = 0; run < runs; run++) {
		if (bell)
			outb((uint16_t)bell, 0);
		kind->measure(at, count);
		if (bell)
			outb((uint16_t)(bell + 1), 0);
		if (option_word("list"))
			sample_list(kind->name, count);
		else
			sample_print(kind->name, count);
	}
	return 0;
}

int main(uint64_t ram)
{
	(void)ram;
	for (const struct kind *kind = kinds; kind < kinds + sizeof kinds / sizeof *kinds; kind++) {
		if (!option_word(kind->name))
			continue;
		if (!option_word("forever"))
			return measure(kind);
		if (kind->forever)
			kind->forever(option_number("at", kind->at));
		printf("rtt: %s does not go on forever\n", kind->name);
		return STATUS_USAGE;
	}
	printf("rtt: name a kind:");
	for (const struct kind *kind = kinds; kind < kinds + sizeof kinds / sizeof *kinds; kind++)
		printf(" %s", kind->name);
	printf("\n");
	return STATUS_USAGE;
}
