/* The test areas: ports, a memory hole and MSRs, four of each, so that a tower can give each one to another level. */
#include "events.h"
#include "io.h"
#include "trap.h"

static void string_in(uint16_t port, void *to, unsigned int size)
{
	uint64_t count = STRING_COUNT;

	switch (size) {
	case 1: asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(port) : "memory"); break;
	case 2: asm volatile("rep insw" : "+D"(to), "+c"(count) : "d"(port) : "memory"); break;
	case 4: asm volatile("rep insl" : "+D"(to), "+c"(count) : "d"(port) : "memory"); break;
	}
}

static void string_out(uint16_t port, const void *from, unsigned int size)
{
	uint64_t count = STRING_COUNT;

	switch (size) {
	case 1: asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory"); break;
	case 2: asm volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory"); break;
	case 4: asm volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory"); break;
	}
}

static uint64_t in(uint16_t port, unsigned int size)
{
	return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}

static void out(uint16_t port, uint64_t value, unsigned int size)
{
	if (size == 1)
		outb(port, (uint8_t)value);
	else if (size == 2)
		outw(port, (uint16_t)value);
	else
		outl(port, (uint32_t)value);
}

/* 16 elements written, each another: the echo shows their values, number and order. */
static void string_out_event(uint16_t base, unsigned int size)
{
	uint8_t bytes[4 * STRING_COUNT];
	uint64_t echo = 0;

	for (unsigned int i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)(0x35 + 7 * i);
	for (unsigned int i = 0; i < STRING_COUNT; i++) {
		uint64_t element = 0;

		for (unsigned int k = size; k-- > 0;)
			element = element << 8 | bytes[size * i + k];
		echo = 31 * echo + element;
	}
	string_out((uint16_t)(base + 8 + size), bytes, size);
	check("io outs", base + 8 + size, size, inl(base + ECHO), truncate(echo, 4));
}

/* 16 elements read from the stream: each is one more than the one before. */
static void string_in_event(uint16_t base, unsigned int size)
{
	uint64_t start = 0x41424344, got = 0;
	uint8_t bytes[4 * STRING_COUNT];
	unsigned int right = 0;

	outl(base + STREAM, (uint32_t)start);
	inl(base + ECHO);
	string_in(base + STREAM, bytes, size);
	for (unsigned int i = 0; i < STRING_COUNT; i++) {
		got = 0;
		for (unsigned int k = size; k-- > 0;)
			got = got << 8 | bytes[size * i + k];
		right += got == truncate(start + i, size);
	}
	check("io ins", base + STREAM, size, right, STRING_COUNT);
}

void ports_events(unsigned int area)
{
	uint16_t base = (uint16_t)(PORTS + PORTS_STRIDE * area);

	for (unsigned int size = 1; size <= 4; size *= 2) {
		uint16_t port = (uint16_t)(base + size);

		check("io in", port, size, in(port, size), answer(port, size));
		out(port, request(port, size), size);
		check("io out", port, size, inl(base + ECHO), request(port, size));
		string_out_event(base, size);
		string_in_event(base, size);
	}
}

static uint64_t load(uint64_t address, unsigned int size)
{
	switch (size) {
	case 1: return *(volatile uint8_t *)address;
	case 2: return *(volatile uint16_t *)address;
	case 4: return *(volatile uint32_t *)address;
	default: return *(volatile uint64_t *)address;
	}
}

static void store(uint64_t address, uint64_t value, unsigned int size)
{
	switch (size) {
	case 1: *(volatile uint8_t *)address = (uint8_t)value; break;
	case 2: *(volatile uint16_t *)address = (uint16_t)value; break;
	case 4: *(volatile uint32_t *)address = (uint32_t)value; break;
	default: *(volatile uint64_t *)address = value;
	}
}

void hole_events(unsigned int area)
{
	uint64_t base = HOLE + HOLE_STRIDE * area;

	for (unsigned int size = 1; size <= 8; size *= 2) {
		uint64_t address = base + size;

		check("mmio read", address, size, load(address, size), answer(address, size));
		store(address, request(address, size), size);
		check("mmio write", address, size, load(base + ECHO, 8), request(address, size));
	}
}

void msr_events(unsigned int area)
{
	uint32_t base = MSRS + MSRS_STRIDE * area, index = base + 8;
	uint64_t value = try_rdmsr(index);

	if (trap_vector() == TRAP_NONE)
		check("rdmsr", index, 8, value, answer(index, 8));
	else
		check_word("rdmsr", trap_name(trap_vector()), "none");
	if (try_wrmsr(index, request(index, 8)) == TRAP_NONE)
		check("wrmsr", index, 8, try_rdmsr(base + ECHO), request(index, 8));
	else
		check_word("wrmsr", trap_name(trap_vector()), "none");
	try_rdmsr(base + FAULT);
	check_word("rdmsr", trap_name(trap_vector()), "#GP");
	check_word("wrmsr", trap_name(try_wrmsr(base + FAULT, 0)), "#GP");
}
