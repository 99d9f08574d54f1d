#include "nested_vmx_internal.h"

/* Controls by which instructions exit: a guest's are those of all machines below it. Windows are nested_vmx_deliver.c's, CR8 is
 * nested_vmx_tpr.c's, TSC offsetting and maps are composed. */
#define EXITING_PRIMARY 0x68819e80ull /* HLT, INVLPG, MWAIT, RDPMC, RDTSC, CR3, DR, monitor trap, MONITOR, PAUSE */
#define EXITING_SECONDARY (1ull << 2 | 1ull << 6 | 1ull << 11 | 1ull << 16)
/* And those that a guest lacks an instruction without. */
#define ENABLING_SECONDARY (1ull << 3 | 1ull << 12 | 1ull << 20 | 1ull << 26)

/* Pages of the maps that machines compose. */
enum { PORTS_A, PORTS_B, MSRS = NV_NESTED_PORTS / PAGE };

/* What makes the machine's guest exit goes on top of what the machines below it want. Machine d's maps are at depth d. */
void nv_nested_vmx_compose_maps(struct nv_nested *nested, struct nv_machine *machine)
{
	const struct nv_machine *parent = machine->parent;
	struct nv_nested_vmx_machine *own = &machine->vmx;
	const struct nv_virtual_vmcs *block = &own->block;
	uint64_t primary = field_of(block, NV_VMCS_PRIMARY_CONTROLS);
	uint64_t ports_a = primary & PRIMARY_ALL_PORTS ? NV_NESTED_MAP_ALL : NV_NESTED_MAP_NONE, ports_b = ports_a;
	uint64_t msrs = NV_NESTED_MAP_ALL;
	struct nv_nested_place place; /* where there is no memory, all exits */

	if (primary & PRIMARY_PORT_MAPS) {
		ports_a = field_of(block, NV_VMCS_IO_BITMAP_A);
		ports_b = field_of(block, NV_VMCS_IO_BITMAP_B);
	}
	if (primary & PRIMARY_MSR_MAP)
		msrs = field_of(block, NV_VMCS_MSR_BITMAP);
	nv_nested_compose_map(nested, machine, PORTS_A, ports_a, &place);
	nv_nested_compose_map(nested, machine, PORTS_B, ports_b, &place);
	nv_nested_compose_map(nested, machine, MSRS, msrs, &place);
	own->primary = field_of(block, NV_VMCS_PRIMARY_CONTROLS) | (parent ? parent->vmx.primary : 0);
	own->secondary = secondary_of(block) | (parent ? parent->vmx.secondary : 0);
	own->enabled = secondary_of(block) & (parent ? parent->vmx.enabled : ~0ull);
	own->xss = (secondary_of(block) & SECONDARY_XSAVES ? field_of(block, NV_VMCS_XSS_BITMAP) : 0) | (parent ? parent->vmx.xss : 0);
	own->cr0_mask = field_of(block, NV_VMCS_CR0_MASK) | (parent ? parent->vmx.cr0_mask : 0);
	own->cr4_mask = field_of(block, NV_VMCS_CR4_MASK) | (parent ? parent->vmx.cr4_mask : 0);
	own->exceptions = field_of(block, NV_VMCS_EXCEPTION_BITMAP) | (parent ? parent->vmx.exceptions : 0);
	if (field_of(block, NV_VMCS_PAGE_FAULT_MASK) || field_of(block, NV_VMCS_PAGE_FAULT_MATCH))
		own->exceptions |= 1u << PF;
	machine->tsc_offset = parent ? parent->tsc_offset : 0;
	if (field_of(block, NV_VMCS_PRIMARY_CONTROLS) & PRIMARY_TSC_OFFSET)
		machine->tsc_offset += field_of(block, NV_VMCS_TSC_OFFSET);
}

/* How the processor treats external interrupts, which are machine 0's. */
static void compose_interrupts(struct nv_nested *nested, struct nv_vmx_controls *wanted)
{
	struct nv_nested_vmx_route route = nv_nested_vmx_route(nested, nested->machines, 0);

	if (wanted->pin & PIN_INTERRUPTS || (route.turn != NV_VMX_TURN_EXITS && !route.told))
		return;
	wanted->pin |= PIN_INTERRUPTS;
	if (route.told)
		return; /* acknowledged when that can be told */
	wanted->exit |= field_of(&route.machine->vmx.block, NV_VMCS_EXIT_CONTROLS) & EXIT_ACKNOWLEDGES;
}

static uint64_t pointer_to(const struct nv_shadow *shadow)
{
	return (shadow->physical + shadow->root * PAGE) | NV_VMX_EPT_POINTER;
}

int nv_nested_vmx_moved(const struct nv_nested *nested)
{
	const struct nv_shadow *shadow = &nested->tables[nested->active->tables].shadow;

	return nested->active->depth && (shadow->stale || nested->vmx->now.ept_pointer != pointer_to(shadow));
}

/* 24.8: paging, too, in VMX operation, and of a guest that is not unrestricted. */
uint64_t nv_nested_vmx_held_cr0(const struct nv_nested *nested)
{
	const struct nv_machine *active = nested->active;
	int unrestricted = !active->parent || active->parent->vmx.enabled & SECONDARY_UNRESTRICTED;

	return active->vmx.on || !unrestricted ? nested->vmx_limits.msr[VMX_CR0_FIXED0] : 0;
}

void nv_nested_vmx_compose(struct nv_nested *nested, struct nv_vmx_controls *wanted)
{
	const struct nv_machine *active = nested->active, *parent = active->parent;
	struct nv_nested_tables *tables = &nested->tables[active->tables];
	/* a step writes what was allowed before it */
	uint64_t held = nested->vmx->step.active ? 0 : nv_nested_vmx_held_cr0(nested);

	nested->walked = 0;
	nv_nested_follow(nested);
	nv_nested_vmx_compose_timer(nested, wanted);
	if (!parent) {
		wanted->cr0_mask |= held;
		return;
	}
	nv_nested_vmx_compose_tpr(nested, wanted); /* it may renew tables */
	if (tables->shadow.stale) {
		tables->shadow.stale = 0;
		nested->shadow->stale = 1;
	}
	wanted->ept_pointer = pointer_to(&tables->shadow);
	wanted->primary |= (parent->vmx.primary & EXITING_PRIMARY) | PRIMARY_PORT_MAPS | PRIMARY_TSC_OFFSET;
	wanted->primary &= ~PRIMARY_ALL_PORTS;
	wanted->secondary |= parent->vmx.secondary & EXITING_SECONDARY;
	wanted->secondary &= ~ENABLING_SECONDARY | parent->vmx.enabled;
	wanted->exceptions |= parent->vmx.exceptions;
	wanted->xss = parent->vmx.enabled & SECONDARY_XSAVES ? parent->vmx.xss : 0;
	wanted->cr0_mask = (wanted->cr0_mask == CR0_FIXED ? 0 : wanted->cr0_mask) | parent->vmx.cr0_mask | held;
	wanted->cr4_mask = (wanted->cr4_mask == CR4_FIXED ? 0 : wanted->cr4_mask) | parent->vmx.cr4_mask;
	wanted->tsc_offset = parent->tsc_offset;
	wanted->ports_a = nested->maps_physical + (uint64_t)parent->depth * NV_NESTED_MAPS;
	wanted->ports_b = wanted->ports_a + PAGE;
	wanted->msr_bitmap = wanted->ports_a + NV_NESTED_PORTS;
	compose_interrupts(nested, wanted);
}
