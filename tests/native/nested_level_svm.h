/* A level with software SVM in plain memory: what L0 has for it, without KVM. The memory around the level's own is L0's and full of
 * CANARY. */
#ifndef NESTED_LEVEL_H
#define NESTED_LEVEL_H

#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nested_svm_internal.h"

#define PAGE 4096ull
#define PAGES 128u                          /* of the level's memory */
#define GUARDS 64u                          /* pages of L0's memory on either side, which are no level's */
#define CANARY 0xa5
#define RAM_PHYSICAL ((NV_SHADOW_WINDOWS - (1ull << 30)) & ~((1ull << 30) - 1))
#define LEVEL_PHYSICAL (RAM_PHYSICAL + GUARDS * PAGE)
#define PHYSICAL_BITS 40
#define TABLE_PAGES 24u                     /* of each machine that has them: so few that they run out */

#define CHECK(condition)                                                                   \
	do {                                                                               \
		if (!(condition)) {                                                        \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
			abort();                                                           \
		}                                                                          \
	} while (0)

static uint8_t *memory, *level;
static struct nv_vcpu vcpu;
static struct nv_svm svm;
static struct nv_nested nested;
static struct nv_shadow shadow;
static struct nv_paging paging;
static struct nv_mailbox mailbox;
static struct nv_vmcb *block;
static struct kvm_run *run;
static uint64_t entries, unflushed;         /* entries that kept what the processor remembers */
static uint64_t remembered[NV_NESTED_SETS + 1]; /* the tables that each ASID ran with last */

/* KVM's addresses of the level: its memory, its read-only page's own address and other holes, windows. */
static inline int is_levels(uint64_t to, uint64_t size)
{
	if (to >= LEVEL_PHYSICAL && to + size <= LEVEL_PHYSICAL + PAGES * PAGE)
		return 1;
	return to + size <= RAM_PHYSICAL || (to >= NV_SHADOW_WINDOWS && to + size <= NV_SHADOW_WINDOWS + NV_SHADOW_WINDOW_COUNT * PAGE);
}

static inline void check_table(const struct nv_shadow *tables, uint64_t table, int depth)
{
	CHECK(table >= tables->physical && table + PAGE <= tables->physical + tables->pages * PAGE);
	for (int i = 0; i < 512; i++) {
		uint64_t entry = tables->pool[(table - tables->physical) / 8 + i], to = entry & 0x000ffffffffff000;

		if (!(entry & 1))
			continue;
		if (depth > 1 && !(entry & 0x80))
			check_table(tables, to, depth - 1);
		else
			CHECK(is_levels(to, PAGE << 9 * (depth - 1)));
	}
}

static inline void check_chain(void)
{
	const struct nv_machine *machine = nested.machines;

	CHECK(!machine->depth && !machine->parent);
	while (machine != nested.active) {
		CHECK(machine->child && machine->child->parent == machine && machine->child->depth == machine->depth + 1);
		CHECK(machine->depth + 1 < NV_NESTED_DEPTH);
		machine = machine->child;
	}
	CHECK(!machine->child);
}

/* What the processor may remember of nested page tables goes by ASID alone, until it is told to forget. */
static inline void check_memory_of(uint32_t asid)
{
	if (block->tlb_control == TLB_FLUSH_ALL)
		memset(remembered, 0, sizeof remembered);
	else
		unflushed++;
	CHECK(!remembered[asid] || remembered[asid] == block->nested_cr3);
	remembered[asid] = block->nested_cr3;
}

/* What L0 lets the processor see. */
static inline void check_entry(void)
{
	const struct nv_machine *active = nested.active;
	const struct nv_shadow *tables = active->depth ? &nested.tables[active->tables].shadow : &shadow;
	uint64_t maps = active->depth ? nested.maps_physical + (active->depth - 1) * NV_NESTED_MAPS : 0;

	check_chain();
	CHECK(block->nested_paging == 1 && block->nested_cr3 == tables->physical + tables->root * PAGE);
	CHECK(block->iopm == (active->depth ? maps : NV_SWITCHER_BASE + NV_SWITCHER_IOPM));
	CHECK(block->msrpm == (active->depth ? maps + NV_NESTED_PORTS : NV_SWITCHER_BASE + NV_SWITCHER_MSRPM));
	CHECK(block->asid == 1u + active->tables && !active->tables == !active->depth && block->efer & EFER_SVME && block->cpl < 4);
	CHECK(!active->depth || intercepts(block->intercept, EXIT_VMRUN));
	for (int i = 0; i < 6; i++)
		CHECK(!(svm.wanted[i] & ~block->intercept[i]) || svm.step.active);
	for (uint64_t i = 0; active->depth && i < NV_NESTED_MSRS; i++)
		CHECK(!(nested.own_msrs[i] & ~nested.maps[(active->depth - 1) * NV_NESTED_MAPS + NV_NESTED_PORTS + i]));
	CHECK(!mailbox.load || is_levels(mailbox.load, PAGE));
	CHECK(!mailbox.store || is_levels(mailbox.store, PAGE));
	if (mailbox.state == NV_SWITCHER_OUTSIDE)
		check_memory_of(block->asid);
	if (!(entries++ % 16))
		check_table(tables, block->nested_cr3, 4);
}

