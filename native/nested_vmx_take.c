#include "nested_vmx_internal.h"

#include <string.h>

#define PORT_STRING 0x10ull /* of the exit qualification (table 28-5) */

/* What goes by other ways: EPT violations to whose tables refuse them, what comes from outside, and what a block sets up. */
static int is_apart(const struct nv_vmx *vmx)
{
	switch (basic_of(vmx)) {
	case BASIC_INTERRUPT:
	case BASIC_INTERRUPT_WINDOW:
	case BASIC_NMI_WINDOW:
	case BASIC_PREEMPTION_TIMER:
	case BASIC_MONITOR_TRAP:
	case BASIC_TPR_THRESHOLD:
	case BASIC_EPT_VIOLATION:
	case BASIC_EPT_MISCONFIGURATION:
		return 1;
	default:
		return is_nmi(vmx);
	}
}

int nv_nested_vmx_routes(const struct nv_vmx *vmx)
{
	return !is_apart(vmx);
}

/* The machine that the claim is for, if it wants the exit. */
static struct nv_machine *taker(const struct nv_nested_claim *claim)
{
	struct nv_nested *nested = claim->nested;
	struct nv_machine *machine = nested->active->parent;

	if (is_apart(nested->vmx) || nv_nested_vmx_is_l0s(nested))
		return NULL;
	for (; machine && machine->depth >= claim->depth; machine = machine->parent)
		if (nv_nested_covers(claim, machine->depth) && nv_nested_vmx_wants(nested, machine))
			return machine;
	return NULL;
}

int nv_nested_vmx_first(struct nv_nested *nested)
{
	const struct nv_nested_claim *claim;
	struct nv_event event;
	uint16_t at = 0;

	memset(&event, 0, sizeof event);
	nv_vmx_decode(nested->vmx, &event);
	while ((claim = nv_nested_next_claim(nested, &event, &at)))
		if (taker(claim))
			return 1;
	return 0;
}

/* Whether blocks can say which accesses to this MSR they want (25.6.9). */
static int maps_msr(uint32_t index)
{
	return index < 0x2000 || index - 0xc0000000 < 0x2000;
}

/* KVM does a port access that a level above the machine was to have: the machine's turn comes when it is done. Whether it wants that was
 * seen when it was stopped. */
static int take_later(struct nv_nested *nested, const struct nv_nested_claim *claim, struct nv_event *event)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_nested_vmx_undo *undo = &vmx->undo;

	if (event->reason != NV_REASON_IO || !vmx->step.active || !vmx->step.ports)
		return NV_DECLINED;
	for (struct nv_machine *machine = nested->active->parent; machine && machine->depth >= claim->depth; machine = machine->parent) {
		if (!nv_nested_covers(claim, machine->depth) || !(undo->wanted >> machine->depth & 1))
			continue;
		undo->to = machine;
		event->handler = nested->levels[machine->depth];
		return NV_HANDLED;
	}
	return NV_DECLINED;
}

int nv_nested_vmx_take(void *device, uint64_t offset, struct nv_event *event)
{
	const struct nv_nested_claim *claim = device;
	struct nv_nested *nested = claim->nested;
	struct nv_machine *to;
	int result;

	(void)offset;
	if (nested->gone_told)
		return nv_nested_vmx_take_gone(claim, event);
	if (nested->due.withheld || event->space || !nested->active->depth || nv_nested_is_step(event) || nested->vmx->made)
		return NV_DECLINED; /* what is one space's own, or L0's, is no exit of a block */
	if (!nested->switched->rung)
		return take_later(nested, claim, event);
	if (nested->vmx->block->reason & ENTRY_FAILED || (!maps_msr(event->qualifier) && nv_nested_is_feature(nested, event)))
		return NV_DECLINED;
	to = taker(claim);
	if (!to)
		return NV_DECLINED;
	result = nv_nested_vmx_hand_to(nested, to, 1);
	if (result < 0)
		nested->failed = result;
	/* or one below it, which has taken its block away */
	event->handler = nested->levels[nested->due.withheld ? to->depth : nested->active->depth];
	event->retry = nested->due.withheld ? NV_RETRY_UNSEEN : NV_RETRY;
	return NV_HANDLED;
}

int nv_nested_vmx_remember(struct nv_nested *nested)
{
	struct nv_vmx_field fields[] = {{NV_VMCS_GUEST_LINEAR_ADDRESS, 0}, {NV_VMCS_EXIT_INSTRUCTION, 0}};
	struct nv_vmx *vmx = nested->vmx;
	struct nv_nested_vmx_undo *undo = &vmx->undo;
	int result;

	undo->to = NULL;
	undo->wanted = 0;
	for (struct nv_machine *machine = nested->active->parent; machine; machine = machine->parent)
		if (nv_nested_vmx_wants(nested, machine))
			undo->wanted |= 1u << machine->depth;
	memcpy(undo->regs, vmx->switched.mailbox->regs, sizeof undo->regs);
	if (!undo->wanted || !(got(vmx, GOT_QUALIFICATION) & PORT_STRING))
		return 0;
	result = nv_vmx_exchange(nested->vcpu, fields, 2);
	undo->linear = fields[0].value;
	undo->instruction = fields[1].value;
	return result;
}

int nv_nested_vmx_undo(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_machine *to = vmx->undo.to;
	struct nv_nested_vmx_exit exit = {
		.reason = BASIC_IO,
		.qualification = vmx->stopped.info,
		.length = vmx->stopped.length,
		.linear = vmx->undo.linear,
		.instruction = vmx->undo.instruction,
		.string = !!(vmx->stopped.info & PORT_STRING),
		.heard = 1,
	};
	int result;

	if (!to)
		return 0;
	vmx->undo.to = NULL;
	memcpy(vmx->switched.mailbox->regs, vmx->undo.regs, sizeof vmx->undo.regs);
	result = nv_nested_vmx_reflect(nested, to, &exit);
	return result ? result : 1;
}
