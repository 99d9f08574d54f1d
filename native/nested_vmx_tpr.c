#include "nested_vmx_internal.h"

#include <stddef.h>

#define TPR 0x80 /* in the virtual-APIC page */

static uint64_t primary(const struct nv_machine *machine)
{
	return field_of(&machine->vmx.block, NV_VMCS_PRIMARY_CONTROLS);
}

/* From the parent down, the first that hears of the move, or gives its guest a TPR of its own (30.3): those below it have no part in it. */
struct nv_machine *nv_nested_vmx_tpr_of(const struct nv_nested *nested, uint64_t exiting)
{
	struct nv_machine *machine = nested->active->parent;

	while (machine && !(primary(machine) & (exiting | PRIMARY_TPR_SHADOW)))
		machine = machine->parent;
	return machine;
}

uint64_t nv_nested_vmx_virtual_apic(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_nested_place place;
	uint8_t *page;

	if (!(primary(machine) & PRIMARY_TPR_SHADOW))
		return 0;
	page = nv_nested_page(nested, machine, field_of(&machine->vmx.block, NV_VMCS_VIRTUAL_APIC), 1, &place);
	if (!page || page < nested->ram || page >= nested->ram + nested->ram_size)
		return 0;
	return nested->ram_physical + (page - nested->ram);
}

int nv_nested_vmx_check_tpr(struct nv_nested *nested, struct nv_machine *machine)
{
	uint64_t address = field_of(&machine->vmx.block, NV_VMCS_VIRTUAL_APIC);

	if (!(primary(machine) & PRIMARY_TPR_SHADOW))
		return 0;
	if (!nv_nested_vmx_virtual_apic(nested, machine))
		return FAIL_CONTROLS;
	return field_of(&machine->vmx.block, NV_VMCS_TPR_THRESHOLD) > nv_nested_map_byte(nested, machine, address + TPR) >> 4 ? FAIL_CONTROLS : 0;
}

/* Machines below may have taken the page away since the entry: then there is no going on, and this entry is without it. */
void nv_nested_vmx_compose_tpr(struct nv_nested *nested, struct nv_vmx_controls *wanted)
{
	static const uint64_t moves[] = {PRIMARY_CR8_LOAD, PRIMARY_CR8_STORE};

	for (int i = 0; i < 2; i++) {
		struct nv_machine *machine = nv_nested_vmx_tpr_of(nested, moves[i]);
		uint64_t page;

		if (!machine)
			continue;
		wanted->primary |= primary(machine) & moves[i];
		if (!(primary(machine) & PRIMARY_TPR_SHADOW))
			continue;
		page = nv_nested_vmx_virtual_apic(nested, machine);
		if (!page) {
			nested->lost = 1;
			wanted->primary |= moves[i];
			continue;
		}
		wanted->primary |= PRIMARY_TPR_SHADOW;
		wanted->virtual_apic = page;
		wanted->tpr_threshold = field_of(&machine->vmx.block, NV_VMCS_TPR_THRESHOLD);
	}
}
