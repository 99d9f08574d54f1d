#include "nest_tables.h"
#include "memory.h"
#include "vendor.h"

#define ADDRESS 0x000ffffffffff000ull
#define LARGE (1ull << 7)
#define PAGE 4096
#define ENTRIES 512
#define TOP 4

/* When a root's pages are used up, it starts afresh. */
enum { PAGES = 8 };

static struct tables {
	uint64_t root, used;     /* used: when; 0: never */
	uint32_t tag;
	unsigned int pages;
} all[NEST_ROOTS];
static uint64_t pool[NEST_ROOTS][PAGES][ENTRIES] __attribute__((aligned(4096)));

static struct tables *current;
static uint64_t now;

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

static void empty(struct tables *tables)
{
	tables->pages = 0;
	take_page(tables);
	nest_flush();
}

/* Those of this root; or free ones, or else those that were not used for the longest time. */
static struct tables *find(uint64_t root, uint32_t tag)
{
	struct tables *oldest = all;

	for (struct tables *one = all; one < all + NEST_ROOTS; one++) {
		if (one->used && one->root == root && one->tag == tag)
			return one;
		if (one->used < oldest->used)
			oldest = one;
	}
	oldest->used = 0;
	return oldest;
}

unsigned int nest_tables_use(uint64_t root, uint32_t tag, bool renew)
{
	current = find(root, tag);
	current->root = root;
	current->tag = tag;
	if (!current->used || renew)
		empty(current);
	current->used = ++now;
	return (unsigned int)(current - all);
}

uint64_t nest_tables_root(void)
{
	return (uintptr_t)pages_of(current)[0];
}

uint64_t nest_tables_asked(void)
{
	return current->root;
}

void nest_tables_forget(void)
{
	for (int i = 0; i < NEST_ROOTS; i++)
		all[i].used = 0;
}

static uint64_t *entry_at(uint64_t *table, uint64_t address, int level)
{
	return table + (address >> (3 + 9 * level) & (ENTRIES - 1));
}

bool nest_tables_place(uint64_t address, const struct nest_leaf *leaf)
{
	int last = leaf->large ? 2 : 1;
	uint64_t *table;

	if (!memory_at(leaf->to, leaf->large ? NEST_LARGE_PAGE : PAGE))
		return false;
	if (current->pages > PAGES - (TOP - 1))
		empty(current);
	table = pages_of(current)[0];
	for (int level = TOP; level > last; level--) {
		uint64_t *entry = entry_at(table, address, level);

		if (!(*entry & vendor_table) || *entry & LARGE)
			*entry = (uintptr_t)take_page(current) | vendor_table;
		table = (uint64_t *)(*entry & ADDRESS);
	}
	*entry_at(table, address, last) = (memory_offset() + leaf->to) | leaf->rights | (leaf->large ? LARGE : 0);
	return true;
}
