#include "nested_machines.h"

#include <stddef.h>

/* What Python levels between a machine's code and the image below it give of what that image gives. */

int nv_nested_given(struct nv_nested *nested, const struct nv_machine *machine, uint64_t address, uint32_t access, uint64_t *to,
		    struct nv_shadow_leaf *leaf, struct nv_nested_place *place)
{
	const struct nv_nested_given *given = &nested->given[machine->depth];
	const struct nv_shadow_range *range;

	*to = address;
	if (!given->ranges)
		return NV_NESTED_MAPPED;
	range = nv_shadow_find(given->ranges, given->count, address);
	if (!range || access & ~range->rights)
		return nv_nested_withheld(place, machine->depth, address, access);
	leaf->rights = range->rights;
	if (range->to == NV_SHADOW_WINDOW) {
		leaf->level = 1;
		leaf->to = nv_shadow_open_window(nested->shadow, address | (uint64_t)machine->depth << NV_SPACE_SHIFT);
		return NV_NESTED_HOLE;
	}
	while (leaf->level > 1 && !nv_shadow_fits(range, address, leaf->level))
		leaf->level--;
	*to = range->to + (address - range->first);
	return NV_NESTED_MAPPED;
}

int nv_nested_withheld(struct nv_nested_place *place, uint8_t space, uint64_t address, uint32_t access)
{
	place->refuses = NULL;
	place->withheld = 1;
	place->space = space;
	place->address = address;
	place->access = access;
	return NV_NESTED_VIOLATION;
}

void nv_nested_give(struct nv_nested *nested, uint32_t depth, const struct nv_shadow_range *ranges, uint32_t count, int less)
{
	nested->given[depth] = (struct nv_nested_given){ranges, count};
	for (struct nv_machine *one = nested->machines; less && one < nested->machines + NV_NESTED_MACHINES; one++)
		if (one->used && one->depth == depth)
			nv_nested_drop(nested, one);
}
