/* The vmx engine: level n runs by VMLAUNCH and VMRESUME in the switcher, under a VMCS that L0 fills. What its controls ask for rings
 * the doorbell; everything else is as in the direct engine. */
#ifndef NV_VMX_H
#define NV_VMX_H

#include "nested_vmx.h"
#include "switched.h"
#include "switcher/vmx_block.h"
#include "vmcs.h"

/* Bits of the EPT pointer: write-back tables of four levels (Intel SDM vol. 3, 25.6.11). */
#define NV_VMX_EPT_POINTER 0x1e

/* The controls that change from entry to entry. */
struct nv_vmx_controls {
	uint64_t pin, primary, secondary, exit, exceptions;
	uint64_t cr0_mask, cr4_mask; /* bits whose change exits, and which level n reads from the shadows */
	uint64_t msr_bitmap;
	uint64_t ports_a, ports_b; /* the I/O bitmaps */
	uint64_t ept_pointer;
	uint64_t tsc_offset;
	uint64_t virtual_apic, tpr_threshold;
	uint64_t xss;            /* components of which XSAVES and XRSTORS exit */
};

/* An instruction that was stopped executes after all, its control off for that long; see native/vmx_step.c. */
struct nv_vmx_step {
	struct nv_vmx_controls off; /* the bits that are off meanwhile; of the masks, those that are left */
	uint64_t rip;            /* of the instruction */
	uint64_t count;          /* RCX before it */
	uint64_t cr0_shadow;     /* CR0's read shadow before it */
	uint8_t active;
	uint8_t traps;           /* it ends by the trap flag; else, as of HLT, when level n stops for anything */
	uint8_t early;           /* traps that may have come before it was done */
	uint8_t moves_cr;        /* it writes CR0 or CR4 */
	uint8_t vmxe;            /* CR4.VMXE as level n saw it before it */
	uint8_t ports;           /* it accesses a port, which is KVM's exit */
	struct nv_trap_flag trap;
};

struct nv_nested;

struct nv_vmx {
	struct nv_switched switched;
	struct nv_nested *nested; /* level n's own VMX */
	struct nv_vmx_block *block;
	struct nv_vmx_controls wanted; /* by levels, and by L0 for its own safety */
	struct nv_vmx_controls now; /* as the VMCS has them, or will after the writes that wait */
	uint64_t interruptibility, event; /* likewise */
	uint64_t injection, injection_error, injection_length; /* what level n takes at its next entry; 0: nothing */
	uint64_t interrupted, interrupted_error, interrupted_length; /* the event whose delivery the exit interrupted */
	uint64_t cr4;            /* for CPUID, whose bits depend on it */
	uint64_t entry_controls; /* but for the one of long mode */
	uint32_t timer;          /* what L0's preemption timer starts with at the next entry; 0: it goes on */
	uint32_t timer_left;     /* of L0's, where the processor's counts for a machine as well */
	uint32_t timer_beyond;   /* what of it comes when the processor's has ended, for a machine */
	uint32_t refusal;        /* VM-instruction error, when an entry was refused */
	uint8_t refused;
	uint8_t overflowed;      /* more fields wait to be written than there is room for: level n is not entered any more */
	uint8_t synthetic;       /* a reason to report without an exit */
	uint8_t synthetic_space; /* whose it is, as struct nv_event has it */
	uint8_t synthetic_vector; /* of an interrupt */
	uint8_t made;            /* the pending event is of these two: what `block` tells is of an exit before */
	uint8_t missed;          /* level n took no interrupts at its exit: KVM has to look for them again */
	uint8_t timer_armed;     /* the preemption timer runs */
	uint8_t acknowledges;    /* the next exit for an interrupt acknowledges it */
	uint8_t doubled;         /* `injection` is a double fault that two exceptions made here: a machine may want it */
	uint8_t owes_trap;       /* level n is behind an instruction with its own trap flag set, and a machine wants that #DB */
	uint8_t holds;           /* an interrupt waits in KVM until level n takes interrupts */
	uint8_t nmi_wanted;      /* a level claims NMIs */
	uint8_t halts;           /* KVM wakes level n from HLT, which an in-kernel irqchip can */
	uint8_t probed;          /* whether `places` has been looked for */
	uint8_t placed;          /* and found */
	uint8_t *memory;         /* of the VMCS */
	uint8_t *probe;          /* of another one, for looking */
	uint16_t places[512];    /* where fields lie in it, by nested_vmx's order; 0: not known */
	struct nv_vmx_step step;
	struct nv_nested_vmx_undo undo;
	struct nv_event stopped; /* the port access that a step executes now: what its exit told of it */
};

/* A field of the VMCS at level n's next entry or the next exchange, whichever comes first; of two values the later one. At most
 * NV_VMX_WRITES different ones wait; after one more every entry and exchange fails by -ENOSPC. */
void nv_vmx_put(struct nv_vmx *vmx, uint64_t encoding, uint64_t value);

/* Writes what nv_vmx_put was given, and reads fields into their values, at most NV_VMX_READS, without running level n, which is outside.
 * A negative errno; -EIO when the switcher failed or was refused. */
int nv_vmx_exchange(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count);

/* What the pending exit stopped happens after all: the instruction executes, or level n takes the event when it can. 1; 0: it cannot
 * happen here; a negative errno. */
int nv_vmx_pass(struct nv_vcpu *vcpu);

/* Level n, outside, takes this event at its next entry, of a kind NV_EVENT_*; error_code: of the exceptions that have one.
 * A negative errno as nv_vmx_exchange's. */
int nv_vmx_inject(struct nv_vcpu *vcpu, int kind, uint8_t vector, uint32_t error_code);

/* An nv_serve_fn for VMX's own MSRs. device: struct nv_vmx. */
int nv_vmx_serve_msr(void *device, uint64_t offset, struct nv_event *event);

/* fd and run: of the KVM vCPU that runs the switcher. The block must be there, and `nested` is set before. */
void nv_vmx_init(struct nv_vcpu *vcpu, struct nv_vmx *vmx, int fd, struct kvm_run *run, uint8_t level);

#endif
