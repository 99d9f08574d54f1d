/* VMX operation, and the state that an exit comes back to. */
#ifndef HOST_H
#define HOST_H

#include <stdint.h>

#define MSR_VMX_BASIC 0x480
#define MSR_CR0_FIXED0 0x486
#define MSR_CR4_FIXED0 0x488

/* A VMCS of ours, which must lie on a page of its own. */
struct vmcs {
	uint32_t region[1024];
	int launched;            /* a guest was entered by it */
} __attribute__((aligned(4096)));

/* Enters VMX operation, without a current VMCS. Stops where the processor cannot. */
void host_enable(void);

/* A VMCS becomes the current one. clear: for the first time. */
void host_use(struct vmcs *vmcs);
void host_clear(struct vmcs *vmcs);

/* Fills the VMCS's host state, which is our own as it is now. */
void host_fill(void);

/* A control register's value with the bits that VMX operation wants, by the MSR of those that must be 1 and the next one. */
uint64_t host_fixed(uint64_t value, uint32_t msr);

#endif
