#include "nest_paging.h"
#include "memory.h"
#include "minivisor.h"
#include "nest.h"
#include "nest_tables.h"

enum { PRESENT = 1, WRITABLE = 2, USER = 4, ACCESSED = 0x20, DIRTY = 0x40, LARGE = 0x80 };
#define NO_EXECUTE (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull
#define CR4_LA57 (1ull << 12)

/* Bits of the error. */
enum { WRITES = 2, WRONG = 8, FETCHES = 0x10 };

#define PAGE 4096ull
#define TOP 4
#define OWN_ASID 1

static bool paged;               /* the guest's block asks for nested paging */
static struct vmcb *runs;        /* the block that uses the tables */

void nest_flush(void)
{
	runs->tlb_control = TLB_FLUSH_ALL;
}

void nest_paging_use(const struct vmcb *asked, struct vmcb *ours)
{
	runs = ours;
	paged = asked->nested_paging & 1;
	if (!paged) {
		ours->nested_cr3 = memory_root();
		ours->asid = OWN_ASID + NEST_ROOTS + 1;
		nest_flush(); /* whatever the guest's ASID was */
		return;
	}
	if (!(block.efer & EFER_LMA) || block.cr4 & CR4_LA57)
		stop(STATUS_NESTING, "its guest's nested page tables at 0x%lx are not long mode's with four levels", asked->nested_cr3);
	ours->asid = OWN_ASID + 1 + nest_tables_use(asked->nested_cr3, asked->asid, asked->tlb_control);
	ours->nested_cr3 = nest_tables_root();
}

static unsigned int index_at(uint64_t address, int level)
{
	return address >> (3 + 9 * level) & 511;
}

static enum nest_paging refuse(uint64_t *error, uint64_t why)
{
	*error = (*error & ~(uint64_t)(PRESENT | WRONG)) | why;
	return NEST_REFUSED;
}

static enum nest_paging outside(uint64_t *address, uint64_t where)
{
	*address = where;
	return NEST_OUTSIDE;
}

/* What the guest's tables say. Their format is that of its own tables, and all accesses are a user's (15.25.3, 15.25.5). */
static enum nest_paging walk(uint64_t *address, uint64_t *error, struct nest_leaf *leaf)
{
	uint64_t allowed = WRITABLE | USER, withheld = 0, table = nest_tables_asked() & ADDRESS, size;
	uint64_t *entry;
	int level = TOP;

	for (;; level--) {
		entry = memory_at(table + 8 * index_at(*address, level), 8);
		if (!entry)
			return outside(address, table);
		if (!(*entry & PRESENT))
			return refuse(error, 0);
		if ((level == TOP && *entry & LARGE) || (*entry & NO_EXECUTE && !(block.efer & EFER_NXE)))
			return refuse(error, PRESENT | WRONG);
		allowed &= *entry;
		withheld |= *entry & NO_EXECUTE;
		*entry |= ACCESSED;
		if (level == 1 || *entry & LARGE)
			break;
		table = *entry & ADDRESS;
	}
	if (!(allowed & USER) || (*error & WRITES && !(allowed & WRITABLE)) || (*error & FETCHES && withheld))
		return refuse(error, PRESENT);
	if (*error & WRITES)
		*entry |= DIRTY;
	size = PAGE << 9 * (level - 1);
	leaf->large = level > 1;
	leaf->to = (*entry & ADDRESS & -size) + (*address & (size - 1) & -(leaf->large ? NEST_LARGE_PAGE : PAGE));
	/* the first write sets the dirty bit */
	leaf->rights = PRESENT | USER | ACCESSED | DIRTY | withheld | (*entry & DIRTY ? allowed & WRITABLE : 0);
	return NEST_FILLED;
}

enum nest_paging nest_paging_fill(uint64_t *address, uint64_t *error)
{
	struct nest_leaf leaf;
	enum nest_paging result;

	if (!paged)
		return NEST_OUTSIDE;
	result = walk(address, error, &leaf);
	if (result || nest_tables_place(*address, &leaf))
		return result;
	return outside(address, leaf.to);
}
