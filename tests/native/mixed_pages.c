/* A machine's tables have a large page where those that L0 made of them have small ones already: its guests get a small one, too. With
 * a large one they would find what the machine itself does not, and keep it when that is elsewhere in the end. And small pages where L0's
 * have a large one: what is said of one of them is not said of the others. And tables that have no more room for a page. */
#include "nested_level_svm.h"

#define ALL 7ull
#define READ_ONLY 5ull
#define LARGE 0x80ull
#define BLOCK 1                             /* pages BLOCK and BLOCK + 1 are control blocks */
#define BELOW 8                             /* and so many from here on machine 0's tables: its guest has its memory, and PLACE at AREA */
#define SMALL (BELOW + 4)
#define ABOVE 16                            /* machine 1's: its guest has a large page at AREA, which is machine 1's AREA */
#define AREA (4ull << 20)
#define PLACE (16ull << 20)                 /* where nothing is but machine 0's addresses */
#define ELSEWHERE (32ull << 20)
#define FIRST (AREA + 3 * PAGE)             /* what is used first, and later */
#define LATER (AREA + 5 * PAGE)

static uint64_t *page(uint64_t number)
{
	return (uint64_t *)(level + number * PAGE);
}

/* Entries of machine 0 for AREA. */
static void make_area(uint64_t flags)
{
	for (uint64_t i = 0; i < 512; i++)
		page(SMALL)[i] = (PLACE + i * PAGE) | flags;
	page(BELOW + 2)[AREA >> 21] = SMALL * PAGE | ALL;
}

static void make_tables(void)
{
	for (uint64_t first = BELOW; first <= ABOVE; first += ABOVE - BELOW)
		for (uint64_t depth = 0; depth < 2; depth++)
			page(first + depth)[0] = (first + depth + 1) * PAGE | ALL;
	page(BELOW + 2)[0] = (BELOW + 3) * PAGE | ALL;
	for (uint64_t i = 0; i < PAGES; i++)
		page(BELOW + 3)[i] = i * PAGE | ALL;
	make_area(READ_ONLY);
	page(ABOVE + 2)[AREA >> 21] = AREA | LARGE | ALL;
}

static void enter(uint64_t number, uint64_t tables)
{
	*(struct nv_vmcb *)page(number) = (struct nv_vmcb){
		.intercept = {0, 0, 0, 0, 3, 0}, .asid = 1, .nested_paging = 1, .nested_cr3 = tables * PAGE,
		LONG_MODE_STATE,
	};
	enter_block(number);
	nested.active->svme = 1;
	nv_nested_compose(&nested);
}

static uint32_t allowed_at(const struct nv_machine *machine, uint64_t address)
{
	struct nv_shadow_leaf leaf;

	return nv_shadow_look(&nested.tables[machine->tables].shadow, address, &leaf) ? leaf.rights : 0;
}

static uint64_t found_at(const struct nv_machine *machine, uint64_t address)
{
	struct nv_shadow_leaf leaf;

	return nv_shadow_look(&nested.tables[machine->tables].shadow, address, &leaf) ? leaf.to : 0;
}

static void large_among_small(const struct nv_machine *one, const struct nv_machine *two)
{
	page(BELOW + 2)[AREA >> 21] = PLACE | LARGE | ALL; /* allows more: nobody needs to be told */
	CHECK(nv_nested_fault(&nested, NPF_USER | NPF_WRITE, FIRST));
	CHECK(found_at(one, FIRST) == PLACE + FIRST - AREA && found_at(two, FIRST) == PLACE + FIRST - AREA);
	CHECK(!found_at(one, LATER) && !found_at(two, LATER));
	make_area(ALL);
	page(SMALL)[LATER >> 12 & 511] = ELSEWHERE | ALL;
	CHECK(nv_nested_fault(&nested, NPF_USER, LATER));
	CHECK(found_at(one, LATER) == ELSEWHERE && found_at(two, LATER) == ELSEWHERE);
}

/* L0 looks at a software interrupt's gate before it enters machine 0's guest at CPL 3, in tables that have no room for that page: so they are
 * made anew, with another root. */
static void root_of_new_tables(void)
{
	struct nv_nested_tables *tables;

	start();
	make_tables();
	enter(BLOCK, BELOW);
	tables = &nested.tables[nested.active->tables];
	while (tables->shadow.used < NV_SHADOW_PAGES_MIN)
		nv_nested_drop(&nested, nested.active);
	nv_nested_compose(&nested);
	block->cr0 = 0x31;
	block->efer = EFER_SVME;
	block->cpl = 3;
	block->idtr.limit = 0xfff;
	svm.soft_injected = 1;
	svm.injection = EVENT_VALID | (uint64_t)NV_EVENT_SOFTWARE_INTERRUPT << 8 | 0x55;
	tables->shadow.pages = tables->shadow.used;
	CHECK(tables->shadow.root);
	CHECK(nv_svm_prepare(&svm) && block->exit_info_1 == 0x55 * 8 + 2);
	CHECK(!tables->shadow.root && block->nested_cr3 == tables->shadow.physical);
	tables->shadow.pages = TABLE_PAGES;
}

static void small_in_large(const struct nv_machine *one)
{
	page(BELOW + 2)[AREA >> 21] = PLACE | LARGE | READ_ONLY;
	nv_nested_drop(&nested, one); /* it is told of that */
	CHECK(nv_nested_fault(&nested, NPF_USER, FIRST));
	CHECK(allowed_at(one, FIRST) == NV_RIGHT_READ && allowed_at(one, LATER) == NV_RIGHT_READ);
	make_area(READ_ONLY);
	page(SMALL)[FIRST >> 12 & 511] |= ALL;
	CHECK(nv_nested_fault(&nested, NPF_USER | NPF_WRITE, FIRST));
	CHECK(allowed_at(one, FIRST) & NV_RIGHT_WRITE && !(allowed_at(one, LATER) & NV_RIGHT_WRITE));
}

int main(void)
{
	const struct nv_machine *one, *two;

	limit_time(60);
	prepare();
	start();
	make_tables();
	enter(BLOCK, BELOW);
	one = nested.active;
	CHECK(nv_nested_fault(&nested, NPF_USER, FIRST) && found_at(one, FIRST) == PLACE + FIRST - AREA);
	enter(BLOCK + 1, ABOVE);
	two = nested.active;
	CHECK(one->depth == 1 && two->depth == 2);
	large_among_small(one, two);
	small_in_large(one);
	root_of_new_tables();
	puts("done");
	return 0;
}
