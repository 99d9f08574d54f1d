/* The events that are no access to a test area. */
#include "events.h"
#include "io.h"
#include "serial.h"
#include "trap.h"

/* An instruction that some KVMs cannot emulate; the hardware or a hypervisor that emulates it give the same result. */
void popcnt_event(void)
{
	uint64_t count = 0;

	trap_clear();
	asm volatile(TRY(".byte 0xf3, 0x48, 0x0f, 0xb8, 0xc3") /* popcnt %rbx, %rax */
		     : "+a"(count) : "b"(0x123456789abcdef0) : "cc", "memory");
	if (trap_vector() == TRAP_NONE)
		check("popcnt", 0x123456789abcdef0, 8, count, 32);
	else
		check_word("popcnt", trap_name(trap_vector()), "none");
}

static volatile unsigned int breakpoints;

static void count_breakpoint(struct trap_frame *frame)
{
	(void)frame;
	breakpoints++;
}

/* INT3 reaches our own IDT, unless a monitor that debugs this guest takes it and resumes behind it. */
void breakpoint_event(const char *expected)
{
	trap_handle(TRAP_BP, count_breakpoint);
	asm volatile("int3" ::: "memory");
	trap_handle(TRAP_BP, 0);
	check_word("int3", breakpoints ? "guest" : "monitor", expected);
}

/* A write to memory that a level may only read changes nothing. */
void read_only_event(uint64_t address)
{
	volatile uint64_t *memory = (volatile uint64_t *)address;
	uint64_t before = *memory;

	*memory = ~before;
	check("read-only", address, 8, *memory, before);
}

/* Memory that the monitor took away: whoever handles the fault answers as for the hole, or gives memory that holds the answer. */
void fault_event(uint64_t address)
{
	check("fault", address, 8, *(volatile uint64_t *)address, answer(address, 8));
}

enum { PIC1 = 0x20, PIC1_DATA = 0x21, PIC2 = 0xa0, PIC2_DATA = 0xa1, PIC_EOI = 0x20, VECTOR_BASE = 32, IRQ_SERIAL = 4 };

static volatile unsigned int interrupts;

static void count_interrupt(struct trap_frame *frame)
{
	(void)frame;
	inb(SERIAL + 2); /* reading its identification clears the 16550's transmitter interrupt */
	outb(PIC1, PIC_EOI);
	interrupts++;
}

/* The 16550's transmitter-empty interrupt, by the PIC. Waits some 100,000 instructions for it. */
void interrupt_event(void)
{
	outb(PIC1, 0x11), outb(PIC1_DATA, VECTOR_BASE), outb(PIC1_DATA, 4), outb(PIC1_DATA, 1);
	outb(PIC2, 0x11), outb(PIC2_DATA, VECTOR_BASE + 8), outb(PIC2_DATA, 2), outb(PIC2_DATA, 1);
	outb(PIC1_DATA, (uint8_t)~(1 << IRQ_SERIAL));
	outb(PIC2_DATA, 0xff);
	trap_handle(VECTOR_BASE + IRQ_SERIAL, count_interrupt);
	outb(SERIAL + 1, 2);
	asm volatile("sti" ::: "memory");
	for (unsigned int i = 0; i < 50000 && !interrupts; i++)
		asm volatile("pause");
	asm volatile("cli" ::: "memory");
	outb(SERIAL + 1, 0);
	outb(PIC1_DATA, 0xff);
	check_word("interrupt", interrupts ? "seen" : "lost", "seen");
}

/* HLT with interrupts off: only a monitor that handles it lets us go on. */
void hlt_event(void)
{
	asm volatile("hlt" ::: "memory");
	check_word("hlt", "resumed", "resumed");
}

/* An exception that nothing can deliver. */
void shutdown_event(void)
{
	trap_drop();
	asm volatile("ud2");
}
