/* The test areas' protocol, which README.md describes, and the count of failed checks. */
#ifndef EVENTS_H
#define EVENTS_H

#include <stdint.h>

enum { AREAS = 4, STRING_COUNT = 16 };
enum { PORTS = 0x5000, PORTS_STRIDE = 0x100, MSRS = 0x4e560000, MSRS_STRIDE = 0x40 };
#define HOLE 0xd0000000UL
#define HOLE_STRIDE 0x1000UL

/* Registers of an area. Below ECHO, each one reads as answer(). */
enum { ECHO = 0x30, STREAM = 0x38, FAULT = 0x3f };

/* The low bytes of v, as many as size says: 1 to 8. */
static inline uint64_t truncate(uint64_t v, unsigned int size)
{
	return v & (~0UL >> (64 - 8 * size));
}

/* What a read at this address gives. */
static inline uint64_t answer(uint64_t address, unsigned int size)
{
	return truncate(0x0123456789abcdef ^ (address & 0x3f) * 0x0101010101010101, size);
}

/* What we write at this address: no two writes of a run look alike. */
static inline uint64_t request(uint64_t address, unsigned int size)
{
	return truncate(0x8877665544332211 + (address & 0xffff) * 0x0102010201020102, size);
}

extern unsigned int failed;

/* Prints an event's line, `what address size -> got ok`, and counts it as failed unless got is what was expected. */
void check(const char *what, uint64_t address, unsigned int size, uint64_t got, uint64_t expected);

/* Each prints `what -> outcome ok`. */
void check_word(const char *what, const char *got, const char *expected);

/* The name of what TRY() recorded: "#GP", "#UD", ... or "no exception". */
const char *trap_name(int vector);

/* All events of area 0 to AREAS - 1. */
void ports_events(unsigned int area);
void hole_events(unsigned int area);
void msr_events(unsigned int area);

void popcnt_event(void);
void breakpoint_event(const char *expected);
void read_only_event(uint64_t address);
void fault_event(uint64_t address);
void interrupt_event(void);
void hlt_event(void);
void shutdown_event(void);

#endif
