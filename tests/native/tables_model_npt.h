/* tables_model.h's model of NPT: AMD APM vol. 2, 5.3 and 15.25. Of tables of four levels. */
#ifndef TABLES_MODEL_NPT_H
#define TABLES_MODEL_NPT_H

#include "nested_level_svm.h"
#include "tables_model.h"

#define NPT_NO_EXECUTE (1ull << 63)
#define NPT_USED 5ull                       /* present, and the user's */

static inline uint64_t npt_root(const struct nv_machine *machine)
{
	return machine->guest.nested_paging & NESTED_PAGING ? machine->guest.nested_cr3 : NV_NESTED_UNPAGED;
}

static inline uint64_t npt_mode(const struct nv_machine *machine)
{
	const struct nv_nested_host *host = &machine->host;

	return host->efer & EFER_LMA && !(host->cr4 & CR4_LA57) ? host->efer : 0;
}

static inline int npt_is_leaf(uint64_t entry, int depth)
{
	return depth == 1 || entry & 0x80;
}

static inline int npt_is_valid(const struct nv_machine *machine, uint64_t entry, int depth)
{
	uint64_t reserved = MODEL_ADDRESS & svm.limits.physical_reserved, offset = (1ull << (12 + 9 * (depth - 1))) - 1;

	if (!(machine->host.efer & EFER_NXE))
		reserved |= NPT_NO_EXECUTE;
	if (depth == 4)
		reserved |= 0x80;
	else if (depth > 1 && npt_is_leaf(entry, depth))
		reserved |= offset & ~0x1fffull;
	return (entry & NPT_USED) == NPT_USED && !(entry & reserved);
}

static inline uint32_t npt_rights(uint64_t entry)
{
	return NV_RIGHT_READ | (entry & 2 ? NV_RIGHT_WRITE : 0) | (entry & NPT_NO_EXECUTE ? 0 : NV_RIGHT_EXECUTE);
}

static const struct model_format npt_format = {
	.changing = 0x60, .root = npt_root, .mode = npt_mode, .is_valid = npt_is_valid, .is_leaf = npt_is_leaf, .rights = npt_rights,
};

#endif
