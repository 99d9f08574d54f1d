#include "nested_machines.h"

#include <stddef.h>
#include <string.h>

#define PAGE 4096ull
#define SPREAD 0x9e3779b97f4a7c15ull /* the golden ratio: neighbours, and pages that are a power of two apart, have places of their own */

/* L0's memory for the tower, which stays where it is. Below it KVM's slots have what is read-only. */
static int is_own(const struct nv_nested *nested, uint64_t to)
{
	return to - nested->ram_physical < nested->ram_size;
}

static struct nv_shadow *shadow_of(struct nv_nested *nested, const struct nv_machine *machine)
{
	return machine->depth ? &nested->tables[machine->tables].shadow : nested->shadow;
}

void nv_nested_drop(struct nv_nested *nested, const struct nv_machine *machine)
{
	for (struct nv_nested_tables *one = nested->tables + 1; one < nested->tables + NV_NESTED_SETS; one++) {
		if (!one->machine || !nv_nested_runs_on(one->machine, machine))
			continue;
		nv_shadow_renew(&one->shadow);
		one->seen_count = one->blind = one->doubted = 0;
		nested->flush = 1;
	}
}

/* Those that run on the machine may have what it had. */
static void drop_guests(struct nv_nested *nested, const struct nv_machine *machine)
{
	for (const struct nv_nested_tables *one = nested->tables + 1; one < nested->tables + NV_NESTED_SETS; one++)
		if (one->machine && one->machine->parent == machine)
			nv_nested_drop(nested, one->machine);
}

void nv_nested_follow(struct nv_nested *nested)
{
	if (nested->revision == nested->shadow->revision)
		return;
	nested->revision = nested->shadow->revision;
	nv_nested_drop(nested, nested->machines);
}

void nv_nested_release(struct nv_nested *nested, struct nv_machine *machine)
{
	nested->tables[machine->tables].machine = NULL;
	machine->tables = 0;
}

/* By the machines that run each other from machine 0 on: up to the one that is to be active. */
static int is_needed(const struct nv_nested *nested, const struct nv_nested_tables *tables)
{
	const struct nv_machine *machine = nested->machines;

	while (machine && machine != tables->machine)
		machine = machine->child;
	return !!machine;
}

/* Free ones, or else those whose machine has not been active for the longest time. */
static void take_tables(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_nested_tables *taken = NULL; /* there is one: a chain has no more machines than there are sets */

	for (struct nv_nested_tables *one = nested->tables + 1; one < nested->tables + NV_NESTED_SETS; one++) {
		if (is_needed(nested, one))
			continue;
		if (!taken || (taken->machine && (!one->machine || one->machine->used < taken->machine->used)))
			taken = one;
	}
	if (taken->machine)
		nv_nested_release(nested, taken->machine);
	if (!taken->shadow.used) {
		nv_shadow_reset(&taken->shadow);
		taken->shadow.stale = 0; /* nobody has seen them yet */
	}
	taken->machine = machine;
	machine->tables = taken - nested->tables;
}

void nv_nested_use_tables(struct nv_nested *nested, struct nv_machine *machine, int enters)
{
	struct nv_nested_root root = nested->ops->root(machine->parent);
	struct nv_nested_tables *tables;
	int fresh = !machine->tables;

	if (fresh)
		take_tables(nested, machine);
	tables = &nested->tables[machine->tables];
	if (fresh || tables->root.address != root.address || tables->root.mode != root.mode)
		nv_nested_drop(nested, machine);
	else if (tables->root.tag != root.tag)
		nv_nested_doubt(nested, machine);
	tables->root = root;
	if (enters && nested->ops->flush)
		nested->ops->flush(nested, machine->parent);
	nv_nested_confirm(nested, machine);
}

static int place_in_machine_0(struct nv_nested *nested, uint64_t address, uint32_t access, struct nv_nested_place *place)
{
	if (nv_shadow_fill(nested->shadow, address, access) == NV_SHADOW_FILLED && nv_shadow_look(nested->shadow, address, &place->leaf))
		return NV_NESTED_MAPPED;
	nv_nested_withheld(place, 0, address, access);
	place->withheld = !(address >> NV_SHADOW_ADDRESS_BITS); /* what is beyond them no level has */
	return NV_NESTED_VIOLATION;
}

