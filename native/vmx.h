/* The vmx engine: level n runs by VMLAUNCH and VMRESUME in the switcher, under a VMCS that L0 fills. What its controls ask for rings
 * the doorbell; everything else is as in the direct engine. */
#ifndef NV_VMX_H
#define NV_VMX_H

#include "switched.h"
#include "switcher/vmx_block.h"
#include "vmcs.h"

/* What is read after an exit, as far as its basic reason needs it. */
#define NV_VMX_RIP 0
#define NV_VMX_RSP 1
#define NV_VMX_RFLAGS 2
#define NV_VMX_LENGTH 3
#define NV_VMX_INTERRUPTIBILITY 4
#define NV_VMX_QUALIFICATION 5
#define NV_VMX_VECTORING 6
#define NV_VMX_VECTORING_ERROR 7
#define NV_VMX_INTERRUPTION 8
#define NV_VMX_INTERRUPTION_ERROR 9
#define NV_VMX_PHYSICAL 10
#define NV_VMX_INSTRUCTION 11
#define NV_VMX_LINEAR 12

struct nv_vmx {
	struct nv_switched switched;
	struct nv_vmx_block *block;
	uint64_t pin, primary, secondary, exceptions; /* the controls as L0 wants them, whatever a passed instruction needs */
	uint64_t cr0_mask, cr4_mask;
	uint8_t passing;         /* an instruction that a control stopped executes by one step with that control off */
	uint8_t cr0_ne;          /* the NE bit that it writes to CR0 */
	uint64_t passed_rip;     /* where it is */
};

/* A field of the VMCS at level n's next entry or the next exchange, whichever comes first; of two values the later one. */
void nv_vmx_put(struct nv_vmx *vmx, uint64_t encoding, uint64_t value);

/* Writes what nv_vmx_put was given, and reads fields into their values, at most NV_VMX_READS, without running level n, which is outside.
 * A negative errno; -EIO when the switcher failed or was refused. */
int nv_vmx_exchange(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count);

/* What the pending exit stopped happens after all. An instruction executes on the processor, or its part without effect on others is
 * done here. 0: that is not possible. */
int nv_vmx_pass(struct nv_vcpu *vcpu);

/* Level n takes this event at its next entry, of a kind NV_EVENT_*; error_code is ignored unless has_error_code. */
void nv_vmx_inject(struct nv_vmx *vmx, int kind, uint8_t vector, int has_error_code, uint32_t error_code);

/* fd and run: of the KVM vCPU that runs the switcher. */
void nv_vmx_init(struct nv_vcpu *vcpu, struct nv_vmx *vmx, int fd, struct kvm_run *run, uint8_t level);

#endif
