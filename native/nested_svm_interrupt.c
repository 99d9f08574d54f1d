#include "nested_svm_internal.h"

#include <stddef.h>

static void reflect(struct nv_nested *nested, struct nv_machine *machine, uint64_t code)
{
	nv_nested_owe(nested, machine, &(struct nv_nested_exit){.code = code});
}

/* A virtual interrupt that the parent's block has for its guest; V_TPR may hold it back. */
static int has_virtual(const struct nv_nested *nested, const struct nv_machine *machine)
{
	const struct nv_machine *has = nv_nested_prioritizes(nested);
	uint64_t field = machine->parent->guest.virtual_interrupt;
	int is_live = machine == nested->active && (!has || has == machine->parent);
	uint64_t priority = (is_live ? nested->svm->block->virtual_interrupt : field) & V_TPR;

	return field & V_IRQ && (field & V_IGNORES_TPR || V_PRIORITY(field) > (priority & 15));
}

static void tell(struct nv_nested *nested, const struct nv_machine *machine, uint32_t reason, uint8_t vector)
{
	nested->svm->synthetic = reason;
	nested->svm->synthetic_space = machine->depth;
	nested->svm->synthetic_vector = vector;
}

int nv_nested_tell(struct nv_nested *nested, const struct nv_machine *machine, uint64_t event)
{
	int kind = EVENT_KIND_OF(event);

	if (kind == NV_EVENT_INTERRUPT && nv_nested_claimed(nested, machine, NV_WINDOW_INTERRUPT))
		tell(nested, machine, NV_REASON_INTERRUPT, EVENT_VECTOR(event));
	else if (kind == NV_EVENT_NMI && nv_nested_claimed(nested, machine, NV_WINDOW_NMI))
		tell(nested, machine, NV_REASON_NMI, 0);
	else
		return 0;
	return 1;
}

/* What comes from outside goes to the lowest machine that intercepts it, or Python levels that do. Gives 1 when the active machine changed,
 * or there is something to tell. */
static int deliver_outside(struct nv_nested *nested)
{
	struct nv_pending *pending = &nested->svm->switched.pending;
	int vector = nv_pending_highest(pending);
	struct nv_nested_route route;

	if (pending->nmi && !pending->nmi_masked) {
		route = nv_nested_route_nmi(nested, nested->machines, 0);
		if (route.turn == NV_TURN_EXITS) {
			reflect(nested, route.machine, EXIT_NMI);
			return 1;
		}
		if (route.turn == NV_TURN_TELLS) {
			tell(nested, route.machine, NV_REASON_NMI, 0);
			nv_pending_nmi_taken(pending);
			return 1;
		}
	}
	if (vector < 0)
		return 0;
	route = nv_nested_route(nested, nested->machines, 0);
	if (route.turn == NV_TURN_EXITS) {
		reflect(nested, route.machine, EXIT_INTR);
	} else if (route.turn == NV_TURN_TELLS) {
		tell(nested, route.machine, NV_REASON_INTERRUPT, vector);
		nv_pending_taken(pending, vector);
	} else {
		return 0;
	}
	return 1;
}

/* An NMI that Python levels inject into the machine: the machine below does not see it. */
static int deliver_nmi(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_pending *pending = nv_nested_pending(nested, machine->depth);
	struct nv_nested_route route;

	if (!pending->nmi || nested->switched->pending.nmi_masked)
		return 0;
	route = nv_nested_route_nmi(nested, machine, 0);
	if (route.turn == NV_TURN_BLOCKED)
		return 0;
	if (route.turn == NV_TURN_EXITS) {
		reflect(nested, route.machine, EXIT_NMI);
		return 1;
	}
	if (route.turn == NV_TURN_WAITS) {
		nv_svm_step_begin(nested->svm, NV_SVM_NO_CODE, 1, 0);
		return 1;
	}
	if (route.turn == NV_TURN_TELLS)
		tell(nested, route.machine, NV_REASON_NMI, 0);
	else
		nested->svm->injection = EVENT_VALID | (uint64_t)NV_EVENT_NMI << EVENT_KIND | NMI;
	nested->svm->blocks_no_nmi = 0;
	nv_pending_nmi_taken(pending);
	return 1;
}

/* Likewise an interrupt. One that a machine above intercepts stays until that takes it. */
static int deliver_injected(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_pending *pending = nv_nested_pending(nested, machine->depth);
	int vector = nv_pending_highest(pending);
	struct nv_nested_route route;

	if (vector < 0)
		return 0;
	route = nv_nested_route(nested, machine, 0);
	if (route.turn == NV_TURN_EXITS) {
		reflect(nested, route.machine, EXIT_INTR);
		return 1;
	}
	if (route.turn < NV_TURN_TAKES)
		return 0;
	if (route.turn == NV_TURN_TELLS)
		tell(nested, route.machine, NV_REASON_INTERRUPT, vector);
	else
		nested->svm->injection = EVENT_VALID | vector;
	nv_pending_taken(pending, vector);
	return 1;
}

