/* The direct engine: level n is a plain KVM guest, and what KVM hands to userspace is what traps. */
#ifndef NV_DIRECT_H
#define NV_DIRECT_H

#include "vcpu.h"

/* fd and run: of the KVM vCPU that runs level n. */
void nv_direct_init(struct nv_vcpu *vcpu, int fd, struct kvm_run *run, uint8_t level);

#endif
