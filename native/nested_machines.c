#include "nested_machines.h"

#include <stddef.h>
#include <string.h>

static int in_chain(const struct nv_nested *nested, const struct nv_machine *machine)
{
	for (const struct nv_machine *one = nested->active; one; one = one->parent)
		if (one == machine)
			return 1;
	return 0;
}

/* Nothing is lost with it but its tables: it has not used SVM, and its parent is not in the middle of running it. */
static int is_plain(const struct nv_machine *machine)
{
	int set_up = machine->svme || machine->vm_cr || machine->hsave || machine->vmx.on || machine->vmx.feature_control;

	return !set_up && machine->gif && !machine->held && !machine->resumed && !machine->child && machine->parent->child != machine;
}

/* Forgets a machine and the guests that it ran: their blocks are no one's now. */
static void forget(struct nv_nested *nested, struct nv_machine *machine)
{
	for (struct nv_machine *one = nested->machines + 1; one < nested->machines + NV_NESTED_MACHINES; one++)
		if (one->used && one->parent == machine)
			forget(nested, one);
	if (machine->tables)
		nv_nested_release(nested, machine);
	memset(machine, 0, sizeof *machine);
}

/* A machine that is free, or becomes so: a plain one if there is, and of those that VMRUN did not use for the longest time. */
static struct nv_machine *make_place(struct nv_nested *nested)
{
	struct nv_machine *victim = NULL;

	for (struct nv_machine *one = nested->machines + 1; one < nested->machines + NV_NESTED_MACHINES; one++) {
		if (!one->used)
			return one;
		if (in_chain(nested, one))
			continue;
		if (!victim || is_plain(one) > is_plain(victim) || (is_plain(one) == is_plain(victim) && one->used < victim->used))
			victim = one;
	}
	/* one that is in the middle of running it is nothing without it; the chain is shorter than there are machines */
	while (victim->parent->child == victim && !in_chain(nested, victim->parent))
		victim = victim->parent;
	forget(nested, victim);
	return victim;
}

struct nv_machine *nv_nested_find_guest(struct nv_nested *nested, const struct nv_machine *parent, uint64_t address)
{
	for (struct nv_machine *machine = nested->machines + 1; machine < nested->machines + NV_NESTED_MACHINES; machine++)
		if (machine->used && machine->parent == parent && machine->address == address)
			return machine;
	return NULL;
}

struct nv_machine *nv_nested_take_guest(struct nv_nested *nested, struct nv_machine *parent, uint64_t address)
{
	struct nv_machine *machine = nv_nested_find_guest(nested, parent, address);

	if (machine)
		return machine;
	machine = make_place(nested);
	machine->parent = parent;
	machine->address = address;
	machine->depth = parent->depth + 1;
	machine->gif = 1;
	return machine;
}

int nv_nested_is_feature(const struct nv_nested *nested, const struct nv_event *event)
{
	const struct nv_claim *claims = nested->vcpu->table->claims, *claim = &claims[event->claim];

	if (event->reason != NV_REASON_RDMSR && event->reason != NV_REASON_WRMSR)
		return 0;
	while (claim != claims && claim->level)
		claim = &claims[claim->next];
	return claim != claims && !claim->fallback;
}

struct nv_pending *nv_nested_pending(struct nv_nested *nested, uint32_t depth)
{
	return depth ? &nested->pending[depth] : &nested->switched->pending;
}

int nv_nested_pass(struct nv_nested *nested, const struct nv_event *event)
{
	struct nv_pending *pending = nv_nested_pending(nested, event->space);

	if (!event->space)
		return 0;
	switch (event->reason) {
	case NV_REASON_NMI:
		nv_pending_nmi(pending);
		return 1;
	case NV_REASON_INTERRUPT:
		nv_pending_interrupt(pending, event->qualifier);
		return 1;
	default:
		return event->reason == NV_REASON_PREEMPTION_TIMER;
	}
}

int nv_nested_injected(const struct nv_nested *nested)
{
	for (const struct nv_machine *machine = nested->active; machine; machine = machine->parent)
		if (machine->depth && nv_pending_any(&nested->pending[machine->depth]))
			return 1;
	return 0;
}

void nv_nested_restart(struct nv_machine *machine)
{
	for (struct nv_machine *one = machine->child; one; one = one->child) {
		one->parent->child = NULL;
		one->resumed = one->held = 0;
	}
	machine->gif = 1;
	machine->svme = machine->vmx.on = 0;
	machine->held = machine->vmx.deadline = machine->vmx.kept.bits = 0;
}