/* Interrupts that a machine has for its guest, in the chain from there. */
static int deliver_inside(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_machine *parent = machine->parent;
	struct nv_nested_route route;
	uint64_t event;

	if (deliver_nmi(nested, machine))
		return 1;
	if (machine->held && EVENT_KIND_OF(machine->held) == NV_EVENT_NMI) {
		route = nv_nested_route_nmi(nested, machine, 1);
	} else if (machine->held || has_virtual(nested, machine)) {
		route = nv_nested_route(nested, machine, 1);
	} else {
		return deliver_injected(nested, machine);
	}
	if (route.turn < NV_TURN_TAKES)
		return 0;
	if (!machine->held && intercepts(parent->guest.intercept, EXIT_VINTR)) {
		reflect(nested, parent, EXIT_VINTR);
		return 1;
	}
	if (route.turn == NV_TURN_EXITS) {
		reflect(nested, route.machine, EVENT_KIND_OF(machine->held) == NV_EVENT_NMI ? EXIT_NMI : EXIT_INTR);
		return 1;
	}
	event = machine->held;
	if (!event) {
		event = EVENT_VALID | V_VECTOR(parent->guest.virtual_interrupt);
		parent->guest.virtual_interrupt &= ~V_IRQ;
	}
	nested->svm->blocks_no_nmi = !!machine->held;
	machine->held = 0;
	if (route.turn == NV_TURN_TELLS)
		nv_nested_tell(nested, route.machine, event);
	else
		nested->svm->injection = event;
	return 1;
}

void nv_nested_deliver(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;

	for (int turns = 0; turns < NV_NESTED_DEPTH; turns++) {
		struct nv_machine *machine = nested->machines;
		int changed;

		/* these come first, and what is next stops the active machine behind them */
		if (svm->injection || svm->interrupted || svm->step.active || svm->synthetic || nv_nested_is_due(nested))
			return;
		changed = deliver_outside(nested);
		while (!changed && machine->child) {
			machine = machine->child;
			changed = deliver_inside(nested, machine);
		}
		if (!changed)
			return;
	}
}

/* Whether there is an interrupt for a machine, held by its parent or pending. */
static int has_interrupt(struct nv_nested *nested, const struct nv_machine *machine)
{
	if (nv_pending_highest(nv_nested_pending(nested, machine->depth)) >= 0)
		return 1;
	return machine->parent && (machine->held || has_virtual(nested, machine));
}

int nv_nested_window(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;

	if (svm->injection || svm->interrupted || svm->step.active)
		return 0;
	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child) {
		struct nv_pending *pending = nv_nested_pending(nested, machine->depth);
		enum nv_nested_turn turn = nv_nested_route(nested, machine, 0).turn;

		if (pending->windows & NV_WINDOW_INTERRUPT && turn >= NV_TURN_TAKES) {
			pending->windows &= ~NV_WINDOW_INTERRUPT;
			svm->synthetic = NV_REASON_INTERRUPT_WINDOW;
		} else if (pending->windows & NV_WINDOW_NMI && !pending->nmi && !svm->switched.pending.nmi_masked &&
			   nv_nested_route_nmi(nested, machine, 0).turn != NV_TURN_BLOCKED) {
			pending->windows &= ~NV_WINDOW_NMI;
			svm->synthetic = NV_REASON_NMI_WINDOW;
		} else {
			continue;
		}
		svm->synthetic_space = machine->depth;
		return 1;
	}
	return 0;
}

int nv_nested_stops(struct nv_nested *nested)
{
	int masked = nested->switched->pending.nmi_masked, kept = nv_nested_gif_kept(nested);

	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child) {
		const struct nv_pending *pending = nv_nested_pending(nested, machine->depth);
		int interrupts = pending->windows & NV_WINDOW_INTERRUPT || nv_pending_highest(pending) >= 0;
		int nmis = pending->windows & NV_WINDOW_NMI || pending->nmi;

		if (interrupts && !nested->svm->window && (kept || nv_nested_route(nested, machine, 0).turn != NV_TURN_BLOCKED))
			return 1;
		if (nmis && !masked && (kept || nv_nested_route_nmi(nested, machine, 0).turn != NV_TURN_BLOCKED))
			return 1;
	}
	return 0;
}

int nv_nested_waits(struct nv_nested *nested)
{
	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child)
		if ((has_interrupt(nested, machine) || nv_nested_pending(nested, machine->depth)->windows & NV_WINDOW_INTERRUPT) &&
		    nv_nested_route(nested, machine, 0).turn != NV_TURN_BLOCKED)
			return 1;
	return 0;
}

int nv_nested_idle(struct nv_nested *nested)
{
	for (const struct nv_machine *machine = nested->machines; machine; machine = machine->child) {
		const struct nv_pending *pending = nv_nested_pending(nested, machine->depth);

		if (pending->windows || nv_pending_any(pending) || machine->held ||
		    (machine->parent && machine->parent->guest.virtual_interrupt & V_IRQ))
			return 0;
	}
	return 1;
}

int nv_nested_urgent(struct nv_nested *nested)
{
	const struct nv_svm *svm = nested->svm;
	struct nv_nested_route route;

	if (!svm->entering)
		return 0;
	for (struct nv_machine *machine = nested->machines; machine; machine = machine->child) {
		if (!has_interrupt(nested, machine))
			continue;
		route = nv_nested_route(nested, machine, 0);
		if (route.masked && route.turn > NV_TURN_TAKES)
			return 1;
	}
	return 0;
}
