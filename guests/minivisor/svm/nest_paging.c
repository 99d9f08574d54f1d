#include "nest_paging.h"
#include "memory.h"
#include "minivisor.h"
#include "nest.h"
#include "vendor.h"

enum { PRESENT = 1, WRITABLE = 2, USER = 4, ACCESSED = 0x20, DIRTY = 0x40, LARGE = 0x80 };
#define NO_EXECUTE (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull
#define CR4_LA57 (1ull << 12)

/* Bits of the error. */
enum { WRITES = 2, WRONG = 8, FETCHES = 0x10 };

#define PAGE 4096ull
#define LARGE_PAGE (2ull << 20)
#define ENTRIES 512
#define TOP 4

/* Tables for as many roots as the guest has run lately. When one's pages are used up, it starts afresh. */
enum { ROOTS = 8, PAGES = 8, OWN_ASID = 1 };

static struct tables {
	uint64_t root, used;     /* used: when; 0: never */
	uint32_t asid;
	unsigned int pages;
} all[ROOTS];
static uint64_t pool[ROOTS][PAGES][ENTRIES] __attribute__((aligned(4096)));

static struct tables *current;   /* NULL: those of the guest itself */
static struct vmcb *runs;        /* the block that uses them */
static uint64_t now;

struct leaf {
	uint64_t to, rights;
	bool large;
};

static uint64_t (*pages_of(const struct tables *tables))[ENTRIES]
{
	return pool[tables - all];
}

static uint64_t *take_page(struct tables *tables)
{
	uint64_t *page = pages_of(tables)[tables->pages++];
	void *to = page;
	uint64_t count = ENTRIES;

	asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0) : "memory");
	return page;
}

static void renew(struct tables *tables)
{
	tables->pages = 0;
	take_page(tables);
	runs->tlb_control = TLB_FLUSH_ALL;
}

/* Those of this root; or free ones, or else those that were not used for the longest time. */
static struct tables *find(uint64_t root, uint32_t asid)
{
	struct tables *oldest = all;

	for (struct tables *one = all; one < all + ROOTS; one++) {
		if (one->used && one->root == root && one->asid == asid)
			return one;
		if (one->used < oldest->used)
			oldest = one;
	}
	oldest->used = 0;
	return oldest;
}

void nest_paging_use(const struct vmcb *asked, struct vmcb *ours)
{
	runs = ours;
	if (!(asked->nested_paging & 1)) {
		current = 0;
		ours->nested_cr3 = memory_root();
		ours->asid = OWN_ASID + ROOTS + 1;
		ours->tlb_control = TLB_FLUSH_ALL; /* whatever the guest's ASID was */
		return;
	}
	if (!(block.efer & EFER_LMA) || block.cr4 & CR4_LA57)
		stop(STATUS_NESTING, "its guest's nested page tables at 0x%lx are not long mode's with four levels", asked->nested_cr3);
	current = find(asked->nested_cr3, asked->asid);
	if (!current->used || asked->tlb_control)
		renew(current);
	current->root = asked->nested_cr3;
	current->asid = asked->asid;
	current->used = ++now;
	ours->nested_cr3 = (uintptr_t)pages_of(current)[0];
	ours->asid = OWN_ASID + 1 + (uint32_t)(current - all);
}

void nest_paging_forget(void)
{
	for (int i = 0; i < ROOTS; i++)
		all[i].used = 0;
}

static unsigned int index_at(uint64_t address, int level)
{
	return address >> (3 + 9 * level) & (ENTRIES - 1);
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
static enum nest_paging walk(uint64_t *address, uint64_t *error, struct leaf *leaf)
{
	uint64_t allowed = WRITABLE | USER, withheld = 0, table = current->root & ADDRESS, size;
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
	leaf->to = (*entry & ADDRESS & -size) + (*address & (size - 1) & -(leaf->large ? LARGE_PAGE : PAGE));
	/* the first write sets the dirty bit */
	leaf->rights = PRESENT | USER | ACCESSED | DIRTY | withheld | (*entry & DIRTY ? allowed & WRITABLE : 0);
	return NEST_FILLED;
}

static void place(uint64_t address, const struct leaf *leaf)
{
	int last = leaf->large ? 2 : 1;
	uint64_t *table;

	if (current->pages > PAGES - (TOP - 1))
		renew(current);
	table = pages_of(current)[0];
	for (int level = TOP; level > last; level--) {
		uint64_t *entry = table + index_at(address, level);

		if (!(*entry & PRESENT) || *entry & LARGE)
			*entry = (uintptr_t)take_page(current) | PRESENT | WRITABLE | USER | ACCESSED;
		table = (uint64_t *)(*entry & ADDRESS);
	}
	table[index_at(address, last)] = (memory_offset() + leaf->to) | leaf->rights | (leaf->large ? LARGE : 0);
}

enum nest_paging nest_paging_fill(uint64_t *address, uint64_t *error)
{
	struct leaf leaf;
	enum nest_paging result;

	if (!current)
		return NEST_OUTSIDE;
	result = walk(address, error, &leaf);
	if (result)
		return result;
	if (!memory_at(leaf.to, leaf.large ? LARGE_PAGE : PAGE))
		return outside(address, leaf.to);
	place(*address, &leaf);
	return NEST_FILLED;
}
