/* VMX by software, for level n and for every level above it: what a machine of nested.h has of it. Intel SDM vol. 3, chapters 24 to 30.
 *
 * The VMCS of a machine's guest lies in the machine's memory, in L0's own form: VMREAD and VMWRITE go there, and an entry takes a copy,
 * which holds until the exit. So there can be any number of them, and VMCLEAR has nothing to write back. */
#ifndef NV_NESTED_VMX_H
#define NV_NESTED_VMX_H

#include <stdint.h>

#include "switcher/mailbox.h"

#define NV_VIRTUAL_VMCS_FIELDS 416
#define NV_VIRTUAL_VMCS_REVISION 0x4e56 /* "NV" */

#define NV_WRITTEN_GDTR 1
#define NV_WRITTEN_IDTR 2
#define NV_WRITTEN_CS 4
#define NV_WRITTEN_ALL 7

/* A field's place follows from its encoding: width and type make a group, of 26 fields (Intel SDM vol. 3, 25.11.2). */
struct nv_virtual_vmcs {
	uint32_t revision;       /* bit 31: a shadow VMCS, of which there are none */
	uint32_t abort;          /* VMX-abort indicator (28.7) */
	uint32_t launched;
	uint32_t written;        /* what VMWRITE has changed of the guest's state since the last entry: NV_WRITTEN_*, for L0 alone */
	uint64_t field[NV_VIRTUAL_VMCS_FIELDS];
};

/* Of a guest's CR0 or CR4: bits that its own hypervisors mask, when a write goes to a machine further below, which finds them in the
 * value that it emulates. */
struct nv_nested_vmx_kept {
	uint32_t field;
	uint64_t bits, value;
};

struct nv_nested_vmx_machine {
	struct nv_virtual_vmcs block; /* of its guest, as the entry read it */
	uint64_t feature_control;
	uint64_t current;        /* address of the current VMCS; ~0: there is none */
	uint64_t vmxon;          /* of the VMXON region */
	uint64_t deadline;       /* TSC when its guest's preemption timer ends; 0: it does not run */
	uint64_t resumed_error, resumed_length; /* of nv_machine's resumed */
	uint64_t injected_error, injected_length; /* of nv_machine's held */
	uint64_t primary, secondary, exceptions; /* controls that make its guest exit: its block's and those of the machines below */
	uint64_t enabled;        /* secondary controls that all of these set */
	uint64_t xss;            /* components of which XSAVES and XRSTORS make it exit, of all of these */
	uint64_t cr0_mask, cr4_mask; /* bits whose change makes its guest exit, likewise */
	struct nv_nested_vmx_kept kept;
	/* of a machine that runs a guest, when one below its parent's had the exit: CR0 and CR4 as the last machine saw them, the read shadows
	 * of the parent's block, and the number of that which a write was stopped of; others: none was */
	uint64_t left[2], left_shadow[2];
	int8_t left_written;
	uint8_t on;              /* it is in VMX operation */
	uint8_t vmxe;            /* CR4.VMXE as machine 0 sees it */
	uint8_t nmi_masked;      /* NMIs were masked when it ran its guest */
};

/* A port access that goes to a machine although KVM does it already, as levels above the machine declined it: it is as if it had not. */
struct nv_machine;

struct nv_nested_vmx_undo {
	struct nv_machine *to;   /* NULL: there is none */
	uint32_t wanted;         /* a bit for the depth of each machine that wants it */
	uint64_t regs[NV_REGS];  /* before it */
	uint64_t linear, instruction; /* of a string access: what the exit told of its memory (28.2.1, 28.2.5) */
};

#define NV_VMX_CAPABILITIES 18

/* What level n's processor, as its CPUID shows it, has of VMX. */
struct nv_nested_vmx_limits {
	uint64_t msr[NV_VMX_CAPABILITIES]; /* IA32_VMX_BASIC and those behind it, to IA32_VMX_VMFUNC */
	uint64_t physical_reserved; /* bits that no physical address has */
	uint64_t efer_allowed;
};

#endif
