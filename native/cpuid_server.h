/* CPUID of level n, answered by L0: what the exposure says, and the bits that depend on level n's state.
 * AMD APM vol. 3, appendix E; Intel SDM vol. 2, CPUID. */
#ifndef NV_CPUID_SERVER_H
#define NV_CPUID_SERVER_H

#include <linux/kvm.h>

#include "event.h"

struct nv_cpuid {
	const struct kvm_cpuid_entry2 *entries;
	uint32_t count;
	int fd;                  /* of the KVM vCPU, which has XCR0 and XSS */
	uint64_t *regs;          /* level n's, as the mailbox has them while it is outside */
	const uint64_t *cr4;     /* as level n sees it */
};

/* EAX, EBX, ECX and EDX of a leaf. One that is not there reads 0; on Intel's processors, one beyond the last basic leaf reads as that. */
void nv_cpuid_leaf(const struct nv_cpuid *cpuid, uint32_t leaf, uint32_t subleaf, uint32_t answer[4]);

/* An nv_serve_fn: answers an intercepted CPUID in the registers. */
int nv_cpuid_serve(void *device, uint64_t offset, struct nv_event *event);

#endif
