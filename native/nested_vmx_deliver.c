#include "nested_vmx_internal.h"

#include <stddef.h>

static uint64_t pin(const struct nv_machine *machine)
{
	return field_of(&machine->vmx.block, NV_VMCS_PIN_CONTROLS);
}

static uint64_t primary(const struct nv_machine *machine)
{
	return field_of(&machine->vmx.block, NV_VMCS_PRIMARY_CONTROLS);
}

/* Who hears of it first, of the Python levels and blocks that it passes; from `machine` on. */
static struct nv_nested_vmx_route route(const struct nv_nested *nested, struct nv_machine *machine, uint64_t control, int open, int arrives)
{
	uint8_t kind = control == PIN_NMI ? NV_WINDOW_NMI : NV_WINDOW_INTERRUPT;

	for (;; machine = machine->child, arrives = 1) {
		if (arrives && nv_nested_claimed(nested, machine, kind))
			return (struct nv_nested_vmx_route){open ? NV_VMX_TURN_TELLS : NV_VMX_TURN_WAITS, NULL, machine};
		if (!machine->child)
			return (struct nv_nested_vmx_route){open ? NV_VMX_TURN_TAKES : NV_VMX_TURN_WAITS, NULL, NULL};
		if (pin(machine) & control)
			return (struct nv_nested_vmx_route){NV_VMX_TURN_EXITS, machine, NULL};
	}
}

struct nv_nested_vmx_route nv_nested_vmx_route(struct nv_nested *nested, struct nv_machine *machine, int arrives)
{
	return route(nested, machine, PIN_INTERRUPTS, takes_interrupts(nested->vmx), arrives);
}

struct nv_nested_vmx_route nv_nested_vmx_route_nmi(struct nv_nested *nested, struct nv_machine *machine, int arrives)
{
	return route(nested, machine, PIN_NMI, !(nested->vmx->interruptibility & (NMI_MASKED | SHADOWED)), arrives);
}

static void tell(struct nv_nested *nested, const struct nv_machine *machine, uint32_t reason, uint8_t vector)
{
	nested->vmx->synthetic = reason;
	nested->vmx->synthetic_space = machine->depth;
	nested->vmx->synthetic_vector = vector;
}

int nv_nested_vmx_tell(struct nv_nested *nested, const struct nv_machine *machine, uint64_t event)
{
	int kind = EVENT_KIND_OF(event);

	if (!(event & EVENT_VALID))
		return 0;
	if (kind == NV_EVENT_INTERRUPT && nv_nested_claimed(nested, machine, NV_WINDOW_INTERRUPT))
		tell(nested, machine, NV_REASON_INTERRUPT, EVENT_VECTOR(event));
	else if (kind == NV_EVENT_NMI && nv_nested_claimed(nested, machine, NV_WINDOW_NMI))
		tell(nested, machine, NV_REASON_NMI, 0);
	else
		return 0;
	return 1;
}

static int reflect(struct nv_nested *nested, struct nv_machine *machine, uint64_t reason, uint64_t interruption)
{
	int result = nv_nested_vmx_reflect(nested, machine,
					   &(struct nv_nested_vmx_exit){.reason = reason, .interruption = interruption});

	return result ? result : 1;
}

static uint64_t event_of(int kind, int vector)
{
	return EVENT_VALID | (uint64_t)kind << EVENT_KIND | vector;
}

static int deliver_nmi(struct nv_nested *nested, struct nv_machine *machine, struct nv_pending *pending)
{
	struct nv_nested_vmx_route route = nv_nested_vmx_route_nmi(nested, machine, 0);
	int result;

	if (route.turn == NV_VMX_TURN_TELLS) {
		tell(nested, route.told, NV_REASON_NMI, 0);
		nv_pending_nmi_taken(pending);
		return 1;
	}
	if (route.turn != NV_VMX_TURN_EXITS)
		return 0;
	result = reflect(nested, route.machine, BASIC_EXCEPTION, event_of(NV_EVENT_NMI, 2));
	if (!nested->due.withheld)
		nv_pending_nmi_taken(pending);
	return result;
}

/* What is pending for a machine goes to the lowest one from there on that wants it. Gives 1 when the active machine changed. An interrupt
 * that is not acknowledged stays pending. */
