/* What L0 executes of a level's code itself, between instructions of SVM's: any code, in any pages, with any registers. It is held against a
 * processor that is made up here, and executes the same one by one: L0 stands where that does, with the same registers and memory.
 *
 * usage: hostile_ahead SEED TRIES */
#include "hostile.h"
#include "processor_model.h"

/* Pages of machine 0: a block and nested page tables for each machine's guest, those of the active one's own, its code and data. */
enum { BLOCK = 1, NESTED = 4, OWN = 12, DATA = 32, DATA_PAGES = 32, HOLE = PAGES };
enum { ACROSS = 5 };                        /* so that what stands at the end of a page goes on in the next one */
enum { CHAIN = 2, TRIES_A_WORLD = 64, STEPS = 48 };

#define MARKS 0x60ull                       /* accessed and dirty bits */
#define LAST_OF_HALF 0x00007fffffe00000ull  /* the last 2 MiB of the canonical addresses' lower half, and of all */
#define LAST 0xffffffffffe00000ull

static uint64_t tries, met, steps;

static uint64_t flags_of_page(uint64_t plain)
{
	static const uint64_t odd[] = {0, 0, PRESENT, PRESENT | WRITABLE, PRESENT | WRITABLE | USER, PRESENT | USER};
	uint64_t flags = once_in(6) ? odd[below(sizeof odd / sizeof odd[0])] : plain;

	if (once_in(12))
		flags |= NO_EXECUTE;
	return once_in(40) ? flags | 1ull << (PHYSICAL_BITS + below(52 - PHYSICAL_BITS)) : flags;
}

/* Three tables that lead to a fourth from everywhere that counts. */
static void write_upper(uint64_t root)
{
	static const int indices[] = {0, 255, 511};

	memset(page(root), 0, 4 * PAGE);
	for (int depth = 0; depth < 3; depth++)
		for (int i = 0; i < 3; i++)
			page(root + depth)[indices[i]] = (root + depth + 1) * PAGE | PRESENT | WRITABLE | USER;
}

static void write_nested(uint64_t root)
{
	write_upper(root);
	for (uint64_t i = 0; i < PAGES; i++)
		page(root + 3)[i] = i * PAGE | (i < DATA ? 7 : flags_of_page(7));
}

static void write_own(void)
{
	write_upper(OWN);
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t to = once_in(32) ? HOLE + below(8) : DATA + (once_in(8) ? below(DATA_PAGES) : i % DATA_PAGES);

		page(OWN + 3)[i] = to * PAGE | flags_of_page(PRESENT | WRITABLE);
	}
}

/* A few bytes of code: most of it is plain, some ends in the middle. */
static void write_code(uint8_t *at)
{
	static const uint8_t svm_codes[] = {0xd8, 0xda, 0xdb, 0xd8, 0xda, 0xdb, 0xd9, 0xdc};
	uint8_t rex = 0x48 | below(16);

	switch (below(16)) {
	case 0 ... 3:
		memcpy(at, (uint8_t[]){rex, once_in(3) ? 0x89 : 0x8b, 0x40 | (any() & 0x3f), any(), 0x90, 0x90, 0x90, 0x90}, 8);
		break;
	case 4 ... 5:
		memcpy(at, (uint8_t[]){rex, once_in(2) ? 0x89 : 0x8b, any(), any() & 0x7f, once_in(4) ? any() : 0, 0, 0, 0x90}, 8);
		break;
	case 6:
		memcpy(at, (uint8_t[]){once_in(2) ? rex & 0x41 : 0x90, 0x58 | below(8), 0x90, 0x40 | below(16), 0x90, 0x90, 0x90, 0x90}, 8);
		break;
	case 7:
		memcpy(at, (uint8_t[]){0xeb, once_in(4) ? any() : 2, 0x0f, 0x0b, 0x90, 0x90, 0xeb, any() & 0x3f}, 8);
		break;
	case 8 ... 9:
		memcpy(at, (uint8_t[]){0x90, 0x0f, 0x01, svm_codes[below(sizeof svm_codes)], 0x90, 0x90, 0x90, 0x90}, 8);
		break;
	case 10:
		memcpy(at, &(uint64_t){any()}, 8);
		break;
	case 11: /* a pointer, for those that load one */
		memcpy(at, &(uint64_t){below(512) * PAGE + below(512) * 8}, 8);
		break;
	default:
		memset(at, 0x90, 8);
	}
}

