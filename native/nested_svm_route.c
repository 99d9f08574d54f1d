#include "nested_svm_internal.h"

#include <stddef.h>

/* Whether the software of this machine, itself or by the guest that it runs, has interrupts enabled; `masked` when the active machine's
 * flag is not what says so. */
static int enabled(const struct nv_nested *nested, const struct nv_machine *machine, uint8_t *masked)
{
	for (; machine->child; machine = machine->child)
		if (machine->guest.virtual_interrupt & V_INTR_MASKING) {
			*masked = 1;
			return !!(machine->host.rflags & RFLAGS_IF);
		}
	*masked = 0;
	return *register_of(nested->svm, NV_REG_RFLAGS) & RFLAGS_IF && !(nested->svm->block->interrupt_shadow & SHADOWED);
}

struct nv_nested_route nv_nested_route(const struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_nested_route route = {.turn = NV_TURN_TAKES};
	int open = enabled(nested, machine, &route.masked);

	/* what the first block with V_INTR_MASKING says holds for all that is above it */
	for (; machine->child; machine = machine->child)
		if (intercepts(machine->guest.intercept, EXIT_INTR)) {
			route.turn = NV_TURN_EXITS;
			route.machine = machine;
			break;
		}
	if (!machine->child && !machine->gif)
		route.turn = NV_TURN_BLOCKED;
	else if (!open)
		route.turn = route.masked ? NV_TURN_BLOCKED : NV_TURN_WAITS;
	return route;
}

struct nv_nested_route nv_nested_route_nmi(const struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_nested_route route = {.turn = NV_TURN_TAKES};

	for (; machine->child; machine = machine->child)
		if (intercepts(machine->guest.intercept, EXIT_NMI)) {
			route.turn = NV_TURN_EXITS;
			route.machine = machine;
			return route;
		}
	if (!machine->gif)
		route.turn = NV_TURN_BLOCKED;
	else if (nested->svm->block->interrupt_shadow & SHADOWED)
		route.turn = NV_TURN_WAITS;
	return route;
}