static int deliver_pending(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_pending *pending = nv_nested_pending(nested, machine->depth);
	struct nv_nested_vmx_route route;
	uint64_t interruption = 0;
	int vector, result = 0;

	if (__atomic_load_n(&pending->nmi, __ATOMIC_SEQ_CST))
		result = deliver_nmi(nested, machine, pending);
	if (result)
		return result;
	vector = nv_pending_highest(pending);
	route = nv_nested_vmx_route(nested, machine, 0);
	if (vector >= 0 && route.turn == NV_VMX_TURN_TELLS) {
		tell(nested, route.told, NV_REASON_INTERRUPT, vector);
		nv_pending_taken(pending, vector);
		return 1;
	}
	if (vector < 0 || route.turn != NV_VMX_TURN_EXITS)
		return 0;
	if (field_of(&route.machine->vmx.block, NV_VMCS_EXIT_CONTROLS) & EXIT_ACKNOWLEDGES)
		interruption = event_of(NV_EVENT_INTERRUPT, vector);
	result = reflect(nested, route.machine, BASIC_INTERRUPT, interruption);
	if (interruption && !nested->due.withheld)
		nv_pending_taken(pending, vector);
	return result;
}

/* What Python levels have injected into the machine, which the active one takes by its IDT. */
static int take_injected(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_pending *pending = nv_nested_pending(nested, machine->depth);
	int vector = nv_pending_highest(pending);

	if (pending->nmi && nv_nested_vmx_route_nmi(nested, machine, 0).turn == NV_VMX_TURN_TAKES) {
		nested->vmx->injection = event_of(NV_EVENT_NMI, 2);
		nv_pending_nmi_taken(pending);
		return 1;
	}
	if (vector < 0 || nv_nested_vmx_route(nested, machine, 0).turn != NV_VMX_TURN_TAKES)
		return 0;
	nested->vmx->injection = event_of(NV_EVENT_INTERRUPT, vector);
	nv_pending_taken(pending, vector);
	return 1;
}

/* What a machine's parent has injected while it ran a guest. */
static int deliver_held(struct nv_nested *nested, struct nv_machine *machine)
{
	uint64_t event = machine->held, held = event;
	int result, nmi = EVENT_KIND_OF(event) == NV_EVENT_NMI;
	struct nv_nested_vmx_route route = nmi ? nv_nested_vmx_route_nmi(nested, machine, 1) : nv_nested_vmx_route(nested, machine, 1);

	if (route.turn == NV_VMX_TURN_WAITS)
		return 0;
	machine->held = 0;
	if (route.turn == NV_VMX_TURN_TELLS)
		return nv_nested_vmx_tell(nested, route.told, event);
	if (route.turn == NV_VMX_TURN_TAKES) {
		nested->vmx->injection = event;
		return 1;
	}
	if (!nmi && !(field_of(&route.machine->vmx.block, NV_VMCS_EXIT_CONTROLS) & EXIT_ACKNOWLEDGES)) {
		machine->held = event;
		event = 0;
	}
	result = reflect(nested, route.machine, nmi ? BASIC_EXCEPTION : BASIC_INTERRUPT, event);
	if (nested->due.withheld)
		machine->held = held;
	return result;
}

/* In the chain from a machine on: what it got, and a window of its parent's that is open because another machine takes what comes. */
static int deliver_inside(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_machine *parent = machine->parent;
	int result = machine->held ? deliver_held(nested, machine) : 0;

	if (!result)
		result = deliver_pending(nested, machine);
	if (!result)
		result = take_injected(nested, machine);
	if (result || machine->held)
		return result;
	if (primary(parent) & PRIMARY_INTERRUPT_WINDOW && nv_nested_vmx_route(nested, machine, 0).turn == NV_VMX_TURN_EXITS)
		return reflect(nested, parent, BASIC_INTERRUPT_WINDOW, 0);
	if (primary(parent) & PRIMARY_NMI_WINDOW && nv_nested_vmx_route_nmi(nested, machine, 0).turn == NV_VMX_TURN_EXITS)
		return reflect(nested, parent, BASIC_NMI_WINDOW, 0);
	return 0;
}

/* A machine that shuts down is a guest that does. */
static int shut_down(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	int result = 0;

	while (result >= 0 && vmx->synthetic == NV_REASON_SHUTDOWN && nested->active->depth && !nv_nested_vmx_waits(nested)) {
		vmx->synthetic = 0;
		result = reflect(nested, nested->active->parent, BASIC_TRIPLE_FAULT, 0);
	}
	return result < 0 ? result : 0;
}

/* A double fault is an exception of its own, which no processor had a chance to hand to a machine (26.2). */
static int hand_double_fault(struct nv_nested *nested)
{
	struct nv_machine *owner = nested->active->parent;
	struct nv_nested_vmx_exit exit = {.reason = BASIC_EXCEPTION, .interruption = event_of(NV_EVENT_EXCEPTION, DF) | EVENT_ERROR_CODE};
	int result;

	if (!nested->vmx->doubled)
		return 0;
	while (owner && !nv_nested_vmx_wants_exception(owner, DF, 0))
		owner = owner->parent;
	result = owner ? nv_nested_vmx_reflect(nested, owner, &exit) : 0;
	nested->vmx->doubled = nested->due.withheld;
	return result;
}

