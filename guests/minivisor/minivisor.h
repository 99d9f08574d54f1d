/* minivisor: a hypervisor that holds one guest, which can be a minivisor. What all its files share. */
#ifndef MINIVISOR_H
#define MINIVISOR_H

#include <stdint.h>

#include "io.h"
#include "printf.h"

/* Exit statuses; TRAP_STATUS (254) is an exception of its own. */
enum {
	STATUS_USAGE = 2,     /* cannot start: the command line, the processor, the next image */
	STATUS_EXTRAS = 249,  /* what `extras` uses of VMX did not do what it should */
	STATUS_OUTSIDE = 250, /* its guest touched what is not its memory */
	STATUS_NESTING = 251, /* its guest is a hypervisor that it does not nest: one of 32 bits or of five levels, or with lists of MSRs */
	STATUS_REFUSED = 252, /* the processor refused to enter the guest */
	STATUS_STOPPED = 253, /* its guest shut down, or stopped for what minivisor knows nothing of */
};

/* The level that this minivisor is at; its guest is at level + 1. */
extern uint64_t level;

#define stop(status, ...) \
	do { \
		printf("minivisor %lu: ", level); \
		printf(__VA_ARGS__); \
		printf("\n"); \
		debug_exit(status); \
	} while (0)

#endif