static void run_block(uint64_t number, uint64_t tables)
{
	struct nv_vmcb *guest = (struct nv_vmcb *)page(number);

	*guest = *block;
	memset(guest, 0, 0x400);
	guest->intercept[4] = 3;
	guest->asid = guest->nested_paging = 1;
	guest->nested_cr3 = tables * PAGE;
	enter_block(number);
	CHECK(!nested.due.to);
	nested.active->svme = 1;
	nv_nested_compose(&nested);
}

static void make_world(void)
{
	uint64_t machines = below(CHAIN + 1);

	start();
	memset(level, 0, PAGES * PAGE);
	for (uint64_t i = 0; i < machines; i++) {
		if (once_in(2))
			block->efer ^= EFER_NXE;
		write_nested(NESTED + 4 * i);
		run_block(BLOCK + i, NESTED + 4 * i);
	}
	CHECK(nested.active->depth == machines);
	write_own();
	for (uint64_t at = DATA * PAGE + ACROSS; at + 8 <= (DATA + DATA_PAGES) * PAGE; at += 8)
		write_code(level + at);
	block->cr3 = OWN * PAGE;
	block->efer = EFER_SVME | EFER_LME | EFER_LMA | (once_in(4) ? 0 : EFER_NXE);
	block->cr0 = once_in(4) ? 0x80000031 : 0x80010031;
	block->cr4 = CR4_PAE | (once_in(2) ? 0 : CR4_SMEP) | (once_in(2) ? 0 : CR4_SMAP);
	svm.looks_ahead = 1;
}

static uint64_t pointer(void)
{
	static const uint64_t firsts[] = {0, 0, 0, LAST_OF_HALF, LAST};
	uint64_t at = firsts[below(5)] + below(512) * PAGE;

	return once_in(16) ? any() : at + (once_in(8) ? PAGE - below(20) : below(512) * 8);
}

/* Often so near to the end of a page that an instruction goes on in the next one, which may be none. */
static uint64_t code_pointer(void)
{
	uint64_t at = (pointer() & (once_in(4) ? ~0ull : ~7ull)) + ACROSS;

	if (once_in(3))
		at = (at & ~0xfffull) | 0x1ff000 * once_in(2) | (0xfe0 + ACROSS + 8 * below(4));
	return at;
}

static uint64_t data_page(int is_there)
{
	return is_there ? DATA + below(DATA_PAGES) : NOWHERE;
}

/* Something for which the processor has to execute even plain code; 0: there is nothing. */
static int is_odd(void)
{
	svm.injection = svm.interrupted = svm.synthetic = 0;
	svm.step.active = 0;
	nested.active->svme = nested.visible = svm.looks_ahead = 1;
	nested.ahead.done = 0;
	block->cpl = 0;
	block->dr7 = 0x400;
	block->cs.attributes = 0xa9b;
	mailbox.regs[NV_REG_RFLAGS] = 2 | (any() & 0x2cd5);
	svm.switched.pending = (struct nv_pending){0};
	switch (below(96)) {
	case 0:
		block->cpl = 3;
		break;
	case 1:
		block->dr7 |= 1ull << below(8);
		break;
	case 2:
		block->cs.attributes = 0xc9b;
		break;
	case 3:
		mailbox.regs[NV_REG_RFLAGS] |= once_in(2) ? RFLAGS_TF : RFLAGS_RF;
		break;
	case 4:
		nested.active->svme = 0;
		break;
	case 5:
		svm.injection = EVENT_VALID | 0x20;
		break;
	case 6:
		svm.step.active = 1;
		break;
	case 7:
		nv_pending_interrupt(&svm.switched.pending, 0x20);
		break;
	case 8:
		svm.looks_ahead = 0;
		break;
	case 9:
		svm.interrupted = EVENT_VALID | 0x20;
		break;
	default:
		return 0;
	}
	return 1;
}

