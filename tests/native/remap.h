/* Changes of a machine's page tables, without a word to the processor, where L0 has made something of them already: an entry that allowed
 * less leads elsewhere, and allows all; or it allows something else. */
#ifndef REMAP_H
#define REMAP_H

#include "hostile.h"
#include "tables_model.h"

/* How a vendor's entries of 4 KiB read, but for the address: those that allow all, all but writes, and all but execution. */
struct remap_format {
	const struct model_format *tables;
	uint64_t all, unwritable, unexecutable;
};

/* The leaf of 4 KiB that the machine's parent has for an address, as it is in the level's memory now; NULL: none is found. */
static inline uint64_t *remap_entry(const struct model_format *format, const struct nv_machine *machine, uint64_t address)
{
	const struct nv_machine *parent = machine->parent;
	const struct model_walk walk = {format, model_sets[machine->tables].made, 1};
	uint64_t table = format->root(parent), physical;
	uint32_t rights = ALL_RIGHTS;

	if (table == NV_NESTED_UNPAGED || !format->mode(parent))
		return NULL;
	for (int depth = 4;; depth--) {
		uint64_t at = (table & MODEL_ADDRESS) + 8 * (address >> (12 + 9 * (depth - 1)) & 511), entry;

		if (model_translate(&walk, parent, at, &physical, &rights) || physical >= PAGES * PAGE)
			return NULL;
		if (depth == 1)
			return (uint64_t *)(level + physical);
		entry = *(uint64_t *)(level + physical);
		if (!format->is_valid(parent, entry, depth) || format->is_leaf(entry, depth))
			return NULL;
		table = entry & MODEL_ADDRESS;
	}
}

struct remap_choice {
	uint64_t address, seen;
};

static inline void remap_choose(void *context, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	struct remap_choice *choice = context;

	if (!(leaf->rights & NV_RIGHT_WRITE) && address < PAGES * PAGE && once_in(++choice->seen))
		choice->address = address;
}

/* A page of the machine's that its guest cannot write yet leads to any other one, or loses another right. Gives its address; ~0: there is no
 * such page. */
static inline uint64_t remap_page(const struct remap_format *format, const struct nv_machine *machine)
{
	struct remap_choice choice = {~0ull, 0};
	uint64_t *entry;

	model_visit(model_tables(machine->tables), remap_choose, &choice);
	entry = choice.seen ? remap_entry(format->tables, machine, choice.address) : NULL;
	if (!entry)
		return ~0ull;
	if (once_in(3))
		*entry = (*entry & MODEL_ADDRESS) | format->unexecutable;
	else
		*entry = page_of(0, PAGES) | format->all;
	return choice.address;
}

/* What the active machine comes to then: *access, at the address; ~0: nothing. */
static inline uint64_t remap(const struct remap_format *format, uint32_t *access)
{
	const struct nv_machine *active = nested.active;
	uint64_t address = page_of(0, PAGES), below = ~0ull, *entry;

	*access = NV_RIGHT_WRITE;
	if (once_in(3)) {
		*access = NV_RIGHT_READ;
		entry = remap_entry(format->tables, active, address);
		if (entry)
			*entry = page_of(0, PAGES) | format->unwritable;
	} else if (active->depth > 1 && once_in(2)) {
		/* by a page that the machine below has, which leads elsewhere now */
		below = remap_page(format, active->parent);
		entry = below == ~0ull ? NULL : remap_entry(format->tables, active, address);
		if (entry)
			*entry = below | format->all;
	} else {
		address = remap_page(format, active);
	}
	return address;
}

#endif
