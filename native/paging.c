#include "paging.h"
#include "registers.h"

#include <stddef.h>
#include <string.h>

/* Runs while level n's vector registers are loaded. */
#pragma GCC target("general-regs-only")

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull
#define PTE_IGNORED 0x7ff0000000000000ull /* but reserved in PAE's */

#define ERROR_P 1
#define ERROR_W 2
#define ERROR_U 4
#define ERROR_RSVD 8
#define ERROR_FETCH 16

#define SPREAD 0x9e3779b97f4a7c15ull /* the golden ratio: see trail_of */

struct walk {
	const uint64_t *entry[NV_PAGING_LEVELS + 1]; /* NULL where there are no accessed bits */
	uint64_t place[NV_PAGING_LEVELS + 1]; /* its physical address */
	uint64_t rights;                 /* PTE_W and PTE_U of all levels, PTE_NX of any */
	uint64_t common;                 /* bits that all of them have which can be marked as accessed */
	uint64_t physical;
	int leaf;
	int wide;
};

void nv_paging_init(struct nv_paging *paging, const struct nv_slot *slots, uint32_t slot_count, uint32_t physical_bits)
{
	memset(paging, 0, sizeof *paging);
	nv_paging_change(paging, slots, slot_count, physical_bits);
}

void nv_paging_change(struct nv_paging *paging, const struct nv_slot *slots, uint32_t slot_count, uint32_t physical_bits)
{
	paging->slots = slots;
	paging->slot_count = slot_count;
	paging->reserved = PTE_ADDRESS & ~((1ull << physical_bits) - 1);
	nv_paging_flush(paging);
	for (int i = 0; paging->trails && i < NV_TRAILS; i++)
		paging->trails[i].page = 0;
}

void nv_paging_flush(struct nv_paging *paging)
{
	for (size_t kind = 0; kind < 3; kind++)
		for (size_t i = 0; i < 64; i++)
			*(volatile uint64_t *)&paging->tlb[kind][i].page = 0;
}

uint8_t *nv_paging_slot(const struct nv_paging *paging, uint64_t physical, int write)
{
	for (uint32_t i = 0; i < paging->slot_count; i++) {
		const struct nv_slot *slot = &paging->slots[i];

		if (physical - slot->guest < slot->size)
			return write && slot->readonly ? NULL : slot->host + (physical - slot->guest);
	}
	return NULL;
}

static uint8_t *backing(const struct nv_paging *paging, uint64_t physical, int write)
{
	return paging->back ? paging->back(paging->context, physical, write) : nv_paging_slot(paging, physical, write);
}

static int fault(struct nv_paging *paging, int access, uint32_t error)
{
	if (access == NV_PAGING_WRITE)
		error |= ERROR_W;
	if (paging->user)
		error |= ERROR_U;
	if (access == NV_PAGING_FETCH && ((paging->efer & EFER_NXE && paging->cr4 & CR4_PAE) || paging->cr4 & CR4_SMEP))
		error |= ERROR_FETCH;
	paging->error = error;
	return NV_PAGING_FAULT;
}

static int unbacked(struct nv_paging *paging, uint64_t place)
{
	paging->unbacked = place;
	return NV_PAGING_UNBACKED;
}

/* Bits that no entry has. */
static uint64_t always_reserved(const struct nv_paging *paging)
{
	uint64_t bits = paging->reserved;

	if (!(paging->efer & EFER_NXE))
		bits |= PTE_NX;
	if (!(paging->efer & EFER_LMA))
		bits |= PTE_IGNORED;
	return bits;
}

/* Those, and what an entry of this level must not have. */
static uint64_t reserved(uint64_t bits, uint64_t entry, int level)
{
	if (level > 3)
		return bits | PTE_PS;
	if (level > 1 && entry & PTE_PS)
		bits |= ((1ull << (12 + 9 * (level - 1))) - 1) & ~0x1fffull;
	return bits;
}

