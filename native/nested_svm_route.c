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

struct nv_machine *nv_nested_prioritizes(const struct nv_nested *nested)
{
	struct nv_machine *machine = nested->active->parent;

	while (machine && !(machine->guest.virtual_interrupt & V_INTR_MASKING))
		machine = machine->parent;
	return machine;
}

/* Who hears of it first, of the Python levels and blocks that it passes; from `machine` on. */
static struct nv_nested_route find(const struct nv_nested *nested, struct nv_machine *machine, uint64_t code, uint8_t kind, int arrives)
{
	for (;; machine = machine->child, arrives = 1) {
		if (arrives && nv_nested_claimed(nested, machine, kind))
			return (struct nv_nested_route){.turn = NV_TURN_TELLS, .machine = machine, .told = 1};
		if (!machine->child)
			return (struct nv_nested_route){.turn = NV_TURN_TAKES};
		if (intercepts(machine->guest.intercept, code))
			return (struct nv_nested_route){.turn = NV_TURN_EXITS, .machine = machine};
	}
}

/* The active machine's GIF, which nothing passes. */
static int is_blocked(const struct nv_nested *nested, const struct nv_nested_route *route)
{
	return route->turn != NV_TURN_EXITS && !nested->active->gif;
}

struct nv_nested_route nv_nested_route(const struct nv_nested *nested, struct nv_machine *machine, int arrives)
{
	/* what the first block with V_INTR_MASKING says holds for all that is above it */
	struct nv_nested_route route = find(nested, machine, EXIT_INTR, NV_WINDOW_INTERRUPT, arrives);
	int open = enabled(nested, machine, &route.masked);

	if (is_blocked(nested, &route))
		route.turn = NV_TURN_BLOCKED;
	else if (!open)
		route.turn = route.masked ? NV_TURN_BLOCKED : NV_TURN_WAITS;
	return route;
}

struct nv_nested_route nv_nested_route_nmi(const struct nv_nested *nested, struct nv_machine *machine, int arrives)
{
	struct nv_nested_route route = find(nested, machine, EXIT_NMI, NV_WINDOW_NMI, arrives);

	if (is_blocked(nested, &route))
		route.turn = NV_TURN_BLOCKED;
	else if (route.turn == NV_TURN_TAKES && nested->svm->block->interrupt_shadow & SHADOWED)
		route.turn = NV_TURN_WAITS;
	return route;
}
