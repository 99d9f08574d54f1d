/* What L0 keeps of the tables that it has made of a hypervisor's nested page tables, when that makes the processor forget: all, as long as
 * they are what they were. */
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

#include "nested_level_svm.h"

#define ENTRY(number) ((uint64_t)(number) * PAGE | 7)
#define ACCESSED 0x20ull
#define DIRTY 0x40ull
#define LARGE 0x80ull
#define NO_EXECUTE (1ull << 63)

/* Pages of the level's: machine 0's block, its tables with two of the last kind, machine 1's block and tables. */
enum { BLOCK = 1, ROOT = 10, POINTERS, DIRECTORY, LEAVES, LEAVES_COUNT = 2, BLOCK_1 = 20, ROOT_1 = 21, DATA = 40, OTHER = 90, SIZE = 64 };
enum { VMMCALL = 0x81 };
enum { FLUSH_ALL = 1, FLUSH_ASID = 3, FLUSH_ASID_LOCALS = 7 };

static struct nv_machine *first;            /* the machine that machine 0 runs */

static uint64_t *page(int number)
{
	return (uint64_t *)(level + number * PAGE);
}

static struct nv_vmcb *block_at(int number)
{
	return (struct nv_vmcb *)page(number);
}

/* Of each page: those of machine 1's block and tables are where they are, all others are those from DATA on, over and over. */
static uint64_t lead_to(uint64_t number)
{
	return number >= BLOCK_1 && number < DATA ? number : DATA + number % SIZE;
}

static void make_tables(int root)
{
	page(root)[0] = ENTRY(root + 1);
	page(root + 1)[0] = ENTRY(root + 2);
	for (int i = 0; i < LEAVES_COUNT * 512; i++) {
		page(root + 2)[i / 512] = ENTRY(root + 3 + i / 512);
		page(root + 3)[i] = ENTRY(lead_to(i));
	}
}

static void make_block(int number, int root)
{
	*block_at(number) = (struct nv_vmcb){
		.intercept = {0, 0, 0, 0, 3, 0}, .asid = 1, .nested_paging = 1, .nested_cr3 = root * PAGE,
		LONG_MODE_STATE,
	};
}

static void run_block(int number)
{
	enter_block(number);
	nv_nested_compose(&nested);
}

/* The active machine's guest stops: its hypervisor goes on. */
static void leave(void)
{
	nv_nested_reflect(&nested, nested.active->parent, &(struct nv_nested_exit){.code = VMMCALL});
	nested.flush = 0;                   /* an entry has been */
	nv_nested_compose(&nested);
}

/* Machine 0 runs its guest again, after it has made the processor forget, or not. */
static void again(uint8_t control)
{
	block_at(BLOCK)->tlb_control = control;
	run_block(BLOCK);
}

static void touch(uint64_t number, uint64_t kind)
{
	CHECK(nv_nested_fault(&nested, NPF_USER | kind, number * PAGE));
}

/* What the active machine finds there: a page of the level's; ~0: it has to be filled. */
static uint64_t found(uint64_t number)
{
	struct nv_shadow_leaf leaf;

	return nv_shadow_look(tables_of_active(), number * PAGE, &leaf) ? (leaf.to - LEVEL_PHYSICAL) / PAGE : ~0ull;
}

static int is_writable(uint64_t number)
{
	struct nv_shadow_leaf leaf;

	return nv_shadow_look(tables_of_active(), number * PAGE, &leaf) && leaf.rights & NV_RIGHT_WRITE;
}

/* Machine 0 runs a guest that has found pages 0 to 2, and written the last one. */
static void begin(void)
{
	start();
	memset(level, 0, PAGES * PAGE);
	make_tables(ROOT);
	make_block(BLOCK, ROOT);
	again(0);
	first = nested.active;
	CHECK(first->depth == 1);
	touch(0, 0);
	touch(1, 0);
	touch(2, NPF_WRITE);
	CHECK(found(0) == DATA && found(1) == DATA + 1 && !is_writable(1) && is_writable(2));
	leave();
}

static void check_kept(void)
{
	CHECK(found(0) == DATA && found(1) == DATA + 1 && !is_writable(1) && is_writable(2));
}

static void check_dropped(void)
{
	for (int i = 0; i < 3; i++)
		CHECK(found(i) == ~0ull);
}

static void each_flush_keeps_what_is_the_same(void)
{
	static const uint8_t controls[] = {FLUSH_ALL, FLUSH_ASID, FLUSH_ASID_LOCALS};

	begin();
	for (unsigned int i = 0; i < sizeof controls; i++) {
		again(controls[i]);
		check_kept();
		CHECK(block->tlb_control == TLB_FLUSH_ALL); /* but what the guest's own tables led to */
		leave();
		CHECK(!block->tlb_control);
	}
	again(0);
	check_kept();
	CHECK(!block->tlb_control);
}