/* Leads through both. */
static void limit(struct nv_shadow_leaf *leaf, const struct nv_shadow_leaf *above)
{
	if (leaf->level > above->level)
		leaf->level = above->level;
	leaf->rights &= above->rights;
}

#define EVERYTHING ((struct nv_shadow_leaf){.rights = NV_RIGHT_READ | NV_RIGHT_WRITE | NV_RIGHT_EXECUTE, .level = 3})

/* What the machine's parent gives at an address, and those below it. */
static int place_beneath(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, uint32_t access,
			 struct nv_nested_place *place)
{
	struct nv_machine *parent = machine->parent;
	struct nv_shadow_leaf leaf = EVERYTHING;
	uint64_t to = address;
	int result;

	if (nested->ops->root(parent).address != NV_NESTED_UNPAGED) {
		result = nested->ops->walk(nested, parent, address, access, &to, &leaf, place);
		if (result)
			return result;
		nv_nested_see(&nested->tables[machine->tables], &nested->paths[parent->depth]);
	}
	result = nv_nested_place(nested, parent, to, access, place);
	if (result)
		return result;
	limit(&place->leaf, &leaf);
	return NV_NESTED_MAPPED;
}

/* What KVM has at one of its guest-physical addresses; below L0's memory they are machine 0's. */
static uint8_t *memory_at(const struct nv_nested *nested, uint64_t to, int write)
{
	if (is_own(nested, to))
		return nested->ram + (to - nested->ram_physical);
	return to < nested->ram_physical ? nv_paging_slot(nested->switched->paging, to, write) : NULL;
}

int nv_nested_place(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, uint32_t access, struct nv_nested_place *place)
{
	struct nv_shadow *shadow = shadow_of(nested, machine);
	struct nv_shadow_leaf leaf = EVERYTHING;
	uint32_t revision = shadow->revision;
	uint64_t to;
	int result;

	place->withheld = 0;
	if (!machine->parent)
		return place_in_machine_0(nested, address, access, place);
	if (nv_shadow_look(shadow, address, &place->leaf) && !(access & ~place->leaf.rights))
		return NV_NESTED_MAPPED;
	result = nv_nested_given(nested, machine, address, access, &to, &leaf, place);
	if (result == NV_NESTED_HOLE) {
		place->leaf = leaf;
	} else {
		if (!result)
			result = place_beneath(nested, machine, to, access, place);
		if (result)
			return result;
		limit(&place->leaf, &leaf);
	}
	if (shadow->revision != revision)
		nested->tables[machine->tables].blind = 1; /* they were dropped on the way, and with them what it had read before */
	if (shadow->format == NV_SHADOW_NPT && !memory_at(nested, place->leaf.to, 0))
		place->leaf.rights &= ~NV_RIGHT_EXECUTE; /* see nv_nested_fetches_nothing, which SVM has alone */
	if (nv_shadow_place(shadow, address, &place->leaf)) {
		drop_guests(nested, machine);
		nested->flush = 1;
	}
	nv_shadow_look(shadow, address, &place->leaf); /* among smaller pages it is one: so is it for guests, which lose it with this one */
	return NV_NESTED_MAPPED;
}

/* What is remembered of the machine's memory, in the epoch that it is. */
static struct nv_nested_tables *remembered(struct nv_nested *nested, const struct nv_machine *machine)
{
	struct nv_nested_tables *tables = &nested->tables[machine->tables];
	uint32_t revision = (machine->depth ? &tables->shadow : nested->shadow)->revision;

	if (tables->reached_revision != revision) {
		tables->reached_epoch++;
		tables->reached_revision = revision;
	}
	return tables;
}

/* Where a page of the machine's is remembered. */
static struct nv_nested_reached *reached_at(struct nv_nested *nested, const struct nv_machine *machine, uint64_t address, int access)
{
	struct nv_nested_tables *tables = remembered(nested, machine);

	return &tables->reached[access][address / PAGE * SPREAD >> (64 - __builtin_ctz(NV_NESTED_REACHED))];
}

