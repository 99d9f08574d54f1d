/* The vmx engine: level n runs by VMLAUNCH and VMRESUME in the switcher, under a VMCS that L0 fills. What its controls ask for rings
 * the doorbell; everything else is as in the direct engine. */
#ifndef NV_VMX_H
#define NV_VMX_H

#include "switched.h"
#include "switcher/vmx_block.h"
#include "vmcs.h"

/* What is read after an exit, as far as its basic reason needs it: indices into the block's `exit`. */
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

/* An instruction that a control stopped executes by one step with that control off; it may change CR0 or CR4. */
#define NV_VMX_STEP_NONE 0
#define NV_VMX_STEP_INSTRUCTION 1
#define NV_VMX_STEP_CONTROL_REGISTER 2

struct nv_vmx {
	struct nv_switched switched;
	struct nv_vmx_block *block;
	uint64_t primary, secondary; /* the controls as L0 wants them, whatever a step needs */
	uint64_t cr0_mask, cr4_mask; /* the bits of CR0 and CR4 whose change exits */
	uint64_t waiting[4];     /* external interrupts by vector that level n takes when it can */
	uint64_t interruptibility; /* as the next entry will have it */
	uint64_t stepped_rip;    /* where the instruction is that executes by a step */
	uint64_t cr0_shadow;     /* CR0's read shadow before it, if it changes CR0 */
	uint8_t stepping;        /* NV_VMX_STEP_* */
	uint8_t step_length;
	uint8_t nmi_waiting;     /* an NMI that level n takes when it can */
	uint8_t windows;         /* window exits are asked for because of what waits */
	uint8_t injected;        /* the next entry injects an event */
	uint8_t halts;           /* KVM wakes level n from HLT, which an in-kernel irqchip can */
};

/* A field of the VMCS at level n's next entry or the next exchange, whichever comes first; of two values the later one. */
void nv_vmx_put(struct nv_vmx *vmx, uint64_t encoding, uint64_t value);

/* Writes what nv_vmx_put was given, and reads fields into their values, at most NV_VMX_READS, without running level n, which is outside.
 * A negative errno; -EIO when the switcher failed or was refused. */
int nv_vmx_exchange(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count);

/* Level n, outside, takes this event at its next entry, of a kind NV_EVENT_*; error_code: of the exceptions that have one. An interrupt or
 * an NMI waits until level n can take it. A negative errno as nv_vmx_exchange's. */
int nv_vmx_inject(struct nv_vcpu *vcpu, int kind, uint8_t vector, uint32_t error_code);

/* What the pending exit stopped happens after all: the instruction executes, the event is delivered. 1; 0: that cannot be done here. */
int nv_vmx_pass(struct nv_vcpu *vcpu);

/* fd and run: of the KVM vCPU that runs the switcher. The block must be there. */
void nv_vmx_init(struct nv_vcpu *vcpu, struct nv_vmx *vmx, int fd, struct kvm_run *run, uint8_t level);

#endif
