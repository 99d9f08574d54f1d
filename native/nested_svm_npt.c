#include "nested_svm_internal.h"

#include <stddef.h>

#define CR4_TABLES (CR4_PSE | CR4_PAE | CR4_LA57)

static int access_kind(uint32_t access)
{
	return access == NV_RIGHT_EXECUTE ? NV_PAGING_FETCH : access == NV_RIGHT_WRITE ? NV_PAGING_WRITE : NV_PAGING_READ;
}

static int refused(struct nv_nested_place *place, struct nv_machine *machine, uint64_t address, uint64_t error)
{
	place->refuses = machine;
	place->address = address;
	place->error = error;
	return NV_NESTED_REFUSED;
}

/* What a walk through one machine's tables needs to read them. */
struct tables_at {
	struct nv_nested *nested;
	struct nv_machine *machine;
	struct nv_nested_place *place;
	int result;
};

static const uint64_t no_memory = ~0ull; /* what reading a hole gives */

static uint8_t *read_table(void *context, uint64_t physical, int write)
{
	struct tables_at *at = context;
	uint8_t *host = nv_nested_page(at->nested, at->machine, physical, write, at->place);

	if (!write)
		nv_nested_step(&at->nested->paths[at->machine->depth], host);
	if (host || write)
		return host;
	if (at->place->refuses || at->place->withheld || at->nested->endless) {
		at->result = at->place->refuses ? NV_NESTED_REFUSED : NV_NESTED_VIOLATION;
		return NULL;
	}
	return (uint8_t *)&no_memory;
}

/* By the nested page tables of the machine, to its own memory. Their format is that of its own tables (AMD APM vol. 2, 15.25.3), and
 * every access is a user's (15.25.5). */
static int walk(struct nv_nested *nested, struct nv_machine *machine, uint64_t address, uint32_t access, uint64_t *to,
		struct nv_shadow_leaf *leaf, struct nv_nested_place *place)
{
	struct nv_paging *paging = &nested->walks[machine->depth];
	struct nv_nested_path *path = &nested->paths[machine->depth];
	struct tables_at at = {.nested = nested, .machine = machine, .place = place};
	uint64_t kind = access == NV_RIGHT_EXECUTE ? NPF_FETCH : access == NV_RIGHT_WRITE ? NPF_WRITE : 0;
	int result;

	path->count = path->blind = 0;
	paging->cr0 = CR0_WP | CR0_PG;
	paging->cr3 = machine->guest.nested_cr3;
	paging->cr4 = machine->host.cr4 & CR4_TABLES;
	paging->efer = machine->host.efer;
	paging->reserved = nested->svm->limits.physical_reserved & ~(0xfffull << 52);
	paging->user = 1;
	paging->context = &at;
	paging->back = read_table;
	place->refuses = NULL;
	if (++nested->walked > NV_NESTED_WALKS) {
		nested->endless = 1;
		return NV_NESTED_VIOLATION;
	}
	if (address & nested->svm->limits.physical_reserved)
		return refused(place, machine, address, NPF_USER | NPF_RESERVED | NPF_PRESENT | kind);
	if (address >> (paging->efer & EFER_LMA ? NV_SHADOW_ADDRESS_BITS : 32))
		return refused(place, machine, address, NPF_USER | kind);
	result = nv_paging_walk(paging, address, access_kind(access), to);
	if (at.result)
		return at.result; /* a machine below does not let it reach its tables */
	if (result)
		return refused(place, machine, address, paging->error | (access == NV_RIGHT_EXECUTE ? NPF_FETCH : 0));
	/* large pages of 4 MiB, which old tables have, are two of ours */
	leaf->level = paging->leaf;
	leaf->rights = NV_RIGHT_READ;
	if (paging->writable && !paging->clean)
		leaf->rights |= NV_RIGHT_WRITE; /* the first write sets the dirty bit */
	if (paging->executable)
		leaf->rights |= NV_RIGHT_EXECUTE;
	return NV_NESTED_MAPPED;
}

static struct nv_nested_root root(const struct nv_machine *machine)
{
	uint32_t mode = (machine->host.cr4 & CR4_TABLES) | (machine->host.efer & (EFER_LMA | EFER_NXE));

	return (struct nv_nested_root){
		.address = machine->guest.nested_paging & NESTED_PAGING ? machine->guest.nested_cr3 : NV_NESTED_UNPAGED,
		.mode = mode, /* no bit is at the same place in both */
		.tag = machine->guest.asid,
	};
}

/* What the processor forgets of the parent's guests by TLB_CONTROL: of all, or of an ASID (AMD APM vol. 2, 15.16.2). */
static void flush(struct nv_nested *nested, const struct nv_machine *parent)
{
	const struct nv_vmcb *block = &parent->guest;

	if (block->tlb_control == TLB_FLUSH_ALL)
		nv_nested_doubt_guests(nested, parent, NULL);
	else if (block->tlb_control)
		nv_nested_doubt_guests(nested, parent, &block->asid);
}

const struct nv_nested_ops nv_nested_svm_ops = {.root = root, .walk = walk, .flush = flush};
