#include "io.h"
#include "rtt.h"
#include "sample.h"
#include "trap.h"

/* Intel SDM vol. 3, table 10-1. */
enum { APIC = 0xfee00000, END_OF_INTERRUPT = 0xb0, SPURIOUS = 0xf0, TIMER = 0x320, INITIAL_COUNT = 0x380, DIVIDE = 0x3e0 };
enum { ENABLED = 0x100, BY_ONE = 0xb, SPURIOUS_VECTOR = 0x2f, VECTOR = 0x28 };
enum { PIC1_DATA = 0x21, PIC2_DATA = 0xa1 };

static volatile uint64_t arrived;

static void write(uint32_t at, uint32_t value)
{
	*(volatile uint32_t *)((uint64_t)APIC + at) = value;
}

static void take(struct trap_frame *frame)
{
	(void)frame;
	arrived = rdtsc();
	write(END_OF_INTERRUPT, 0);
}

void timer(uint64_t at, uint64_t count)
{
	(void)at;
	trap_handle(VECTOR, take);
	outb(PIC1_DATA, 0xff);
	outb(PIC2_DATA, 0xff);
	write(SPURIOUS, ENABLED | SPURIOUS_VECTOR);
	write(DIVIDE, BY_ONE);
	write(TIMER, VECTOR);
	asm volatile("sti");
	for (uint64_t i = 0; i < count; i++) {
		uint64_t before = rdtsc();

		arrived = 0;
		write(INITIAL_COUNT, 1);
		while (!arrived)
			asm volatile("pause");
		sample[i] = (uint32_t)(arrived - before);
	}
	asm volatile("cli");
}
