/* Addresses that are not ours, and stacks and page tables that cannot work. */
#include "wild.h"
#include "option.h"
#include "printf.h"
#include "start.h"
#include "trap.h"

enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80 };
enum { PORT_UNCLAIMED = 0x4321, PORT_SERIAL_STATUS = 0x3fd };

#define MIB (1UL << 20)
#define HOLE 0xd0000000UL
#define TABLE_ADDRESS 0x000ffffffffff000UL

static inline uint64_t read_cr3(void)
{
	uint64_t value;

	asm volatile("mov %%cr3, %0" : "=r"(value));
	return value;
}

static inline void write_cr3(uint64_t value)
{
	asm volatile("mov %0, %%cr3" :: "r"(value) : "memory");
}

/* A 2 MiB window at 4 GiB onto any physical address; the loader's map ends there. */
#define WINDOW FOUR_GIB

static void window_set(uint64_t entry)
{
	static uint64_t directory[512] __attribute__((aligned(4096)));
	uint64_t *pml4 = (uint64_t *)(read_cr3() & TABLE_ADDRESS), *pdpt = (uint64_t *)(pml4[0] & TABLE_ADDRESS);

	directory[0] = entry;
	pdpt[WINDOW >> 30] = (uint64_t)directory | PRESENT | WRITABLE;
	write_cr3(read_cr3());
}

static unsigned int physical_bits(void)
{
	uint32_t eax = 0x80000008, ecx = 0;

	asm volatile("cpuid" : "+a"(eax), "+c"(ecx) :: "ebx", "edx");
	return eax & 0xff;
}

/* To an address without memory, or that of at=ADDRESS. */
int jump_out(void)
{
	uint64_t address = option_number("at", HOLE);

	window_set((address & -(2 * MIB)) | PRESENT | WRITABLE | LARGE);
	((void (*)(void))(WINDOW + (address & (2 * MIB - 1))))();
	return 1;
}

/* 1 when what we write there stays: then it is memory, which nobody gave us. */
static int leaks(uint64_t address)
{
	volatile uint64_t *memory = (volatile uint64_t *)(WINDOW + (address & (2 * MIB - 1)));
	uint64_t secret = 0x5ec2e7 ^ address;

	window_set((address & -(2 * MIB)) | PRESENT | WRITABLE | LARGE);
	*memory = secret;
	if (*memory != secret)
		return 0;
	printf("memory at 0x%lx\n", address);
	return 1;
}

/* Above our RAM: densely at first, where a hypervisor may keep its own memory, then up to the last physical address.
 * at=ADDRESS tries this one only. */
int write_beyond(void)
{
	uint64_t limit = 1UL << physical_bits(), address = (ram_end + 2 * MIB - 1) & -(2 * MIB);
	int leaked = 0;

	if (option_text("at"))
		return leaks(option_number("at", 0));
	for (; address < ram_end + 64 * MIB; address += MIB / 2)
		leaked += leaks(address);
	for (address &= -(16 * MIB); address < FOUR_GIB; address += 16 * MIB)
		leaked += leaks(address);
	for (uint64_t step = 1UL << 30; address < limit; address += step, step *= 2)
		leaked += leaks(address);
	leaked += leaks(limit - 8);
	printf("%d addresses leak\n", leaked);
	return leaked ? 1 : 0;
}

/* String I/O from and to an address above our RAM: what a device would move there by DMA. Ports that nobody claims give all ones. */
int string_beyond(void)
{
	uint64_t address = option_number("at", FOUR_GIB);
	uint8_t *at = (uint8_t *)WINDOW + (address & (2 * MIB - 1)), before[64];
	void *place;
	uint64_t count;
	int changed = 0;

	window_set((address & -(2 * MIB)) | PRESENT | WRITABLE | LARGE);
	for (unsigned int i = 0; i < sizeof before; i++)
		before[i] = at[i];
	place = at, count = 16;
	asm volatile("rep outsb" : "+S"(place), "+c"(count) : "d"((uint16_t)PORT_UNCLAIMED) : "memory");
	place = at, count = sizeof before;
	asm volatile("rep insb" : "+D"(place), "+c"(count) : "d"((uint16_t)PORT_SERIAL_STATUS) : "memory");
	for (unsigned int i = 0; i < sizeof before; i++)
		changed += at[i] != before[i];
	printf("%d bytes changed\n", changed);
	return changed ? 1 : 0;
}

int mmio_storm(void)
{
	for (;;) {
		uint64_t address = HOLE + (next_random() & 0xfffffff);

		*(volatile uint8_t *)address = 1;
		*(volatile uint16_t *)address = 2;
		*(volatile uint32_t *)address = 3;
		*(volatile uint64_t *)address = 4;
		(void)*(volatile uint8_t *)address;
		(void)*(volatile uint64_t *)(address | 0xff9); /* across two pages */
	}
}

/* Below the stack is nothing: neither the page fault nor the double fault has a place for its frame. */
int stack_overflow(void)
{
	asm volatile("mov %0, %%rsp; 1: call 1b" :: "r"(16 * FOUR_GIB));
	return 1;
}

/* The stack is an address without memory: what is pushed is lost, and an exception's frame goes there too. */
int stack_hole(void)
{
	asm volatile("mov %0, %%rsp; push $0; ud2" :: "r"(HOLE + 4096));
	return 1;
}

/* Page tables where no memory is, or at at=ADDRESS. */
int cr3_outside(void)
{
	write_cr3(option_number("at", HOLE));
	return *(volatile int *)WINDOW ? 1 : 0;
}

/* A top-level table that is its own next level, down to the page: code, stack and IDT all become entries of that table. */
int cr3_self(void)
{
	static uint64_t table[512] __attribute__((aligned(4096)));

	for (unsigned int i = 0; i < 512; i++)
		table[i] = (uint64_t)table | PRESENT | WRITABLE;
	write_cr3((uint64_t)table);
	return 1;
}

/* Reserved bits in an entry: a page fault that says so, however the tables are shadowed. */
int reserved_bits(void)
{
	enum { ERROR_RESERVED = 8 };
	uint64_t value = 0;

	window_set(0x2000 | PRESENT | WRITABLE | LARGE); /* bits 13 to 20 of a 2 MiB entry are reserved */
	trap_clear();
	asm volatile(TRY("mov (%1), %0") : "+r"(value) : "r"(WINDOW) : "memory");
	printf("vector %d error 0x%lx\n", trap_vector(), trap_error());
	return trap_vector() == TRAP_PF && trap_error() & ERROR_RESERVED ? 0 : 1;
}
