#include "nested_vmx_internal.h"

#include <errno.h>

/* What becomes of an exit: L0 asked for it, a machine or the table hears of it. */

/* One for each page that an instruction may touch; what comes then is a jump to itself. */
#define EARLY_TRAPS 8

/* What an EPT violation's access needs. */
static uint32_t access_of(uint64_t qualification)
{
	if (qualification & VIOLATION_FETCH)
		return NV_RIGHT_EXECUTE;
	return qualification & VIOLATION_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
}

/* A change of a bit that VMX keeps set, of a register whose other changes no level wants to see. */
static int changes_fixed(const struct nv_vmx *vmx)
{
	if (cr_access(vmx) == CR_MOV_FROM)
		return 0;
	return cr_number(vmx) == 0 ? vmx->wanted.cr0_mask == CR0_FIXED : cr_number(vmx) == 4 && vmx->wanted.cr4_mask == CR4_FIXED;
}

/* CPUID says in leaves 1 and 7 what CR4 enables. */
static int read_cr4(struct nv_vcpu *vcpu)
{
	struct nv_vmx_field cr4 = {NV_VMCS_GUEST_CR4, 0};
	struct nv_vmx *vmx = vcpu->engine;
	uint32_t leaf = *register_of(vmx, NV_REG_RAX);
	int result;

	if (leaf != 1 && leaf != 7)
		return 0;
	result = nv_vmx_exchange(vcpu, &cr4, 1);
	vmx->cr4 = cr4.value;
	return result;
}

static int goes_on(int result)
{
	return result < 0 ? result : -EAGAIN;
}

/* An interrupt stops level n also while it takes none. It is acknowledged, by another exit at once, only when level n takes it: until
 * then its controller has it pending. */
static int interrupt_exit(struct nv_vmx *vmx)
{
	if (!(got(vmx, GOT_INTERRUPTION) & EVENT_VALID)) {
		vmx->acknowledges = takes_interrupts(vmx);
		vmx->holds = !vmx->acknowledges;
		return -EAGAIN;
	}
	vmx->acknowledges = 0;
	if (vmx->wanted.pin & PIN_INTERRUPTS)
		return 0;
	nv_pending_interrupt(&vmx->switched.pending, EVENT_VECTOR(got(vmx, GOT_INTERRUPTION)));
	return -EAGAIN;
}

/* An exit that no level claims, of what L0 asks for itself: -EAGAIN when level n goes on, 0 when it is for the table. */
static int own_exit(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_pending *pending = &vmx->switched.pending;
	int result;

	switch (basic_of(vmx)) {
	case BASIC_EXCEPTION:
		if (is_nmi(vmx)) {
			if (vmx->nmi_wanted)
				return 0;
			nv_pending_nmi(pending);
			return -EAGAIN;
		}
		if (vmx->wanted.exceptions >> EVENT_VECTOR(got(vmx, GOT_INTERRUPTION)) & 1 || nv_nested_vmx_owner(vmx->nested))
			return 0;
		return goes_on(nv_vmx_raise(vcpu));
	case BASIC_INTERRUPT:
		return interrupt_exit(vmx);
	case BASIC_INTERRUPT_WINDOW:
		vmx->holds = 0;
		if (!(pending->windows & NV_WINDOW_INTERRUPT))
			return -EAGAIN;
		pending->windows &= ~NV_WINDOW_INTERRUPT;
		return 0;
	case BASIC_NMI_WINDOW:
		if (!(pending->windows & NV_WINDOW_NMI))
			return -EAGAIN;
		pending->windows &= ~NV_WINDOW_NMI;
		return 0;
	case BASIC_PREEMPTION_TIMER:
		vmx->timer_armed = 0;
		return 0;
	case BASIC_CPUID:
		return read_cr4(vcpu);
	case BASIC_CR:
		return changes_fixed(vmx) && !nv_nested_vmx_owner(vmx->nested) ? goes_on(nv_vmx_pass_cr(vcpu)) : 0;
	case BASIC_IO:
		if (vmx->nested->active->depth && nv_nested_vmx_first(vmx->nested))
			return 0;
		/* KVM brings the data of the access when it does it */
		nv_vmx_decode(vmx, &vmx->stopped);
		result = nv_nested_vmx_remember(vmx->nested);
		if (result)
			return result;
		nv_vmx_pass_port(vmx);
		return -EAGAIN;
	default:
		return 0;
	}
}

/* The exit comes during a step. Gives -EAGAIN when it only ends it, 0 when it is more than that. */
static int step_exit(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_step *step = &vmx->step;
	int event = basic_of(vmx) == BASIC_EXCEPTION && !is_nmi(vmx), again;
	int trapped = event && EVENT_VECTOR(got(vmx, GOT_INTERRUPTION)) == DB && !(got(vmx, GOT_QUALIFICATION) & DR6_CAUSES);
	int result;

	if (!step->traps)
		return nv_vmx_step_end(vcpu, 1);
	if ((is_nmi(vmx) && !vmx->nmi_wanted) || (basic_of(vmx) == BASIC_INTERRUPT && !(vmx->wanted.pin & PIN_INTERRUPTS)))
		return 0; /* kept for later: the step goes on */
	/* Bochs has the trap pending when an exit to KVM comes before the instruction is done: level n comes to it again */
	again = got(vmx, GOT_RIP) == step->rip && *register_of(vmx, NV_REG_RCX) == step->count;
	if (trapped && again && !step->ports && step->early++ < EARLY_TRAPS)
		return -EAGAIN;
	result = nv_vmx_step_end(vcpu, trapped);
	if (result || !trapped)
		return result;
	if (step->trap.own && nv_vmx_steps(vmx, 0) && nv_nested_vmx_wants_trap(vmx->nested))
		vmx->owes_trap = 1;
	else if (step->trap.own)
		return 0;
	return -EAGAIN;
}

/* Whether the tables of level n, or of the machine above it that is active, allow the access now; or another machine hears of it. */
static int fill(struct nv_vmx *vmx)
{
	if (vmx->nested->active->depth)
		return nv_nested_vmx_violation(vmx->nested);
	return nv_switched_fill(&vmx->switched, got(vmx, GOT_PHYSICAL), access_of(got(vmx, GOT_QUALIFICATION)));
}

int nv_vmx_interrupt_step(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int result;

	if (!vmx->step.active)
		return 0;
	/* KVM raises no trap for a store that it emulates */
	result = nv_vmx_step_end(vcpu, got(vmx, GOT_RIP) != vmx->step.rip);
	if (!result)
		result = nv_nested_vmx_undo(vmx->nested);
	return result ? result : vmx->switched.stepped && nv_vmx_steps(vmx, 0); /* the levels' event comes first */
}

int nv_vmx_sort_exit(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int result;

	if (vmx->block->reason & ENTRY_FAILED && !vmx->nested->active->depth)
		return 0;
	if (!(vmx->block->reason & ENTRY_FAILED) && basic_of(vmx) == BASIC_EPT_VIOLATION) {
		result = fill(vmx);
		if (result)
			return goes_on(result);
	}
	if (vmx->switched.recalling && is_nmi(vmx)) {
		vmx->switched.recalling = 0;
		return goes_on(nv_vmx_interrupt_step(vcpu));
	}
	if (vmx->step.active) {
		int ended = step_exit(vcpu);

		/* what else stopped it comes again */
		result = vmx->step.active ? 0 : nv_nested_vmx_undo(vmx->nested);
		if (result || ended)
			return result ? goes_on(result) : ended;
	}
	result = nv_nested_vmx_exit(vmx->nested);
	if (result)
		return goes_on(result);
	return own_exit(vcpu);
}