static int is_same_memory(int odd)
{
	for (uint64_t i = 0; i < PAGES; i++) {
		const uint64_t *is = page(i), *should = (const uint64_t *)(now.memory + i * PAGE);

		if (!memcmp(is, should, PAGE))
			continue;
		if (odd || i >= DATA)
			return 0;
		for (int j = 0; j < 512; j++)
			if ((is[j] ^ should[j]) & ~(is[j] & MARKS))
				return 0;
	}
	return 1;
}

/* The instruction that L0 says it met is the one where it stands, and it may do that now. */
static void check_met(void)
{
	static const uint8_t last[] = {[EXIT_VMRUN - EXIT_VMRUN] = 0xd8, [EXIT_VMLOAD - EXIT_VMRUN] = 0xda, [EXIT_VMSAVE - EXIT_VMRUN] = 0xdb};
	uint8_t bytes[LENGTH] = {0};

	CHECK(block->exit_code >= EXIT_VMRUN && block->exit_code - EXIT_VMRUN < sizeof last && block->rip == now.regs[NV_REG_RIP]);
	CHECK(fetch(bytes) >= 3 && bytes[0] == 0x0f && bytes[1] == 1 && bytes[2] == last[block->exit_code - EXIT_VMRUN]);
	CHECK(!memcmp(svm.met, bytes, sizeof svm.met));
	CHECK(!mailbox.store || block->exit_code == EXIT_VMLOAD);
	CHECK(!mailbox.load || block->exit_code == EXIT_VMRUN);
	met++;
}

static void try(void)
{
	int odd = is_odd(), result, count = 0;

	for (int i = 0; i < 16; i++)
		mailbox.regs[i] = pointer();
	mailbox.regs[NV_REG_RIP] = code_pointer();
	stores_to = data_page(once_in(3));
	loads_from = data_page(once_in(3));
	mailbox.store = stores_to == NOWHERE ? 0 : LEVEL_PHYSICAL + stores_to * PAGE;
	mailbox.load = loads_from == NOWHERE ? 0 : LEVEL_PHYSICAL + loads_from * PAGE;
	nested.ahead.stored = stores_to == NOWHERE ? NULL : level + stores_to * PAGE;
	memset(nested.ahead.missed, 0, sizeof nested.ahead.missed);
	block->interrupt_shadow = below(2);
	memcpy(now.regs, mailbox.regs, sizeof now.regs);
	memcpy(now.memory, level, PAGES * PAGE);
	result = nv_nested_go_ahead(&nested, nv_nested_idle(&nested));
	while (memcmp(now.regs, mailbox.regs, sizeof now.regs) || !is_same_memory(odd)) {
		CHECK(!odd && count++ < STEPS && step());
		CHECK(!block->interrupt_shadow);
	}
	CHECK(!nested.due.to && !nested.endless && !nested.lost);
	steps += count;
	if (result)
		check_met();
	CHECK(!odd || !result);
}

int main(int count, char **words)
{
	uint64_t wanted;

	CHECK(count == 3);
	limit_time(100);
	random_state = strtoull(words[1], NULL, 0) * 2 + 1;
	wanted = strtoull(words[2], NULL, 0);
	prepare();
	now.memory = zeroed(PAGES * PAGE);
	for (; tries < wanted; tries++) {
		if (!(tries % TRIES_A_WORLD))
			make_world();
		try();
	}
	check_canaries();
	/* otherwise L0 did too little */
	CHECK(30 * met > tries && steps > tries && 20 * loaded > tries && 100 * stored > tries);
	puts("done");
	return 0;
}