static void another_asid_too(void)
{
	begin();
	block_at(BLOCK)->asid = 2;
	again(0);
	check_kept();
	CHECK(block->tlb_control == TLB_FLUSH_ALL);
	leave();
	page(LEAVES)[1] = ENTRY(OTHER);
	block_at(BLOCK)->asid = 3;
	again(0);
	check_dropped();
}

static void a_flush_of_another_asid_is_none(void)
{
	begin();
	page(LEAVES)[1] = ENTRY(OTHER);
	make_block(2, ROOT);
	block_at(2)->asid = 2;
	block_at(2)->tlb_control = FLUSH_ASID;
	run_block(2);
	leave();
	again(0);
	check_kept();
}

/* What was there stays until the flush, and is dropped then. */
static void any_change_drops_all(void)
{
	static const struct { int page, index; uint64_t entry; } changes[] = {
		{LEAVES, 1, ENTRY(OTHER)},
		{LEAVES, 0, 0},
		{LEAVES, 0, ENTRY(DATA) & ~2ull},
		{LEAVES, 0, ENTRY(DATA)},            /* not accessed */
		{LEAVES, 2, ENTRY(DATA + 2) | ACCESSED}, /* not dirty */
		{DIRECTORY, 0, ENTRY(LEAVES + 1)},
		{POINTERS, 0, 0},
		{ROOT, 0, ENTRY(POINTERS) | ACCESSED | NO_EXECUTE},
	};

	for (unsigned int i = 0; i < sizeof changes / sizeof changes[0]; i++) {
		begin();
		page(changes[i].page)[changes[i].index] = changes[i].entry;
		again(0);
		check_kept();
		leave();
		again(FLUSH_ASID);
		check_dropped();
	}
}

static void marks_are_set_again(void)
{
	begin();
	page(LEAVES)[2] &= ~(ACCESSED | DIRTY);
	again(FLUSH_ASID);
	touch(2, 0);
	CHECK(page(LEAVES)[2] == (ENTRY(DATA + 2) | ACCESSED) && !is_writable(2));
	touch(2, NPF_WRITE);
	CHECK(page(LEAVES)[2] == (ENTRY(DATA + 2) | ACCESSED | DIRTY) && is_writable(2));
	leave();
	again(FLUSH_ASID);
	CHECK(is_writable(2));              /* L0's own marks are no change */
}

/* A page of 2 MiB is many of L0's, of which one was written and another is read when machine 0 has taken back the dirty bit. */
static void a_mark_is_taken_back_before_the_flush(void)
{
	begin();
	page(DIRECTORY)[1] = LARGE | 7;
	again(0);
	touch(512, NPF_WRITE);
	page(DIRECTORY)[1] &= ~DIRTY;
	touch(513, 0);
	CHECK(is_writable(512) && !is_writable(513));
	leave();
	again(FLUSH_ASID);
	CHECK(found(512) == ~0ull);
}

static void what_nothing_was_made_of_may_change(void)
{
	begin();
	page(LEAVES)[3] = ENTRY(OTHER);
	page(DIRECTORY)[1] = 0;
	again(FLUSH_ASID);
	check_kept();
}

/* What was made before the change is as wrong as ever, although the entry is the one that was read last. */
static void a_change_that_is_read_before_the_flush(void)
{
	begin();
	page(DIRECTORY)[0] = ENTRY(LEAVES + 1);
	page(LEAVES + 1)[3] = ENTRY(OTHER);
	again(0);
	touch(3, 0);
	CHECK(found(3) == OTHER && found(0) == DATA);
	leave();
	again(FLUSH_ASID);
	check_dropped();
	leave();
	touch(0, 0);
}

static void another_root_or_way_to_read_it(void)
{
	begin();
	block_at(BLOCK)->nested_cr3 = (ROOT + 1) * PAGE;
	again(0);
	check_dropped();
	begin();
	block->efer |= EFER_NXE;            /* machine 0's */
	again(0);
	check_dropped();
}

/* Of more than L0 remembers nothing is kept; and then it begins anew. */
static void more_than_is_remembered(void)
{
	for (int more = 0; more < 2; more++) {
		/* beside the leaves: one entry of each of the two highest tables, and two of the directory */
		int count = NV_NESTED_SEEN - 4 + more;

		begin();
		again(0);
		for (int i = 0; i < count; i++)
			touch(i, 0);
		leave();
		again(FLUSH_ASID);
		for (int i = 0; i < count; i++)
			CHECK(found(i) == (more ? ~0ull : lead_to(i)));
		touch(1, 0);
		leave();
		again(FLUSH_ASID);
		CHECK(found(1) == DATA + 1);
	}
}

/* Tables in no memory read as ones; there may be memory another time. */
static void tables_in_no_memory(void)
{
	begin();
	block->efer &= ~(EFER_LME | EFER_LMA);
	block->cr4 = 0;
	block->cs.attributes = 0xc9b;
	block_at(BLOCK)->nested_cr3 = 0xf0000000;
	again(0);
	CHECK(nested.active == first);
	touch(1, 0);
	CHECK(found(1) != ~0ull);
	leave();
	again(FLUSH_ASID);
	CHECK(found(1) == ~0ull);
}

