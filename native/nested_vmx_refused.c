#include "nested_vmx_internal.h"

#define NOWHERE (~0ull)      /* as NO_VMCS and NO_TABLE */

/* The memory of a level that its entries and exits need, besides the VMCS: a machine below, or a Python level, may not give it. It hears of that
 * before anything is done, and what needs it happens again. */

static int page_refused(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, int write, int heard)
{
	struct nv_nested_place place;

	if (nv_nested_page(nested, machine, address, write, &place) || !(place.refuses || place.withheld))
		return 0;
	return nv_nested_vmx_refused(nested, &place, heard);
}

static int list_refused(struct nv_nested *nested, struct nv_machine *machine, uint32_t list, uint32_t length, int write, int heard)
{
	uint64_t at = field_of(&machine->vmx.block, list), count = field_of(&machine->vmx.block, length);
	uint64_t end = at + (count < NV_VMX_LIST_MAX ? count : NV_VMX_LIST_MAX) * sizeof(struct nv_nested_vmx_listed);
	int result = 0;

	for (; at < end && !result; at = (at | (PAGE - 1)) + 1)
		result = page_refused(nested, machine, at, write, heard);
	return result;
}

/* What any exit reads, that of an entry which fails too. */
static int host_refused(struct nv_nested *nested, struct nv_machine *to, int heard)
{
	uint64_t table = nv_nested_vmx_host_table(&to->vmx.block);
	int result = table != NO_TABLE ? page_refused(nested, to, table, 0, heard) : 0;

	return result ? result : list_refused(nested, to, NV_VMCS_EXIT_MSR_LOADS, NV_VMCS_EXIT_MSR_LOAD_COUNT, 0, heard);
}

int nv_nested_vmx_exit_refused(struct nv_nested *nested, struct nv_machine *to, int heard)
{
	int result = list_refused(nested, to, NV_VMCS_EXIT_MSR_STORES, NV_VMCS_EXIT_MSR_STORE_COUNT, 1, heard);

	return result ? result : host_refused(nested, to, heard);
}

int nv_nested_vmx_entry_refused(struct nv_nested *nested, struct nv_machine *parent)
{
	const struct nv_virtual_vmcs *block = &parent->vmx.block;
	uint64_t primary = field_of(block, NV_VMCS_PRIMARY_CONTROLS), link = field_of(block, NV_VMCS_LINK_POINTER);
	const uint64_t pages[] = {
		primary & PRIMARY_PORT_MAPS ? field_of(block, NV_VMCS_IO_BITMAP_A) : NOWHERE,
		primary & PRIMARY_PORT_MAPS ? field_of(block, NV_VMCS_IO_BITMAP_B) : NOWHERE,
		primary & PRIMARY_MSR_MAP ? field_of(block, NV_VMCS_MSR_BITMAP) : NOWHERE,
		secondary_of(block) & SECONDARY_EPT ? NOWHERE : nv_nested_vmx_guest_table(block),
		link & ((PAGE - 1) | nested->vmx_limits.physical_reserved) ? NOWHERE : link,
	};
	int result = 0;

	for (unsigned int i = 0; i < sizeof pages / sizeof pages[0] && !result; i++)
		if (pages[i] != NOWHERE)
			result = page_refused(nested, parent, pages[i], 0, 0);
	if (!result && primary & PRIMARY_TPR_SHADOW)
		result = page_refused(nested, parent, field_of(block, NV_VMCS_VIRTUAL_APIC), 1, 0);
	if (!result)
		result = list_refused(nested, parent, NV_VMCS_ENTRY_MSR_LOADS, NV_VMCS_ENTRY_MSR_LOAD_COUNT, 0, 0);
	return result ? result : host_refused(nested, parent, 0);
}
