#include "nest_paging.h"
#include "memory.h"
#include "nest_tables.h"
#include "vmcs.h"

/* Bits of an entry (29.3.2), and of the exit qualification, whose accesses are in the same order. */
enum { READ = 1, WRITE = 2, EXECUTE = 4, RIGHTS = READ | WRITE | EXECUTE, TYPE = 7 << 3, IGNORES_PAT = 1 << 6, LARGE = 1 << 7 };
#define ADDRESS 0x000ffffffffff000ull
#define QUALIFICATION_RIGHTS 3
#define PAGE 4096ull
#define TOP 4
#define INVEPT_ONE 1ul

static bool in_use;              /* the guest's VMCS asks for EPT */

bool nest_paging_takes(uint64_t pointer)
{
	return pointer % PAGE == EPT_WRITE_BACK_4_LEVELS;
}

void nest_flush(void)
{
	const uint64_t descriptor[] = {nest_tables_root() | EPT_WRITE_BACK_4_LEVELS, 0};

	asm volatile("invept %0, %1" :: "m"(descriptor), "r"(INVEPT_ONE) : "cc", "memory");
}

uint64_t nest_paging_use(bool paged, uint64_t pointer)
{
	in_use = paged;
	if (paged)
		nest_tables_use(pointer & ADDRESS, 0, false);
	return (paged ? nest_tables_root() : memory_root()) | EPT_WRITE_BACK_4_LEVELS;
}

static enum nest_paging outside(uint64_t *address, uint64_t where)
{
	*address = where;
	return NEST_OUTSIDE;
}

static enum nest_paging refuse(uint64_t *qualification, uint64_t allowed)
{
	*qualification = (*qualification & ~(uint64_t)(RIGHTS << QUALIFICATION_RIGHTS)) | (allowed & RIGHTS) << QUALIFICATION_RIGHTS;
	return NEST_REFUSED;
}

/* 29.3.3.1: no entry is write-only, nor, as we offer, execute-only; and a leaf has a memory type that there is. */
static bool malformed(uint64_t entry, int level)
{
	unsigned int type = (entry & TYPE) >> 3;

	if (!(entry & READ) || (level == TOP && entry & LARGE))
		return true;
	return level == 1 || entry & LARGE ? type == 2 || type == 3 || type == 7 : type;
}

/* What the guest's tables say. */
static enum nest_paging walk(uint64_t *address, uint64_t *qualification, struct nest_leaf *leaf)
{
	uint64_t allowed = RIGHTS, table = nest_tables_asked(), size;
	const uint64_t *entry;
	int level = TOP;

	for (;; level--) {
		entry = memory_at(table + 8 * (*address >> (3 + 9 * level) & 511), 8);
		if (!entry)
			return outside(address, table);
		if (!(*entry & RIGHTS))
			return refuse(qualification, 0);
		if (malformed(*entry, level))
			return NEST_MISCONFIGURED;
		allowed &= *entry;
		table = *entry & ADDRESS;
		if (level == 1 || *entry & LARGE)
			break;
	}
	if (*qualification & RIGHTS & ~allowed)
		return refuse(qualification, allowed);
	size = PAGE << 9 * (level - 1);
	leaf->large = level > 1;
	leaf->to = (table & -size) + (*address & (size - 1) & -(leaf->large ? NEST_LARGE_PAGE : PAGE));
	leaf->rights = allowed | (*entry & (TYPE | IGNORES_PAT));
	return NEST_FILLED;
}

enum nest_paging nest_paging_fill(uint64_t *address, uint64_t *qualification)
{
	struct nest_leaf leaf;
	enum nest_paging result;

	if (!in_use)
		return NEST_OUTSIDE;
	result = walk(address, qualification, &leaf);
	if (result || nest_tables_place(*address, &leaf))
		return result;
	return outside(address, leaf.to);
}
