/* VMX operation, and the state that an exit comes back to. */
#ifndef HOST_H
#define HOST_H

#include <stdint.h>

#define MSR_CR0_FIXED0 0x486
#define MSR_CR4_FIXED0 0x488

/* Enters VMX operation with an empty current VMCS. Stops where the processor cannot. */
void host_enable(void);

/* Fills the VMCS's host state, which is our own as it is now. */
void host_fill(void);

/* A control register's value with the bits that VMX operation wants, by the MSR of those that must be 1 and the next one. */
uint64_t host_fixed(uint64_t value, uint32_t msr);

#endif
