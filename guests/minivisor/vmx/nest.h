/* The guest's own VMX, for where nobody below emulates it: what it asks of a processor with VMX, minivisor does (Intel SDM vol. 3,
 * chapters 24 to 31). Its guest runs under a VMCS of ours, which is made of its VMCS and of the one that it is run by itself. */
#ifndef NEST_H
#define NEST_H

#include <stdbool.h>
#include <stdint.h>

#include "host.h"
#include "vendor.h"

/* The I/O bitmaps A and B, one behind the other; the MSR bitmap. */
#define IO_MAPS_SIZE 0x2000
#define MSR_MAP_SIZE 0x1000

/* The VMCS that the guest runs by; the one that runs now, and is the current one: that, or one for the guest's own guest. */
extern struct vmcs block;
extern struct vmcs *running;

/* Adds VMX's capability MSRs to an MSR bitmap. */
void nest_intercept_msrs(uint8_t *map);

/* The last exit: true when it was for the guest's VMX, and is done. */
bool nest_exit(struct exit *exit);

#endif
