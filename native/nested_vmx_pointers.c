#include "nested_vmx_internal.h"

#include <string.h>

/* PAE paging goes by four page-directory-pointer entries, which the processor has loaded (vol. 3, 4.4.1). A guest that has EPT brings them in its
 * block; another one has them where its CR3 points to, as has a hypervisor that an exit goes to. The processor takes all of them from L0's VMCS,
 * which has EPT. */

#define TABLE 0xffffffe0ull
#define NEVER_SET 0x1e6ull

static uint64_t table_of(uint64_t cr0, uint64_t cr3, uint64_t cr4, int long_mode)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !long_mode ? cr3 & TABLE : NO_TABLE;
}

uint64_t nv_nested_vmx_guest_table(const struct nv_virtual_vmcs *block)
{
	return table_of(field_of(block, NV_VMCS_GUEST_CR0), field_of(block, NV_VMCS_GUEST_CR3), field_of(block, NV_VMCS_GUEST_CR4),
			!!(field_of(block, NV_VMCS_ENTRY_CONTROLS) & ENTRY_LONG_MODE));
}

uint64_t nv_nested_vmx_host_table(const struct nv_virtual_vmcs *block)
{
	return table_of(field_of(block, NV_VMCS_HOST_CR0), field_of(block, NV_VMCS_HOST_CR3), field_of(block, NV_VMCS_HOST_CR4),
			!!(field_of(block, NV_VMCS_EXIT_CONTROLS) & EXIT_HOST_64));
}

void nv_nested_vmx_read_pointers(struct nv_nested *nested, struct nv_machine *machine, uint64_t table, uint64_t *pointers)
{
	struct nv_nested_place place;
	const uint8_t *host = nv_nested_page(nested, machine, table, 0, &place);

	if (host)
		memcpy(pointers, host, NV_VMX_POINTERS * sizeof *pointers);
	else
		memset(pointers, 0xff, NV_VMX_POINTERS * sizeof *pointers); /* of a bus where nothing answers */
}

int nv_nested_vmx_bad_pointers(const struct nv_nested_vmx_limits *limits, const uint64_t *pointers)
{
	for (int i = 0; i < NV_VMX_POINTERS; i++)
		if (pointers[i] & 1 && pointers[i] & (limits->physical_reserved | NEVER_SET))
			return 1;
	return 0;
}
