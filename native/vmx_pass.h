/* Instructions that a control stopped execute after all, by one step with that control off. For native/vmx.c only. */
#ifndef NV_VMX_PASS_H
#define NV_VMX_PASS_H

#include "vmx.h"

/* After an exit: 1 when it is the end of a step, which nobody else needs to see; a negative errno. */
int nv_vmx_end_step(struct nv_vcpu *vcpu);

/* After an exit: 1 when it is a change of CR0.NE or CR4.VMXE, which VMX keeps set, and no level wants to see it. */
int nv_vmx_hide_fixed(struct nv_vcpu *vcpu);

/* Bits of CR0 and CR4 that VMX keeps set; level n sees its own in the read shadows. */
#define NV_VMX_CR0_FIXED 0x20
#define NV_VMX_CR4_FIXED 0x2000

#endif