static int is_at(const struct nv_nested *nested, const struct nv_machine *machine, const struct nv_nested_reached *reached, uint64_t address)
{
	return reached->page == address / PAGE + 1 && reached->epoch == nested->tables[machine->tables].reached_epoch;
}

static uint8_t *find_page(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, int access, struct nv_nested_place *place)
{
	static const uint32_t rights[] = {NV_RIGHT_READ, NV_RIGHT_WRITE, NV_RIGHT_EXECUTE};
	struct nv_nested_reached *reached;
	uint8_t *host;

	place->refuses = NULL;
	if (nv_nested_place(nested, machine, address, rights[access], place))
		return NULL;
	place->refuses = NULL;
	host = memory_at(nested, place->leaf.to, access == NV_PAGING_WRITE);
	if (host && is_own(nested, place->leaf.to)) {
		reached = reached_at(nested, machine, address, access); /* by the tables that there are now */
		*reached = (struct nv_nested_reached){address / PAGE + 1, place->leaf.to & -PAGE, host - address % PAGE,
						      nested->tables[machine->tables].reached_epoch};
	}
	return host;
}

uint8_t *nv_nested_page(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, int access, struct nv_nested_place *place)
{
	const struct nv_nested_reached *reached = reached_at(nested, machine, address, access);

	if (!is_at(nested, machine, reached, address))
		return find_page(nested, machine, address, access, place);
	place->refuses = NULL;
	place->withheld = 0;
	place->leaf.to = reached->to + address % PAGE;
	return reached->host + address % PAGE;
}

/* As nv_nested_page, of an address beneath all Python levels that are the machine's own. */
static uint8_t *page_beneath(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, int write)
{
	struct nv_nested_place place;

	if (!machine->parent || place_beneath(nested, machine, address, write ? NV_RIGHT_WRITE : NV_RIGHT_READ, &place))
		return NULL;
	return memory_at(nested, place.leaf.to, write);
}

uint64_t nv_nested_copy(struct nv_nested *nested, int depth, uint64_t address, uint8_t *data, uint64_t size, int write, int beneath)
{
	struct nv_machine *machine = nested->active;
	struct nv_nested_place place;
	uint64_t done = 0;

	while (machine && depth >= 0 && machine->depth != depth)
		machine = machine->parent;
	while (machine && done < size) {
		uint64_t at = address + done, length = PAGE - at % PAGE;
		uint8_t *host;

		nested->walked = 0;
		host = beneath ? page_beneath(nested, machine, at, write) : nv_nested_page(nested, machine, at, write, &place);
		if (!host)
			break;
		if (length > size - done)
			length = size - done;
		memcpy(write ? host : data + done, write ? data + done : host, length);
		done += length;
	}
	return done;
}

int nv_nested_nothing(struct nv_nested *nested, uint64_t address)
{
	struct nv_nested_place place;

	return nv_nested_place(nested, nested->active, address, NV_RIGHT_READ, &place) == NV_NESTED_MAPPED &&
	       !nv_nested_page(nested, nested->active, address, 0, &place);
}

/* An nv_paging's `back` and `source`. */
static uint8_t *back(void *context, uint64_t physical, int write)
{
	struct nv_nested *nested = context;
	struct nv_nested_place place;

	if (!nested->active->depth)
		return nv_paging_slot(nested->switched->paging, physical, write);
	return nv_nested_page(nested, nested->active, physical, write ? NV_PAGING_WRITE : NV_PAGING_READ, &place);
}

static uint64_t source(void *context)
{
	struct nv_nested *nested = context;
	const struct nv_machine *active = nested->active;

	/* machine 0's are the slots, and nv_paging_change says when those are others */
	return active->depth ? remembered(nested, active)->reached_epoch * NV_NESTED_SETS + active->tables : 0;
}

void nv_nested_init_paging(struct nv_nested *nested)
{
	struct nv_paging *paging = nested->switched->paging;

	memset(nested->trails, 0, sizeof nested->trails);
	paging->back = back;
	paging->source = source;
	paging->context = nested;
	paging->trails = nested->trails;
}
