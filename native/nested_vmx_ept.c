#include "nested_vmx_internal.h"

#include <stddef.h>

/* Bits of an entry (Intel SDM vol. 3, 29.3.2). Rights are in the order of NV_RIGHT_*. */
#define RIGHTS 7ull
#define LARGE (1ull << 7)
#define MEMORY_TYPE(entry) ((entry) >> 3 & 7)
#define ADDRESS 0x000ffffffffff000ull
#define ROOT_LEVEL 4

/* The EPT pointer (25.6.11): memory type, levels less one, accessed and dirty flags, and what is reserved. */
#define POINTER_TYPE(pointer) ((pointer) & 7)
#define POINTER_LEVELS(pointer) (((pointer) >> 3 & 7) + 1)
#define POINTER_RESERVED 0xfc0ull

enum { UNCACHED = 0, WRITE_BACK = 6 };

int nv_nested_vmx_valid_eptp(const struct nv_nested_vmx_limits *limits, uint64_t pointer)
{
	return (POINTER_TYPE(pointer) == UNCACHED || POINTER_TYPE(pointer) == WRITE_BACK) && POINTER_LEVELS(pointer) == ROOT_LEVEL &&
	       !(pointer & POINTER_RESERVED) && !(pointer & limits->physical_reserved);
}

static struct nv_nested_root root(const struct nv_machine *machine)
{
	if (!(secondary_of(&machine->vmx.block) & SECONDARY_EPT))
		return (struct nv_nested_root){.address = NV_NESTED_UNPAGED};
	return (struct nv_nested_root){.address = field_of(&machine->vmx.block, NV_VMCS_EPT_POINTER)};
}

static uint64_t size_of(int level)
{
	return PAGE << 9 * (level - 1);
}

static int is_leaf(uint64_t entry, int level)
{
	return level == 1 || (level < ROOT_LEVEL && entry & LARGE);
}

/* 29.3.3.1: what no entry may have. Pages that can only be executed are not offered. */
static int malformed(const struct nv_nested_vmx_limits *limits, uint64_t entry, int level)
{
	uint64_t reserved = limits->physical_reserved & ADDRESS;
	unsigned int type = MEMORY_TYPE(entry);

	if (!(entry & NV_RIGHT_READ))
		return 1;
	if (!is_leaf(entry, level))
		return !!(entry & (reserved | 15ull << 3 | (level == ROOT_LEVEL ? LARGE : 0)));
	reserved |= (size_of(level) - 1) & ~(PAGE - 1);
	return entry & reserved || type == 2 || type == 3 || type == 7;
}

static int refused(struct nv_nested_place *place, struct nv_machine *machine, uint64_t address, uint32_t access, uint64_t rights)
{
	place->refuses = machine;
	place->address = address;
	place->malformed = 0;
	place->error = (access == NV_RIGHT_EXECUTE ? VIOLATION_FETCH : access == NV_RIGHT_WRITE ? VIOLATION_WRITE : 1) |
		       rights << VIOLATION_RIGHTS;
	return NV_NESTED_REFUSED;
}

static int misconfigured(struct nv_nested_place *place, struct nv_machine *machine, uint64_t address)
{
	place->refuses = machine;
	place->address = address;
	place->malformed = 1;
	place->error = 0;
	return NV_NESTED_REFUSED;
}

/* An entry in the machine's memory; all ones where it has none, as of a bus where nothing answers. A machine below may refuse. */
static int read_entry(struct nv_nested *nested, struct nv_machine *machine, uint64_t at, uint64_t *entry, struct nv_nested_place *place)
{
	const uint64_t *host = (const uint64_t *)nv_nested_page(nested, machine, at, 0, place);

	if (!host && (place->refuses || place->withheld || nested->endless))
		return place->refuses && !nested->endless ? NV_NESTED_REFUSED : NV_NESTED_VIOLATION;
	nv_nested_step(&nested->paths[machine->depth], host);
	*entry = host ? __atomic_load_n(host, __ATOMIC_RELAXED) : ~0ull;
	return NV_NESTED_MAPPED;
}

static int walk(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, uint32_t access, uint64_t *to,
		struct nv_shadow_leaf *leaf, struct nv_nested_place *place)
{
	uint64_t table = field_of(&machine->vmx.block, NV_VMCS_EPT_POINTER) & ADDRESS, entry, rights = RIGHTS;
	int result;

	nested->paths[machine->depth].count = nested->paths[machine->depth].blind = 0;
	place->refuses = NULL;
	if (++nested->walked > NV_NESTED_WALKS) {
		nested->endless = 1;
		return NV_NESTED_VIOLATION;
	}
	if (address >> NV_SHADOW_ADDRESS_BITS)
		return refused(place, machine, address, access, 0);
	for (int level = ROOT_LEVEL;; level--) {
		uint64_t offset = size_of(level) - 1;

		result = read_entry(nested, machine, table + 8 * (address / size_of(level) % 512), &entry, place);
		if (result)
			return result;
		if (!(entry & RIGHTS))
			return refused(place, machine, address, access, 0);
		if (malformed(&nested->vmx_limits, entry, level))
			return misconfigured(place, machine, address);
		rights &= entry;
		table = entry & ADDRESS;
		if (!is_leaf(entry, level))
			continue;
		if (access & ~rights)
			return refused(place, machine, address, access, rights);
		leaf->level = level;
		leaf->rights = rights;
		*to = (table & ~offset) | (address & offset);
		return NV_NESTED_MAPPED;
	}
}

const struct nv_nested_ops nv_nested_vmx_ops = {.root = root, .walk = walk};
