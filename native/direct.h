/* The direct engine: level n is a plain KVM guest, and what KVM hands to userspace is what traps. */
#ifndef NV_DIRECT_H
#define NV_DIRECT_H

#include "vcpu.h"

/* fd and run: of the KVM vCPU that runs level n. */
void nv_direct_init(struct nv_vcpu *vcpu, int fd, struct kvm_run *run, uint8_t level);

/* Its operations, which the switcher engines fall back to: struct nv_engine_ops says what they do. */
int nv_direct_enter(struct nv_vcpu *vcpu);
void nv_direct_decode(struct nv_vcpu *vcpu, struct nv_event *event);
void nv_direct_complete(struct nv_vcpu *vcpu, struct nv_event *event);

/* Of an exit that KVM gave while kvm_valid_regs had KVM_SYNC_X86_REGS; else 0. */
uint64_t nv_direct_rip(const struct nv_vcpu *vcpu);

#endif
