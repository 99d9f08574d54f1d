#include "shadow.h"

#include <stddef.h>
#include <string.h>

#define PAGE 4096ull
#define ENTRIES 512
#define ROOT_LEVEL 4
#define ADDRESS_MASK 0x000ffffffffff000ull

/* The bit is the same in both formats, at levels 2 and 3. */
#define LARGE (1ull << 7)

/* NPT entries are those of ordinary tables; every access is a user's (AMD APM vol. 2, 15.25.5). */
#define NPT_PRESENT (1ull << 0)
#define NPT_WRITE (1ull << 1)
#define NPT_USER (1ull << 2)
#define NPT_NO_EXECUTE (1ull << 63)

/* EPT entries have the rights in the order of NV_RIGHT_*; a leaf has its memory type (Intel SDM vol. 3, table 28-6). */
#define EPT_RIGHTS 7ull
#define EPT_WRITE_BACK (6ull << 3)

static uint64_t size_of(unsigned int level)
{
	return PAGE << 9 * (level - 1);
}

static int present(const struct nv_shadow *shadow, uint64_t entry)
{
	return !!(entry & (shadow->format == NV_SHADOW_EPT ? EPT_RIGHTS : NPT_PRESENT));
}

static int is_leaf(uint64_t entry, unsigned int level)
{
	return level == 1 || entry & LARGE;
}

static uint64_t table_entry(const struct nv_shadow *shadow, uint64_t physical)
{
	return physical | (shadow->format == NV_SHADOW_EPT ? EPT_RIGHTS : NPT_PRESENT | NPT_WRITE | NPT_USER);
}

static uint64_t leaf_entry(const struct nv_shadow *shadow, uint64_t physical, unsigned int level, uint32_t rights)
{
	uint64_t entry = physical | (level > 1 ? LARGE : 0);

	if (shadow->format == NV_SHADOW_EPT)
		return entry | EPT_WRITE_BACK | rights;
	entry |= NPT_PRESENT | NPT_USER;
	if (rights & NV_RIGHT_WRITE)
		entry |= NPT_WRITE;
	if (!(rights & NV_RIGHT_EXECUTE))
		entry |= NPT_NO_EXECUTE;
	return entry;
}

static uint32_t rights_of(const struct nv_shadow *shadow, uint64_t entry)
{
	if (shadow->format == NV_SHADOW_EPT)
		return entry & EPT_RIGHTS;
	return NV_RIGHT_READ | (entry & NPT_WRITE ? NV_RIGHT_WRITE : 0) | (entry & NPT_NO_EXECUTE ? 0 : NV_RIGHT_EXECUTE);
}

static uint64_t *page_at(const struct nv_shadow *shadow, uint32_t number)
{
	return shadow->pool + (size_t)number * ENTRIES;
}

static uint32_t number_of(const struct nv_shadow *shadow, uint64_t entry)
{
	return ((entry & ADDRESS_MASK) - shadow->physical) / PAGE;
}

static uint64_t *slot_of(uint64_t *table, uint64_t address, unsigned int level)
{
	return &table[address >> (12 + 9 * (level - 1)) & (ENTRIES - 1)];
}

static void took_away(struct nv_shadow *shadow)
{
	shadow->stale = 1;
	shadow->revision++;
}

void nv_shadow_reset(struct nv_shadow *shadow)
{
	memset(page_at(shadow, 0), 0, PAGE);
	shadow->root = 0;
	shadow->used = 1;
	shadow->freed = 0;
	shadow->windows_used = 0;
	took_away(shadow);
}

void nv_shadow_renew(struct nv_shadow *shadow)
{
	if (shadow->used == shadow->pages) {
		nv_shadow_reset(shadow);
		return;
	}
	shadow->root = shadow->used++;
	memset(page_at(shadow, shadow->root), 0, PAGE);
	shadow->revision++;
}

/* An empty table page; 0: the pool is used up. */
static uint32_t take_page(struct nv_shadow *shadow)
{
	uint32_t number = shadow->freed;

	if (number)
		shadow->freed = page_at(shadow, number)[0];
	else if (shadow->used < shadow->pages)
		number = shadow->used++;
	else
		return 0;
	memset(page_at(shadow, number), 0, PAGE);
	return number;
}

/* Gives back a table and all below it. */
static void free_tables(struct nv_shadow *shadow, uint32_t number, unsigned int level)
{
	uint64_t *table = page_at(shadow, number);

	for (int i = 0; level > 1 && i < ENTRIES; i++)
		if (present(shadow, table[i]) && !is_leaf(table[i], level))
			free_tables(shadow, number_of(shadow, table[i]), level - 1);
	table[0] = shadow->freed;
	shadow->freed = number;
}

