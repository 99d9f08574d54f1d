#include "nested_vmx_internal.h"

#include <stddef.h>

/* Preemption timers: the processor has one, for L0's own, those of machines, and those of Python levels above images. All but the first go by
 * the time stamp counter: they run while their guest does, or what L0 does for it. */

static struct nv_pending *guest_of(struct nv_nested *nested, const struct nv_machine *machine)
{
	return nv_nested_pending(nested, machine->child->depth);
}

static void take_earlier(uint64_t *first, uint64_t deadline)
{
	if (deadline && (!*first || deadline < *first))
		*first = deadline;
}

/* When the first one ends; 0: none runs. */
static uint64_t first_deadline(struct nv_nested *nested)
{
	uint64_t first = 0;

	for (const struct nv_machine *machine = nested->machines; machine->child; machine = machine->child) {
		take_earlier(&first, machine->vmx.deadline);
		take_earlier(&first, guest_of(nested, machine)->deadline);
	}
	return first;
}

int nv_nested_vmx_read_timer(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_vmx_field left = {NV_VMCS_PREEMPTION_TIMER, 0};
	int result;

	if (!vmx->timer_armed || vmx->timer || (!vmx->timer_beyond && !first_deadline(nested)))
		return 0;
	result = nv_vmx_exchange(nested->vcpu, &left, 1);
	vmx->timer_left = (uint32_t)left.value + vmx->timer_beyond;
	return result;
}

void nv_nested_vmx_compose_timer(struct nv_nested *nested, struct nv_vmx_controls *wanted)
{
	struct nv_vmx *vmx = nested->vmx;
	uint64_t first = first_deadline(nested), now = nv_ticks(), value = 0xffffffff, left;

	if (!first && (!vmx->timer_armed || !vmx->timer_beyond))
		return;
	if (first) {
		left = first > now ? ((first - now) >> (nested->vmx_limits.msr[VMX_MISC] & 31)) + 1 : 0;
		value = left < value ? left : value;
	}
	if (vmx->timer_armed) {
		value = vmx->timer_left < value ? vmx->timer_left : value;
		vmx->timer_beyond = vmx->timer_left - value;
	}
	nv_vmx_put(vmx, NV_VMCS_PREEMPTION_TIMER, value);
	wanted->pin |= PIN_TIMER;
}

int nv_nested_vmx_timers_asked(struct nv_nested *nested)
{
	for (const struct nv_machine *machine = nested->machines; machine->child; machine = machine->child)
		if (guest_of(nested, machine)->timer)
			return 1;
	return 0;
}

int nv_nested_vmx_run_timers(struct nv_nested *nested)
{
	uint64_t now = nv_ticks();
	int ended = 0;

	for (const struct nv_machine *machine = nested->machines; machine->child; machine = machine->child) {
		struct nv_pending *pending = guest_of(nested, machine);

		if (pending->timer)
			pending->deadline = now + pending->timer;
		pending->timer = 0;
		if (!ended && pending->deadline && now >= pending->deadline)
			ended = machine->child->depth;
	}
	return ended;
}

void nv_nested_vmx_hold_timers(struct nv_nested *nested, const struct nv_machine *to)
{
	uint64_t now = nv_ticks();

	for (const struct nv_machine *machine = to; machine->child; machine = machine->child) {
		struct nv_pending *pending = guest_of(nested, machine);

		if (pending->deadline)
			pending->timer = pending->deadline > now ? pending->deadline - now : 1;
		pending->deadline = 0;
	}
}
