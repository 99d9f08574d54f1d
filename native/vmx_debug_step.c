#include "nested_vmx_internal.h"

#include <errno.h>

#define ACTIVITY_HLT 1
#define HLT_EXITING (1u << 7)

int nv_vmx_steps(const struct nv_vmx *vmx, uint8_t above)
{
	return vmx->switched.debug & NV_DEBUG_STEPS && nv_nested_debugged(vmx->nested, DB, above);
}

/* It lasts until something wakes level n, which the trap would do at once. */
static int halt(struct nv_vcpu *vcpu, uint8_t length)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_field rights = {NV_VMCS_GUEST_SS_RIGHTS, 0};
	const struct nv_machine *parent = vmx->nested->active->parent;
	int result = nv_vmx_exchange(vcpu, &rights, 1);

	/* anywhere but at CPL 0 it faults */
	if (result || rights.value >> 5 & 3)
		return result;
	if (!vmx->halts || (vmx->wanted.primary | (parent ? parent->vmx.primary : 0)) & HLT_EXITING ||
	    *register_of(vmx, NV_REG_RFLAGS) & RFLAGS_TF || nv_pending_any(&vmx->switched.pending) || nv_nested_injected(vmx->nested))
		return 0;
	vmx->step = (struct nv_vmx_step){.active = 1};
	*register_of(vmx, NV_REG_RIP) += length;
	nv_vmx_end_shadow(vmx);
	nv_vmx_put(vmx, NV_VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
	return 1;
}

/* L0 does it. */
static int enable(struct nv_vcpu *vcpu, const struct nv_trap_flag *trap)
{
	struct nv_vmx_field fields[] = {{NV_VMCS_GUEST_CR0, 0}, {NV_VMCS_GUEST_SS_RIGHTS, 0}};
	struct nv_vmx *vmx = vcpu->engine;
	int opens, result = nv_vmx_exchange(vcpu, fields, 2);

	if (result || !nv_trap_enable(trap, vmx->switched.mailbox->regs, fields[0].value, fields[1].value >> 5 & 3, &opens))
		return result;
	result = nv_vmx_skip(vcpu, &(struct nv_event){.advance = trap->length});
	if (opens)
		nv_vmx_shadow(vmx);
	return result ? result : 1;
}

int nv_vmx_debug_step(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_trap_flag trap;
	struct nv_code code;
	int result;

	if (!nv_vmx_steps(vmx, 0) || vmx->step.active || nv_vmx_next_event(vmx))
		return 0;
	result = nv_vmx_code(vcpu, &code);
	if (result)
		return result;
	nv_trap_look(&trap, vmx->switched.paging, &code);
	if (trap.kind == NV_TRAPPED_ENABLES) {
		result = enable(vcpu, &trap);
		if (result)
			return result < 0 ? result : -EAGAIN;
	}
	if (trap.kind == NV_TRAPPED_HALTS) {
		result = halt(vcpu, trap.length);
		if (result)
			return result < 0 ? result : 0;
	}
	/* VMX has no exits for INTn, and INT1's is a #DB as the trap's is (26.1) */
	if (trap.kind == NV_TRAPPED_INTERRUPTS)
		nv_vmx_inject_soft(vmx, NV_EVENT_SOFTWARE_INTERRUPT, trap.vector, trap.length);
	else if (trap.kind == NV_TRAPPED_BREAKS)
		nv_vmx_inject_soft(vmx, NV_EVENT_INT1, DB, trap.length);
	else
		nv_vmx_step_trap(vmx, &trap);
	return 0;
}

/* No instruction runs without L0's looking: windows need no exit of their own. */
static uint32_t open_window(struct nv_vmx *vmx)
{
	struct nv_pending *pending = &vmx->switched.pending;

	if (pending->windows & NV_WINDOW_INTERRUPT && takes_interrupts(vmx) && nv_pending_highest(pending) < 0) {
		pending->windows &= ~NV_WINDOW_INTERRUPT;
		return NV_REASON_INTERRUPT_WINDOW;
	}
	if (pending->windows & NV_WINDOW_NMI && !(vmx->interruptibility & (NMI_MASKED | SHADOWED)) && !pending->nmi) {
		pending->windows &= ~NV_WINDOW_NMI;
		return NV_REASON_NMI_WINDOW;
	}
	return 0;
}

int nv_vmx_debug_told(struct nv_vmx *vmx)
{
	if (vmx->switched.recalling)
		return 0;
	if (vmx->switched.stepped)
		vmx->switched.stepped = nv_vmx_steps(vmx, 0) ? NV_STEPPED_TOLD : NV_STEPPED_NOT;
	return vmx->switched.stepped;
}

int nv_vmx_debug_own_trap(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int result;

	if (!vmx->owes_trap || vmx->switched.recalling)
		return 0;
	vmx->owes_trap = 0;
	result = nv_nested_vmx_trap(vmx->nested);
	return result < 0 ? result : -EAGAIN;
}

int nv_vmx_debug_window(struct nv_vmx *vmx)
{
	if (vmx->synthetic || vmx->switched.recalling || !nv_vmx_steps(vmx, 0) || vmx->step.active || vmx->injection || vmx->interrupted)
		return 0;
	vmx->synthetic = open_window(vmx);
	vmx->synthetic_space = 0;
	return !!vmx->synthetic;
}