const struct nv_shadow_range *nv_shadow_find(const struct nv_shadow_range *ranges, uint32_t count, uint64_t address)
{
	uint32_t low = 0, high = count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (ranges[middle].last < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && ranges[low].first <= address ? &ranges[low] : NULL;
}

static const struct nv_shadow_range *find(const struct nv_shadow *shadow, uint64_t address)
{
	return nv_shadow_find(shadow->ranges, shadow->count, address);
}

int nv_shadow_fits(const struct nv_shadow_range *range, uint64_t address, unsigned int level)
{
	uint64_t size = size_of(level), start = address & ~(size - 1);

	return start >= range->first && range->last - start >= size - 1 && !((range->to - range->first) & (size - 1));
}

/* The entry for the address: the leaf that is there, or the empty one at most at `level`; NULL: the pool is used up. */
static uint64_t *entry_for(struct nv_shadow *shadow, uint64_t address, unsigned int *level)
{
	uint64_t *table = page_at(shadow, shadow->root);

	for (unsigned int depth = ROOT_LEVEL;; depth--) {
		uint64_t *entry = slot_of(table, address, depth);

		if (present(shadow, *entry) ? is_leaf(*entry, depth) : depth <= *level) {
			*level = depth;
			return entry;
		}
		if (!present(shadow, *entry)) {
			uint32_t number = take_page(shadow);

			if (!number)
				return NULL;
			*entry = table_entry(shadow, shadow->physical + number * PAGE);
		}
		table = page_at(shadow, number_of(shadow, *entry));
	}
}

/* The leaf for the address, or the empty entry where its path ends. */
static uint64_t *walk(const struct nv_shadow *shadow, uint64_t address)
{
	uint64_t *table = page_at(shadow, shadow->root);

	for (unsigned int level = ROOT_LEVEL;; level--) {
		uint64_t *entry = slot_of(table, address, level);

		if (!present(shadow, *entry) || is_leaf(*entry, level))
			return entry;
		table = page_at(shadow, number_of(shadow, *entry));
	}
}

/* Takes back the leaf of each window that still has one. */
static void close_windows(struct nv_shadow *shadow)
{
	for (uint32_t i = 0; i < shadow->windows_used; i++) {
		uint64_t *entry = walk(shadow, shadow->windows[i]);

		if ((*entry & ADDRESS_MASK) == shadow->window + i * PAGE)
			*entry = 0;
	}
	shadow->windows_used = 0;
	took_away(shadow);
}

uint64_t nv_shadow_open_window(struct nv_shadow *shadow, uint64_t address)
{
	if (shadow->windows_used == shadow->window_count)
		close_windows(shadow);
	shadow->windows[shadow->windows_used] = address & ~(PAGE - 1);
	return shadow->window + shadow->windows_used++ * PAGE;
}

static int is_window(const struct nv_shadow *shadow, uint64_t physical)
{
	return physical >= shadow->window && physical - shadow->window < shadow->windows_used * PAGE;
}

int nv_shadow_fill(struct nv_shadow *shadow, uint64_t address, uint32_t access)
{
	const struct nv_shadow_range *range = find(shadow, address);
	unsigned int wanted = shadow->largest, level;
	uint64_t *entry, to;

	if (!range || access & ~range->rights || address >> NV_SHADOW_ADDRESS_BITS)
		return NV_SHADOW_VIOLATION;
	if (range->to == NV_SHADOW_WINDOW)
		wanted = 1;
	while (wanted > 1 && !nv_shadow_fits(range, address, wanted))
		wanted--;
	for (;;) {
		level = wanted;
		entry = entry_for(shadow, address, &level);
		if (entry)
			break;
		nv_shadow_reset(shadow);
		shadow->rebuilt++;
	}
	/* a leaf is as its range says: see nv_shadow_set */
	if (present(shadow, *entry))
		return NV_SHADOW_FILLED;
	if (range->to == NV_SHADOW_WINDOW)
		to = nv_shadow_open_window(shadow, address);
	else
		to = range->to + ((address & ~(size_of(level) - 1)) - range->first);
	*entry = leaf_entry(shadow, to, level, range->rights);
	return NV_SHADOW_FILLED;
}

int nv_shadow_look(const struct nv_shadow *shadow, uint64_t address, struct nv_shadow_leaf *leaf)
{
	uint64_t *table = page_at(shadow, shadow->root);

	if (address >> NV_SHADOW_ADDRESS_BITS)
		return 0;
	for (unsigned int level = ROOT_LEVEL;; level--) {
		uint64_t entry = *slot_of(table, address, level);

		if (!present(shadow, entry))
			return 0;
		if (is_leaf(entry, level)) {
			uint64_t offset = size_of(level) - 1;

			leaf->to = (entry & ADDRESS_MASK & ~offset) | (address & offset);
			leaf->rights = rights_of(shadow, entry);
			leaf->level = level;
			return 1;
		}
		table = page_at(shadow, number_of(shadow, entry));
	}
}

int nv_shadow_place(struct nv_shadow *shadow, uint64_t address, const struct nv_shadow_leaf *leaf)
{
	struct nv_shadow_leaf old;
	uint64_t *entry;
	unsigned int level;
	int changed = nv_shadow_look(shadow, address, &old) &&
		      (old.to != leaf->to || old.rights & ~leaf->rights || old.level > leaf->level);

	if (changed)
		nv_shadow_renew(shadow);
	for (;;) {
		level = leaf->level;
		entry = entry_for(shadow, address, &level);
		if (entry)
			break;
		nv_shadow_reset(shadow);
		shadow->rebuilt++;
	}
	*entry = leaf_entry(shadow, leaf->to & ~(size_of(level) - 1), level, leaf->rights);
	return changed;
}

/* Whether the ranges give all that a leaf does: then it gets their rights, which are no fewer. */
static int keep_leaf(struct nv_shadow *shadow, uint64_t *entry, uint64_t start, unsigned int level)
{
	uint64_t size = size_of(level), to = *entry & ADDRESS_MASK & ~(size - 1);
	const struct nv_shadow_range *range = find(shadow, start);

	if (!range || range->last - start < size - 1 || rights_of(shadow, *entry) & ~range->rights)
		return 0;
	if (range->to == NV_SHADOW_WINDOW ? !is_window(shadow, to) : to != range->to + (start - range->first))
		return 0;
	*entry = leaf_entry(shadow, to, level, range->rights);
	return 1;
}

/* Drops what the ranges do not give from first to last, of the table whose addresses start at `base`. A table that lies there with
 * all its addresses goes as a whole, so that larger pages can come in its place. */
static void revise(struct nv_shadow *shadow, uint64_t *table, unsigned int level, uint64_t base, uint64_t first, uint64_t last)
{
	uint64_t size = size_of(level), from = first > base ? (first - base) / size : 0, to = (last - base) / size;

	for (uint64_t i = from; i <= to && i < ENTRIES; i++) {
		uint64_t start = base + i * size;

		if (!present(shadow, table[i]))
			continue;
		if (is_leaf(table[i], level)) {
			if (keep_leaf(shadow, &table[i], start, level))
				continue;
		} else if (first <= start && start + (size - 1) <= last) {
			free_tables(shadow, number_of(shadow, table[i]), level - 1);
		} else {
			revise(shadow, page_at(shadow, number_of(shadow, table[i])), level - 1, start, first, last);
			continue;
		}
		table[i] = 0;
		took_away(shadow);
	}
}

void nv_shadow_set(struct nv_shadow *shadow, const struct nv_shadow_range *ranges, uint32_t count, uint64_t first, uint64_t last)
{
	shadow->ranges = ranges;
	shadow->count = count;
	revise(shadow, page_at(shadow, shadow->root), ROOT_LEVEL, 0, first, last);
}

uint32_t nv_shadow_rights(const struct nv_shadow *shadow, uint64_t address)
{
	const struct nv_shadow_range *range = find(shadow, address);

	return range ? range->rights : 0;
}

uint64_t nv_shadow_unwindow(const struct nv_shadow *shadow, uint64_t physical)
{
	if (!is_window(shadow, physical))
		return physical;
	return shadow->windows[(physical - shadow->window) / PAGE] + physical % PAGE;
}

uint64_t nv_shadow_reverse(const struct nv_shadow *shadow, uint64_t physical)
{
	for (uint32_t i = 0; i < shadow->count; i++) {
		const struct nv_shadow_range *range = &shadow->ranges[i];

		if (range->to != NV_SHADOW_WINDOW && range->to <= physical && physical - range->to <= range->last - range->first)
			return range->first + (physical - range->to);
	}
	return ~0ull;
}
