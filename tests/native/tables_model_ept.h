/* tables_model.h's model of EPT: Intel SDM vol. 3, 29.3. */
#ifndef TABLES_MODEL_EPT_H
#define TABLES_MODEL_EPT_H

#include "nested_level_vmx.h"
#include "tables_model.h"

static inline uint64_t ept_root(const struct nv_machine *machine)
{
	const struct nv_virtual_vmcs *own = &machine->vmx.block;

	return secondary_of(own) & SECONDARY_EPT ? field_of(own, NV_VMCS_EPT_POINTER) : NV_NESTED_UNPAGED;
}

static inline uint64_t ept_mode(const struct nv_machine *machine)
{
	(void)machine;
	return 1;
}

static inline int ept_is_leaf(uint64_t entry, int depth)
{
	return depth == 1 || (depth < 4 && entry & 0x80);
}

static inline int ept_is_valid(const struct nv_machine *machine, uint64_t entry, int depth)
{
	uint64_t reserved = MODEL_ADDRESS & ~0ull << PHYSICAL_BITS, offset = (1ull << (12 + 9 * (depth - 1))) - 1;
	unsigned int type = entry >> 3 & 7;

	(void)machine;
	if (!(entry & NV_RIGHT_READ))
		return 0;
	if (!ept_is_leaf(entry, depth))
		return !(entry & (reserved | 0x78 | (depth == 4 ? 0x80 : 0)));
	return !(entry & (reserved | (offset & MODEL_ADDRESS))) && type != 2 && type != 3 && type != 7;
}

static inline uint32_t ept_rights(uint64_t entry)
{
	return entry & ALL_RIGHTS;
}

static const struct model_format ept_format = {
	.root = ept_root, .mode = ept_mode, .is_valid = ept_is_valid, .is_leaf = ept_is_leaf, .rights = ept_rights,
};

#endif