int nv_nested_vmx_deliver(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	int result = shut_down(nested);

	if (!result)
		result = hand_double_fault(nested);
	if (result)
		return result;
	for (int turns = 0; turns < NV_NESTED_DEPTH; turns++) {
		struct nv_machine *machine = nested->machines;
		int changed;

		/* these come first, and what is next stops the active machine behind them */
		if (vmx->injection || vmx->interrupted || vmx->step.active || vmx->synthetic || nested->due.withheld)
			return 0;
		changed = deliver_pending(nested, machine);
		while (!changed && machine->child) {
			machine = machine->child;
			changed = deliver_inside(nested, machine);
		}
		if (changed <= 0 || nv_nested_vmx_waits(nested))
			return changed < 0 ? changed : 0;
	}
	return 0;
}

uint64_t nv_nested_vmx_windows(struct nv_nested *nested)
{
	uint64_t windows = 0;

	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child) {
		const struct nv_pending *pending = nv_nested_pending(nested, machine->depth);

		windows |= primary(machine->parent) & (PRIMARY_INTERRUPT_WINDOW | PRIMARY_NMI_WINDOW);
		if (pending->windows & NV_WINDOW_INTERRUPT || nv_pending_highest(pending) >= 0)
			windows |= PRIMARY_INTERRUPT_WINDOW;
		if (pending->windows & NV_WINDOW_NMI || pending->nmi)
			windows |= PRIMARY_NMI_WINDOW;
		if (machine->held)
			windows |= EVENT_KIND_OF(machine->held) == NV_EVENT_NMI ? PRIMARY_NMI_WINDOW : PRIMARY_INTERRUPT_WINDOW;
	}
	return windows;
}

int nv_nested_vmx_window(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	int ended = nv_nested_vmx_run_timers(nested);

	if (vmx->injection || vmx->interrupted || vmx->step.active || vmx->synthetic)
		return 0;
	if (ended) {
		nested->pending[ended].deadline = 0;
		vmx->synthetic = NV_REASON_PREEMPTION_TIMER;
		vmx->synthetic_space = ended;
		return 1;
	}
	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child) {
		struct nv_pending *pending = nv_nested_pending(nested, machine->depth);

		if (pending->windows & NV_WINDOW_INTERRUPT && nv_nested_vmx_route(nested, machine, 0).turn != NV_VMX_TURN_WAITS) {
			pending->windows &= ~NV_WINDOW_INTERRUPT;
			vmx->synthetic = NV_REASON_INTERRUPT_WINDOW;
		} else if (pending->windows & NV_WINDOW_NMI && nv_nested_vmx_route_nmi(nested, machine, 0).turn != NV_VMX_TURN_WAITS) {
			pending->windows &= ~NV_WINDOW_NMI;
			vmx->synthetic = NV_REASON_NMI_WINDOW;
		} else {
			continue;
		}
		vmx->synthetic_space = machine->depth;
		return 1;
	}
	return 0;
}

int nv_nested_vmx_stops(struct nv_nested *nested)
{
	const struct nv_vmx *vmx = nested->vmx;

	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child) {
		const struct nv_pending *pending = nv_nested_pending(nested, machine->depth);

		if (!(vmx->now.primary & PRIMARY_NMI_WINDOW) && (pending->nmi || pending->windows & NV_WINDOW_NMI))
			return 1;
		if (!(vmx->now.primary & PRIMARY_INTERRUPT_WINDOW) &&
		    (pending->windows & NV_WINDOW_INTERRUPT || nv_pending_highest(pending) >= 0))
			return 1;
	}
	return 0;
}

int nv_nested_vmx_urgent(struct nv_nested *nested)
{
	const struct nv_pending *pending = &nested->switched->pending;

	if (!nested->vmx->event || !nested->machines->child)
		return 0;
	if (pending->nmi && nv_nested_vmx_route_nmi(nested, nested->machines, 0).turn == NV_VMX_TURN_EXITS)
		return 1;
	if (nv_pending_highest(pending) >= 0 && nv_nested_vmx_route(nested, nested->machines, 0).turn == NV_VMX_TURN_EXITS)
		return 1;
	for (struct nv_machine *machine = nested->machines->child; machine; machine = machine->child)
		if (machine->held && nv_nested_vmx_route(nested, machine, 1).turn == NV_VMX_TURN_EXITS)
			return 1;
	return 0;
}
