/* The guest at its start: the image in its memory, and the state that guests/README.md promises. */
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>

#include "next.h"

/* Long mode, CPL 0, interrupts off. CS and the other segments are those of this GDT. */
struct guest_start {
	uint64_t rip, rsp, rdi, rsi, cr3, gdt_base;
	uint16_t gdt_limit;
};

#define GUEST_CS 0x10
#define GUEST_DS 0x18
#define GUEST_CR4 0x20 /* PAE */
#define GUEST_CR0 0x80000031 /* PG, NE, ET, PE */
#define GUEST_EFER 0x500 /* LMA, LME */
#define GUEST_DR7 0x400
#define GUEST_RFLAGS 2

/* Stops for an image that is no ELF64 executable or does not fit. */
void guest_load(const struct next *next, struct guest_start *start);

#endif
