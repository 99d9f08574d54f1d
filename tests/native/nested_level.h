/* A level with software SVM or VMX in plain memory: what L0 has for it, without KVM. The memory around the level's own is L0's and full of
 * CANARY. nested_level_svm.h and nested_level_vmx.h have the rest. */
#ifndef NESTED_LEVEL_H
#define NESTED_LEVEL_H

#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "check.h"
#include "nested_machines.h"

#define PAGE 4096ull
#define PAGES 128u                          /* of the level's memory */
#define GUARDS 64u                          /* pages of L0's memory on either side, which are no level's */
#define CANARY 0xa5
#define RAM_PHYSICAL ((NV_SHADOW_WINDOWS - (1ull << 30)) & ~((1ull << 30) - 1))
#define LEVEL_PHYSICAL (RAM_PHYSICAL + GUARDS * PAGE)
#define PHYSICAL_BITS 40
#define TABLE_PAGES 24u                     /* of each machine that has them: so few that they run out */
#define ALL_RIGHTS (NV_RIGHT_READ | NV_RIGHT_WRITE | NV_RIGHT_EXECUTE)

static uint8_t *memory, *level;
static struct nv_vcpu vcpu;
static struct nv_nested nested;
static struct nv_shadow shadow;
static struct nv_paging paging;
static struct nv_mailbox mailbox;
static struct kvm_run *run;

static inline int is_memory(uint64_t to, uint64_t size)
{
	return to >= LEVEL_PHYSICAL && to + size <= LEVEL_PHYSICAL + PAGES * PAGE;
}

/* KVM's addresses of the level: its memory, its read-only page's own address and other holes, windows. */
static inline int is_levels(uint64_t to, uint64_t size)
{
	if (is_memory(to, size))
		return 1;
	return to + size <= RAM_PHYSICAL || (to >= NV_SHADOW_WINDOWS && to + size <= NV_SHADOW_WINDOWS + NV_SHADOW_WINDOW_COUNT * PAGE);
}

/* present: the bits of which an entry that counts has one. */
static inline void check_table(const struct nv_shadow *tables, uint64_t table, uint64_t present, int depth)
{
	CHECK(table >= tables->physical && table + PAGE <= tables->physical + tables->pages * PAGE);
	for (int i = 0; i < 512; i++) {
		uint64_t entry = tables->pool[(table - tables->physical) / 8 + i], to = entry & 0x000ffffffffff000;

		if (!(entry & present))
			continue;
		if (depth > 1 && !(entry & 0x80))
			check_table(tables, to, present, depth - 1);
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

/* The nested page tables that the active machine is to run with. */
static inline const struct nv_shadow *tables_of_active(void)
{
	return nested.active->depth ? &nested.tables[nested.active->tables].shadow : &shadow;
}

/* No machine has been made. format: of their tables. */
static inline void start_machines(uint32_t format)
{
	for (unsigned int i = 0; i < NV_NESTED_SETS; i++) {
		uint64_t *pool = nested.tables[i].shadow.pool;

		memset(&nested.tables[i], 0, sizeof nested.tables[i]);
		nested.tables[i].shadow = (struct nv_shadow){.pool = pool, .physical = NV_NESTED_TABLES + i * 0x1000000,
							     .pages = TABLE_PAGES, .format = format};
	}
	memset(nested.machines, 0, sizeof nested.machines);
	nested.too_deep = nested.lost = nested.endless = nested.flush = 0;
	nested.due.to = nested.undo.to = NULL;
	nested.due.told = 0;
	nested.gone_count = nested.gone_told = 0;
	for (unsigned int i = 0; i < NV_NESTED_DEPTH; i++)
		nested.levels[i] = 1 + i;
	mailbox = (struct nv_mailbox){.state = NV_SWITCHER_OUTSIDE};
}

static inline void *filled(size_t size, int with)
{
	void *at = aligned_alloc(PAGE, size);

	CHECK(at);
	return memset(at, with, size);
}

static inline void *zeroed(size_t size)
{
	return filled(size, 0);
}

/* In seconds of the processor's, however busy the machine is: what goes on for ever ends. */
static inline void limit_time(rlim_t seconds)
{
	CHECK(!setrlimit(RLIMIT_CPU, &(struct rlimit){seconds, seconds}));
}

static inline void prepare_level(uint32_t format)
{
	static const uint64_t size = PAGES * PAGE;
	static struct nv_slot slot = {0, PAGES * PAGE, NULL, 0};
	static uint64_t windows[NV_SHADOW_WINDOW_COUNT];
	static const struct nv_shadow_range ranges[] = {
		{0, size - 1, LEVEL_PHYSICAL, ALL_RIGHTS, 0},
		{size, RAM_PHYSICAL - 1, size, ALL_RIGHTS, 0},
		{RAM_PHYSICAL, (1ull << 48) - 1, NV_SHADOW_WINDOW, ALL_RIGHTS, 0},
	};

	memory = aligned_alloc(PAGE, size + 2 * GUARDS * PAGE);
	CHECK(memory);
	memset(memory, CANARY, size + 2 * GUARDS * PAGE);
	level = memory + GUARDS * PAGE;
	memset(level, 0, size);
	slot.host = level;
	nv_paging_init(&paging, &slot, 1, PHYSICAL_BITS);
	shadow = (struct nv_shadow){.pool = zeroed(64 * PAGE), .physical = NV_SHADOW_TABLES, .pages = 64, .largest = 2, .format = format,
				    .window = NV_SHADOW_WINDOWS, .windows = windows, .window_count = NV_SHADOW_WINDOW_COUNT};
	nv_shadow_reset(&shadow);
	nv_shadow_set(&shadow, ranges, 3, 0, ~0ull);
	run = zeroed(2 * PAGE);
	for (int i = 0; i < NV_NESTED_SETS; i++)
		nested.tables[i].shadow.pool = zeroed(TABLE_PAGES * PAGE);
	nested.shadow = &shadow;
	nested.maps = zeroed(NV_NESTED_DEPTH * NV_NESTED_MAPS);
	nested.maps_physical = NV_SWITCHER_BASE + NV_SWITCHER_NESTED;
	nested.own_ports = filled(NV_NESTED_PORTS, 0x10);
	nested.own_msrs = filled(NV_NESTED_MSRS, 0x42);
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
