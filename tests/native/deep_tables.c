/* Machines whose nested page tables lead through ever more pages of the machine below, so that a translation at depth d takes five times
 * what one at depth d - 1 does: L0 gives up in time, and says so. */
#include "nested_level_svm.h"

#define ENTRY(number) ((uint64_t)(number) * PAGE | 7)
#define FIRST 32                            /* pages FIRST to 127 are at many addresses of machine 1's */
#define COUNT (PAGES - FIRST)
#define ROOT 20                             /* to 17: machine 0's tables, which lead to those pages nearly everywhere */
#define BLOCKS 16                           /* addresses lead to the blocks by their bits 12 to 20 */

static uint64_t state = 1;

static uint64_t index_of(void)
{
	state = state * 6364136223846793005 + 1442695040888963407;
	return BLOCKS + (state >> 33) % (512 - BLOCKS);
}

/* A page of machine 1's: no index of its address leads to a block. */
static uint64_t alias(void)
{
	uint64_t high = index_of(), middle = index_of();

	return high << 18 | middle << 9 | index_of();
}

static uint64_t *page(int number)
{
	return (uint64_t *)(level + number * PAGE);
}

/* Addresses of machine 1 lead to a block, or else to a page that is full of aliases: machine 1's tables, and those of all above it. */
static void make_tables(void)
{
	for (unsigned int i = 0; i < 512; i++) {
		for (int depth = 4; depth > 1; depth--)
			page(ROOT - 4 + depth)[i] = ENTRY(ROOT - 5 + depth);
		page(ROOT - 3)[i] = ENTRY(i && i < BLOCKS ? i : FIRST + i % COUNT);
		for (unsigned int number = FIRST; number < PAGES; number++)
			page(number)[i] = ENTRY(i < BLOCKS ? i : alias());
	}
}

static void make_block(int number, uint64_t root)
{
	*(struct nv_vmcb *)page(number) = (struct nv_vmcb){
		.intercept = {0, 0, 0, 0, 3, 0}, .asid = 1, .nested_paging = 1, .nested_cr3 = root * PAGE,
		LONG_MODE_STATE,
	};
}

int main(void)
{
	int depth = 0;

	limit_time(60);
	prepare();
	start();
	make_tables();
	for (int number = 1; number < NV_NESTED_DEPTH; number++)
		make_block(number, number == 1 ? ROOT : 0);
	while (!nested.endless && depth + 1 < NV_NESTED_DEPTH) {
		enter_block(depth + 1);
		if (nested.endless)
			break;
		depth++;
		CHECK(nested.active->depth == depth);
		nested.active->svme = 1;
		for (int i = 0; i < 4 && !nested.endless; i++) {
			nv_nested_compose(&nested);
			CHECK(nv_nested_fault(&nested, NPF_USER, alias() * PAGE));
		}
	}
	CHECK(nested.endless && depth > 8);
	check_canaries();
	puts("done");
	return 0;
}