/* A flush is also one of what runs on the guest: it is looked through when it runs. */
static void a_guest_of_the_guest(void)
{
	for (int change = 0; change < 3; change++) {
		begin();
		make_tables(ROOT_1);
		make_block(BLOCK_1, ROOT_1);
		again(0);
		first->svme = 1;
		run_block(BLOCK_1);
		CHECK(nested.active->depth == 2);
		touch(1, 0);
		/* its tables are machine 1's memory, and lead there */
		CHECK(found(1) == DATA + (DATA + 1) % SIZE);
		leave();
		leave();
		if (change == 1)
			page(ROOT_1 + 3)[1] = ENTRY(OTHER);
		if (change == 2)
			page(LEAVES)[DATA + 1] = ENTRY(OTHER);
		again(FLUSH_ASID);
		run_block(BLOCK_1);
		CHECK(found(1) == (change ? ~0ull : DATA + (DATA + 1) % SIZE));
	}
}

/* While L0 reads machine 1's last table it finds that machine 0 has given that another page, whose first entries are the same: what it makes
 * of the one is no longer of what machine 1 changes. */
static void tables_that_move_under_the_walk(void)
{
	begin();
	make_tables(ROOT_1);
	make_block(BLOCK_1, ROOT_1);
	again(0);
	touch(ROOT_1 + 3, 0);
	first->svme = 1;
	run_block(BLOCK_1);
	memcpy(page(OTHER), page(ROOT_1 + 3), PAGE);
	page(LEAVES)[ROOT_1 + 3] = ENTRY(OTHER);
	touch(1, 0);
	CHECK(found(1) != ~0ull && page(OTHER)[1] & ACCESSED && !(page(ROOT_1 + 3)[1] & ACCESSED));
	leave();
	page(OTHER)[1] = ENTRY(DATA + 5);
	block_at(BLOCK_1)->tlb_control = FLUSH_ASID;
	run_block(BLOCK_1);
	CHECK(found(1) == ~0ull);
}

static int runs, forgets;                   /* KVM_RUN; and the TLB_CONTROL of the last one */

int ioctl(int fd, unsigned long request, ...)
{
	(void)fd;
	if (request == KVM_RUN) {
		runs++;
		forgets = block->tlb_control;
		run->exit_reason = KVM_EXIT_IO;
		run->io.port = NV_DOORBELL;
		mailbox.state = NV_SWITCHER_RINGING;
		block->exit_code = EXIT_NMI;
	}
	return 0;
}

/* The guest's software interrupt is one that its gate forbids: it takes a #GP before the processor is entered, which is to forget at the
 * entry that comes then. */
static void a_flush_waits_for_the_processor(void)
{
	enum { VECTOR = 0x80, IDT = 3, PRIVILEGE = 5 };
	struct nv_vmcb *guest = block_at(BLOCK);

	begin();
	page(LEAVES)[1] = ENTRY(OTHER);
	guest->cr0 = 0x11;
	guest->efer = EFER_SVME;
	guest->cs.attributes = 0xcfb;
	guest->cpl = 3;
	guest->idtr = (struct nv_vmcb_segment){.limit = 0x7ff, .base = IDT * PAGE};
	guest->event_injection = EVENT_VALID | (uint64_t)NV_EVENT_SOFTWARE_INTERRUPT << EVENT_KIND | VECTOR;
	((uint8_t *)page(DATA + IDT))[8 * VECTOR + PRIVILEGE] = 0x8e;
	guest->tlb_control = FLUSH_ASID;
	runs = 0;
	run_block(BLOCK);
	check_dropped();
	CHECK(vcpu.ops->enter(&vcpu) == -EAGAIN && !runs);
	CHECK(svm.injection == (EVENT_VALID | EVENT_ERROR_CODE | (uint64_t)NV_EVENT_EXCEPTION << EVENT_KIND | GP | (8ull * VECTOR + 2) << 32));
	vcpu.ops->enter(&vcpu);
	CHECK(runs == 1 && forgets == TLB_FLUSH_ALL);
	vcpu.ops->enter(&vcpu);
	CHECK(runs == 2 && !forgets);
}

int main(void)
{
	alarm(60);
	prepare();
	each_flush_keeps_what_is_the_same();
	another_asid_too();
	a_flush_of_another_asid_is_none();
	any_change_drops_all();
	marks_are_set_again();
	a_mark_is_taken_back_before_the_flush();
	what_nothing_was_made_of_may_change();
	a_change_that_is_read_before_the_flush();
	another_root_or_way_to_read_it();
	more_than_is_remembered();
	tables_in_no_memory();
	a_guest_of_the_guest();
	tables_that_move_under_the_walk();
	a_flush_waits_for_the_processor();
	check_canaries();
	puts("done");
	return 0;
}