/* Long mode and PAE. */
static int walk_wide(struct nv_paging *paging, uint64_t linear, int access, struct walk *walk)
{
	int long_mode = !!(paging->efer & EFER_LMA);
	int level = !long_mode ? 3 : paging->cr4 & CR4_LA57 ? 5 : 4;
	uint64_t table = long_mode ? paging->cr3 & PTE_ADDRESS : paging->cr3 & 0xffffffe0;
	uint64_t never = always_reserved(paging);

	for (;; level--) {
		int shift = 12 + 9 * (level - 1);
		uint64_t index = linear >> shift & (!long_mode && level == 3 ? 3 : 511);
		uint64_t *at = (uint64_t *)backing(paging, table + 8 * index, 0);
		uint64_t entry;

		if (!at)
			return unbacked(paging, table + 8 * index);
		entry = __atomic_load_n(at, __ATOMIC_RELAXED);
		if (!(entry & PTE_P))
			return fault(paging, access, 0);
		if (!long_mode && level == 3) {
			table = entry & PTE_ADDRESS; /* a PAE directory pointer has no rights and no accessed bit */
			continue;
		}
		if (entry & reserved(never, entry, level))
			return fault(paging, access, ERROR_P | ERROR_RSVD);
		walk->rights &= entry | ~(PTE_W | PTE_U);
		walk->rights |= entry & PTE_NX;
		walk->common &= entry;
		walk->entry[level] = at;
		walk->place[level] = table + 8 * index;
		if (level == 1 || entry & PTE_PS) {
			uint64_t offset = (1ull << shift) - 1;

			walk->leaf = level;
			walk->physical = (entry & PTE_ADDRESS & ~offset) | (linear & offset);
			return NV_PAGING_OK;
		}
		table = entry & PTE_ADDRESS;
	}
}

