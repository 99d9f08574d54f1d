/* What SVM and VMX do alike: svm/vendor.c or vmx/vendor.c. */
#ifndef VENDOR_H
#define VENDOR_H

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"

/* The guest's general registers but RSP, while it is stopped: in the order that world.S pops them. */
struct registers {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
};

enum exit_reason {
	EXIT_CPUID,
	EXIT_HYPERCALL,
	EXIT_PORT,
	EXIT_TRAP,      /* #DB, with the option `traps` */
	EXIT_OUTSIDE,   /* not mapped by the nested page tables */
	EXIT_SHUTDOWN,
	EXIT_REFUSED,   /* the control block is not taken */
	EXIT_OTHER,
};

struct exit {
	enum exit_reason reason;
	uint64_t code;       /* the vendor's number */
	uint64_t rip;
	uint64_t address;    /* EXIT_OUTSIDE: the guest's physical address; of a string instruction: its linear address, 0: SVM does not tell */
	uint16_t port;       /* EXIT_PORT */
	uint8_t size;
	bool in, string;
};

/* "SVM" or "VMX". */
extern const char vendor_name[];

/* Rights in entries of nested page tables: of a table, of a 2 MiB page. */
extern const uint64_t vendor_table, vendor_page;

extern struct registers guest_registers;

/* Stops where the processor lacks what is needed. */
void vendor_init(const struct guest_start *start);

/* Runs the guest until it stops. */
void vendor_run(struct exit *exit);

/* The guest goes on behind the instruction that it stopped at. */
void vendor_skip(void);

/* It takes an invalid-opcode exception there. */
void vendor_undefined(void);

/* It takes this event: its vector, and its kind as both vendors number it. */
void vendor_inject(uint64_t event);

/* It takes the #DB that it stopped for. */
void vendor_trap(void);

/* Its RFLAGS. */
uint64_t vendor_flags(void);

/* Asks the hypervisor below. */
uint64_t vendor_hypercall(uint64_t number, uint64_t wanted, uint64_t value);

#endif