static inline void start(void)
{
	for (unsigned int i = 0; i < NV_NESTED_SETS; i++) {
		uint64_t *pool = nested.tables[i].shadow.pool;

		memset(&nested.tables[i], 0, sizeof nested.tables[i]);
		nested.tables[i].shadow = (struct nv_shadow){.pool = pool, .physical = NV_NESTED_TABLES + i * 0x1000000, .pages = TABLE_PAGES};
	}
	memset(nested.machines, 0, sizeof nested.machines);
	memset(remembered, 0, sizeof remembered);
	nested.too_deep = nested.lost = nested.endless = nested.flush = 0;
	nested.due.to = nested.undo.to = NULL;
	nested.due.told = 0;
	nested.take = nv_nested_take;
	for (unsigned int i = 0; i < NV_NESTED_DEPTH; i++)
		nested.levels[i] = 1 + i;
	memset(block, 0, PAGE);
	*block = (struct nv_vmcb){
		.asid = 1, .nested_paging = 1, .cs = {0x10, 0xa9b, ~0u, 0}, .efer = EFER_SVME | EFER_LME | EFER_LMA,
		.cr0 = 0x80010031, .cr4 = CR4_PAE, .dr6 = 0xffff0ff0, .dr7 = 0x400, .guest_pat = 0x0007040600070406,
	};
	mailbox = (struct nv_mailbox){.state = NV_SWITCHER_OUTSIDE};
	svm = (struct nv_svm){.nested = &nested, .block = block, .switched = {.mailbox = &mailbox, .shadow = &shadow, .paging = &paging}};
	svm.wanted[2] = 1u << 31;
	svm.wanted[3] = 1u << 31 | 1u << 28 | 1u << 18;
	svm.wanted[4] = 0x7f;
	svm.limits = (struct nv_svm_limits){~0ull << PHYSICAL_BITS, 0x7ff, 0x4d01 & ~0x400};
	nv_svm_init(&vcpu, &svm, -1, run, 1);
	nested.visible = 1;
	nv_nested_init(&nested);
	nested.machines[0].svme = 1;
}

static inline void *zeroed(size_t size)
{
	void *at = aligned_alloc(PAGE, size);

	CHECK(at);
	return memset(at, 0, size);
}

static inline void prepare(void)
{
	static const uint64_t size = PAGES * PAGE;
	static struct nv_slot slot = {0, PAGES * PAGE, NULL, 0};
	static uint64_t windows[NV_SHADOW_WINDOW_COUNT];
	static const struct nv_shadow_range ranges[] = {
		{0, size - 1, LEVEL_PHYSICAL, NV_RIGHT_READ | NV_RIGHT_WRITE | NV_RIGHT_EXECUTE, 0},
		{size, RAM_PHYSICAL - 1, size, NV_RIGHT_READ | NV_RIGHT_WRITE | NV_RIGHT_EXECUTE, 0},
		{RAM_PHYSICAL, (1ull << 48) - 1, NV_SHADOW_WINDOW, NV_RIGHT_READ | NV_RIGHT_WRITE | NV_RIGHT_EXECUTE, 0},
	};

	memory = aligned_alloc(PAGE, size + 2 * GUARDS * PAGE);
	CHECK(memory);
	memset(memory, CANARY, size + 2 * GUARDS * PAGE);
	level = memory + GUARDS * PAGE;
	memset(level, 0, size);
	slot.host = level;
	nv_paging_init(&paging, &slot, 1, PHYSICAL_BITS);
	shadow = (struct nv_shadow){.pool = zeroed(64 * PAGE), .physical = NV_SHADOW_TABLES, .pages = 64, .largest = 2,
				    .window = NV_SHADOW_WINDOWS, .windows = windows, .window_count = NV_SHADOW_WINDOW_COUNT};
	nv_shadow_reset(&shadow);
	nv_shadow_set(&shadow, ranges, 3, 0, ~0ull);
	block = zeroed(PAGE);
	run = zeroed(2 * PAGE);
	for (int i = 0; i < NV_NESTED_SETS; i++)
		nested.tables[i].shadow.pool = zeroed(TABLE_PAGES * PAGE);
	nested.shadow = &shadow;
	nested.maps = zeroed(NV_NESTED_DEPTH * NV_NESTED_MAPS);
	nested.maps_physical = NV_SWITCHER_BASE + NV_SWITCHER_NESTED;
	nested.own_ports = zeroed(NV_NESTED_PORTS);
	nested.own_msrs = zeroed(NV_NESTED_MSRS);
	nested.ram = memory;
	nested.ram_physical = RAM_PHYSICAL;
	nested.ram_size = size + 2 * GUARDS * PAGE;
}

static inline void check_canaries(void)
{
	for (uint64_t i = 0; i < GUARDS * PAGE; i++)
		CHECK(memory[i] == CANARY && level[PAGES * PAGE + i] == CANARY);
}

#endif