/* 32-bit paging without PAE. */
static int walk_narrow(struct nv_paging *paging, uint64_t linear, int access, struct walk *walk)
{
	uint64_t table = paging->cr3 & 0xfffff000;

	for (int level = 2;; level--) {
		int shift = level == 2 ? 22 : 12;
		uint64_t place = table + 4 * (linear >> shift & 1023);
		uint32_t *at = (uint32_t *)backing(paging, place, 0);
		uint64_t entry;

		if (!at)
			return unbacked(paging, place);
		entry = __atomic_load_n(at, __ATOMIC_RELAXED);
		if (!(entry & PTE_P))
			return fault(paging, access, 0);
		walk->rights &= entry | ~(PTE_W | PTE_U);
		walk->common &= entry;
		walk->entry[level] = (const uint64_t *)at;
		walk->place[level] = place;
		if (level == 2 && entry & PTE_PS && paging->cr4 & CR4_PSE) {
			if (entry & 1ull << 21)
				return fault(paging, access, ERROR_P | ERROR_RSVD);
			walk->leaf = level;
			walk->physical = (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32 | (linear & 0x3fffff);
			return NV_PAGING_OK;
		}
		if (level == 1) {
			walk->leaf = level;
			walk->physical = (entry & 0xfffff000) | (linear & 0xfff);
			return NV_PAGING_OK;
		}
		table = entry & 0xfffff000;
	}
}

static int allowed(const struct nv_paging *paging, int access, uint64_t rights)
{
	if (access == NV_PAGING_FETCH && rights & PTE_NX)
		return 0;
	if (paging->user)
		return rights & PTE_U && (access != NV_PAGING_WRITE || rights & PTE_W);
	if (rights & PTE_U) {
		if (access == NV_PAGING_FETCH ? paging->cr4 & CR4_SMEP : paging->cr4 & CR4_SMAP && !paging->ac)
			return 0;
	}
	return access != NV_PAGING_WRITE || rights & PTE_W || !(paging->cr0 & CR0_WP);
}

static int lacks(const struct walk *walk, int level, uint32_t bits)
{
	return walk->entry[level] && (*(const uint32_t *)walk->entry[level] & bits) != bits;
}

static void mark(struct nv_paging *paging, const struct walk *walk, int access)
{
	paging->unmarked = NV_PAGING_NONE;
	if (walk->common & PTE_A && (access != NV_PAGING_WRITE || !lacks(walk, walk->leaf, PTE_D)))
		return;
	for (int level = walk->leaf; level <= NV_PAGING_LEVELS; level++) {
		uint32_t bits = level == walk->leaf && access == NV_PAGING_WRITE ? PTE_A | PTE_D : PTE_A;
		uint32_t *entry;

		if (!lacks(walk, level, bits))
			continue;
		entry = (uint32_t *)backing(paging, walk->place[level], 1);
		if (entry)
			__atomic_fetch_or(entry, bits, __ATOMIC_RELAXED);
		else
			paging->unmarked = walk->place[level];
	}
}

/* The trail of a walk, or of another one for which there is no place then; NULL: it leaves none. Those of long mode do, unless
 * there is an entry which could not be marked. */
static struct nv_trail *trail_of(const struct nv_paging *paging, uint64_t linear, int access)
{
	if (!paging->trails || !(paging->efer & EFER_LMA))
		return NULL;
	return &paging->trails[(3 * (linear >> 12) + access) * SPREAD >> (64 - __builtin_ctz(NV_TRAILS))];
}

static int leads_on(const struct nv_paging *paging, const struct nv_trail *trail, uint64_t linear, int access)
{
	uint64_t changed;

	if (trail->page != (linear >> 12) + 1 || trail->access != access)
		return 0;
	changed = (trail->cr3 ^ paging->cr3) | (trail->cr0 ^ paging->cr0) | (trail->cr4 ^ paging->cr4) | (trail->efer ^ paging->efer) |
		  (trail->user ^ paging->user) | (trail->ac ^ paging->ac);
	if (changed || trail->source != paging->source(paging->context))
		return 0;
	for (int i = 0; i < trail->count; i++)
		changed |= __atomic_load_n(trail->at[i], __ATOMIC_RELAXED) ^ trail->entry[i];
	return !changed;
}

static int follow(struct nv_paging *paging, const struct nv_trail *trail, uint64_t linear, uint64_t *physical)
{
	paging->leaf = trail->leaf;
	paging->clean = trail->clean;
	paging->writable = trail->writable;
	paging->executable = trail->executable;
	paging->users = trail->users;
	paging->unmarked = NV_PAGING_NONE;
	*physical = trail->physical | (linear & 0xfff);
	return NV_PAGING_OK;
}

static void leave(const struct nv_paging *paging, const struct walk *walk, uint64_t linear, int access, struct nv_trail *trail)
{
	*trail = (struct nv_trail){
		.page = (linear >> 12) + 1, .access = access, .user = paging->user, .ac = paging->ac,
		.cr0 = paging->cr0, .cr3 = paging->cr3, .cr4 = paging->cr4, .efer = paging->efer,
		.source = paging->source(paging->context), .physical = walk->physical & ~0xfffull,
		.leaf = paging->leaf, .clean = paging->clean, .writable = paging->writable, .executable = paging->executable,
		.users = paging->users,
	};
	for (int level = walk->leaf; level <= NV_PAGING_LEVELS && walk->entry[level]; level++) {
		trail->at[trail->count] = walk->entry[level];
		trail->entry[trail->count++] = __atomic_load_n(walk->entry[level], __ATOMIC_RELAXED);
	}
}

int nv_paging_walk(struct nv_paging *paging, uint64_t linear, int access, uint64_t *physical)
{
	struct nv_trail *trail;
	struct walk walk = {.rights = PTE_W | PTE_U, .common = PTE_A};
	int result;

	if (!(paging->cr0 & CR0_PG)) {
		*physical = linear & 0xffffffff;
		paging->unmarked = NV_PAGING_NONE;
		return NV_PAGING_OK;
	}
	trail = trail_of(paging, linear, access);
	if (trail && leads_on(paging, trail, linear, access))
		return follow(paging, trail, linear, physical);
	if (paging->efer & EFER_LMA || paging->cr4 & CR4_PAE)
		result = walk_wide(paging, linear, access, &walk);
	else
		result = walk_narrow(paging, linear, access, &walk);
	if (result)
		return result;
	if (!allowed(paging, access, walk.rights))
		return fault(paging, access, ERROR_P);
	mark(paging, &walk, access);
	paging->leaf = walk.leaf;
	paging->clean = lacks(&walk, walk.leaf, PTE_D) && backing(paging, walk.place[walk.leaf], 1);
	paging->writable = !!(walk.rights & PTE_W);
	paging->executable = !(walk.rights & PTE_NX);
	paging->users = !!(walk.rights & PTE_U);
	if (trail && paging->unmarked == NV_PAGING_NONE)
		leave(paging, &walk, linear, access, trail);
	*physical = walk.physical;
	return NV_PAGING_OK;
}

int nv_paging_translate(struct nv_paging *paging, uint64_t linear, int access, uint8_t **host)
{
	uint64_t page = linear >> 12, physical;
	struct nv_tlb_entry *entry = &paging->tlb[access][page & 63];
	int result;

	if (entry->page != page + 1) {
		result = nv_paging_walk(paging, linear & ~0xfffull, access, &physical);
		if (result)
			return result;
		entry->host = backing(paging, physical, access == NV_PAGING_WRITE);
		if (!entry->host) {
			entry->page = 0;
			return NV_PAGING_UNBACKED;
		}
		entry->page = page + 1;
	}
	*host = entry->host + (linear & 0xfff);
	return NV_PAGING_OK;
}

uint32_t nv_paging_fetch(struct nv_paging *paging, uint64_t linear, uint8_t *bytes, uint32_t size)
{
	uint32_t left = 0x1000 - (linear & 0xfff);
	const uint8_t *host;
	uint64_t physical;

	if (nv_paging_walk(paging, linear, NV_PAGING_FETCH, &physical))
		return 0;
	host = backing(paging, physical, 0);
	if (!host)
		return 0;
	size = size < left ? size : left;
	memcpy(bytes, host, size);
	return size;
}
