/* Ports. */
#include "wild.h"
#include "io.h"
#include "printf.h"
#include "serial.h"
#include "start.h"
#include "trap.h"

enum { PORT_POST = 0x80, PORT_UNCLAIMED = 0x4321 };

int io_storm(void)
{
	for (;;) {
		outb(PORT_POST, 1);
		outb(PORT_UNCLAIMED, 2);
		inl(PORT_UNCLAIMED);
	}
}

/* Never asks whether the transmitter is ready. */
int serial_storm(void)
{
	for (;;)
		outb(SERIAL, 'x');
}

/* Any value to any register, with any size, across the 16550's end. */
int serial_registers(void)
{
	for (;;) {
		uint32_t random = next_random();
		uint16_t port = (uint16_t)(SERIAL + (random & 7));

		outb(port, (uint8_t)(random >> 8));
		outw(port, (uint16_t)(random >> 8));
		outl(port, random);
		inb(port);
		inl(port);
	}
}

/* Runs a string instruction; place is the constraint of its address: the vector that it faulted with, or TRAP_NONE. */
#define TRY_STRING(instruction, place, address, count, port) ({ \
	uint64_t address_ = (address), count_ = (count); \
	trap_clear(); \
	asm volatile(instruction : place(address_), "+c"(count_) : "d"(port) : "memory"); \
	trap_vector(); })

/* String I/O whose addresses leave RAM, leave the page tables, or wrap. */
int string_wrap(void)
{
	int beyond, below, wrapped, hole, across;

	/* The map ends at 4 GiB: #PF. */
	beyond = TRY_STRING(TRY("rep outsb"), "+S", FOUR_GIB - 8, 16, PORT_POST);
	/* What comes below 0 is not mapped: #PF. */
	below = TRY_STRING("std\n" TRY("rep outsb") "cld", "+S", 7, 16, PORT_POST);
	/* 32-bit addresses wrap to 0. */
	wrapped = TRY_STRING(TRY("addr32 rep outsb"), "+S", FOUR_GIB - 8, 16, PORT_POST);
	/* Into addresses without memory, and half way into them. */
	hole = TRY_STRING(TRY("rep insb"), "+D", FOUR_GIB - 0x10000000, 16, PORT_UNCLAIMED);
	across = TRAP_NONE;
	if (ram_end <= RAM_BELOW_4G_MAX)
		across = TRY_STRING(TRY("rep insb"), "+D", ram_end - 8, 16, PORT_UNCLAIMED);
	printf("vectors %d %d %d %d %d\n", beyond, below, wrapped, hole, across);
	return beyond == TRAP_PF && below == TRAP_PF && wrapped == TRAP_NONE && hole == TRAP_NONE && across == TRAP_NONE ? 0 : 1;
}

/* 2^64 - 1 elements: over all memory, until the map ends; and again. */
int string_endless(void)
{
	for (;;)
		TRY_STRING(TRY("rep outsb"), "+S", 0, ~0UL, PORT_POST);
}

/* Accesses of 4 bytes at most that would end or reset the machine, were they made. */
static int ends_the_run(uint16_t port)
{
	static const uint16_t last_byte[] = {0x64, 0x92, 0xf4, 0xf7, 0x605, 0xcf9};

	for (unsigned int i = 0; i < sizeof last_byte / sizeof *last_byte; i++)
		if (port <= last_byte[i] && port + 3 >= last_byte[i])
			return 1;
	return 0;
}

/* Each port of the first 4096 read and written in each size, those of L0's devices among them. */
int port_sweep(void)
{
	for (uint16_t port = 0; port < 0x1000; port++) {
		uint32_t random = next_random();

		if (ends_the_run(port))
			continue;
		inb(port), inw(port), inl(port);
		outb(port, (uint8_t)random), outw(port, (uint16_t)random), outl(port, random);
	}
	serial_init();
	printf("swept\n");
	return 0;
}
