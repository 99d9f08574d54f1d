/* Walks that are remembered, against walks that are not: through random tables that change between them, of which each has its own copy. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "paging.h"
#include "registers.h"

#define PAGE 4096ull
#define PAGES 24u
#define SIZE (PAGES * PAGE)
#define WALKS 400000

static _Alignas(4096) uint8_t memories[2][SIZE];
static struct nv_trail trails[NV_TRAILS];
static uint64_t random_state = 88172645463325252ull, sources;
static uint64_t moved;                      /* where the memory begins */
static uint64_t looks[2];                   /* at each copy */

/* xorshift64 */
static uint64_t below(uint64_t limit)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 8) % limit;
}

/* The last page is read-only. */
static uint8_t *back(void *context, uint64_t physical, int write)
{
	uint64_t offset = (physical + moved) % SIZE;

	looks[context == memories[1]]++;
	if (physical >= SIZE || (write && physical / PAGE == PAGES - 1))
		return NULL;
	return (uint8_t *)context + offset;
}

static uint64_t source(void *context)
{
	(void)context;
	return sources;
}

static uint64_t some_entry(void)
{
	static const uint64_t flags[] = {7, 7, 7, 7, 7, 7, 7, 3, 5, 1, 0, 0x27, 0x67, 0x87, 0xe7, 1ull << 63 | 7, 1ull << 45 | 7, 0x107};
	uint64_t entry = below(PAGES + 1) * PAGE | flags[below(sizeof flags / sizeof flags[0])];

	return below(64) ? entry : random_state;
}

static void put(uint64_t page, uint64_t index, uint64_t entry)
{
	for (int i = 0; i < 2; i++)
		memcpy(back(memories[i], page * PAGE + 8 * index, 0), &entry, sizeof entry);
}

/* All tables lead somewhere; walks use the first entries, and the last. */
static uint64_t some_index(void)
{
	return below(8) ? below(3) : 511;
}

static uint64_t some_address(void)
{
	uint64_t address = 0;

	for (int level = 0; level < 5; level++)
		address |= some_index() << (12 + 9 * level);
	return address | below(PAGE);
}

static void change(struct nv_paging *one, struct nv_paging *other)
{
	switch (below(1024)) {
	case 4:
		one->cr0 ^= CR0_WP;
		break;
	case 5:
		one->cr3 = below(3) * PAGE;
		break;
	case 6:
		one->cr4 ^= below(2) ? CR4_SMEP : CR4_SMAP;
		break;
	case 7:
		one->efer ^= EFER_NXE;
		break;
	case 8:
		one->user ^= 1;
		break;
	case 9:
		one->ac ^= 1;
		break;
	case 10:
		if (!below(8))
			one->cr4 ^= CR4_LA57;
		break;
	case 11:
		if (!below(8))
			one->efer ^= EFER_LMA;
		break;
	case 12:
		if (!below(16))
			nv_paging_change(one, NULL, 0, below(2) ? 40 : 48);
		break;
	case 13:
		moved = below(2) * PAGE; /* with which the memory that there was is elsewhere */
		sources++;
		break;
	case 14 ... 80:
		put(below(PAGES), some_index(), some_entry());
		break;
	default:
		break;
	}
	other->cr0 = one->cr0;
	other->cr3 = one->cr3;
	other->cr4 = one->cr4;
	other->efer = one->efer;
	other->user = one->user;
	other->ac = one->ac;
	other->reserved = one->reserved;
}

int main(void)
{
	static struct nv_paging pagings[2];
	struct nv_paging *one = &pagings[0], *other = &pagings[1];
	uint64_t found = 0, addresses[8];

	for (int i = 0; i < 2; i++) {
		nv_paging_init(&pagings[i], NULL, 0, 40);
		pagings[i].back = back;
		pagings[i].source = source;
		pagings[i].context = memories[i];
	}
	one->trails = trails;
	one->cr0 = CR0_PE | CR0_PG | CR0_WP;
	one->cr4 = CR4_PAE;
	one->efer = EFER_LME | EFER_LMA;
	for (uint64_t i = 0; i < PAGES; i++)
		for (uint64_t index = 0; index < 512; index++)
			put(i, index, some_entry());
	for (int i = 0; i < WALKS; i++) {
		int access = below(3), results[2];
		uint64_t *address = &addresses[below(8)], to[2] = {0, 0};

		if (i < 8)
			address = &addresses[i];
		if (i < 8 || !below(64))
			*address = some_address();
		change(one, other);
		for (int copy = 0; copy < 2; copy++) {
			pagings[copy].error = 0;
			results[copy] = nv_paging_walk(&pagings[copy], *address, access, &to[copy]);
		}
		CHECK(results[0] == results[1] && to[0] == to[1] && one->error == other->error);
		CHECK(!memcmp(memories[0], memories[1], SIZE));
		if (results[0])
			continue;
		found++;
		CHECK(one->leaf == other->leaf && one->clean == other->clean && one->writable == other->writable &&
		      one->executable == other->executable && one->users == other->users && one->unmarked == other->unmarked);
	}
	/* otherwise there was little to remember, or it was not */
	CHECK(8 * found > WALKS && 2 * (looks[1] - looks[0]) > found);
	puts("done");
	return 0;
}
