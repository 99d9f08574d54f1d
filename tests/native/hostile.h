/* What a level that does what it likes puts into its memory, whichever virtualization it has: random numbers, addresses and tables. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "nested_level.h"

#define BLOCKS 24u                          /* the first pages are control blocks, then come page tables */
#define TABLES 48u
#define ZEROS (BLOCKS + TABLES)             /* a few pages that nobody writes */

static uint64_t random_state;

/* xorshift64* */
static inline uint64_t any(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dull;
}

static inline uint64_t below(uint64_t limit)
{
	return (any() >> 11) % limit;
}

static inline int once_in(uint64_t times)
{
	return !below(times);
}

static inline uint64_t page_of(uint64_t first, uint64_t count)
{
	return (first + below(count)) * PAGE;
}

/* A physical address: of a block, of a table, of any page, of a hole, of what only L0 has, too high, or anything. */
static inline uint64_t address(void)
{
	switch (below(10)) {
	case 0 ... 1:
		return page_of(0, BLOCKS);
	case 2 ... 4:
		return page_of(BLOCKS, TABLES);
	case 5:
		return page_of(0, PAGES);
	case 6:
		return page_of(PAGES - 2, 4);
	case 7:
		return (once_in(2) ? RAM_PHYSICAL : NV_SWITCHER_BASE) + page_of(0, 256);
	case 8:
		return 1ull << below(64);
	default:
		return any() & ~0xfffull;
	}
}

/* What KVM_RUN ended for: the switcher's doorbell. */
static inline void ring(uint64_t state)
{
	mailbox.state = state;
	run->exit_reason = KVM_EXIT_IO;
	run->io.port = NV_DOORBELL;
}

/* Level n's own exit to userspace: KVM did a port or memory access. */
static inline void stop_directly(void)
{
	mailbox.state = NV_SWITCHER_RUNNING;
	if (once_in(2)) {
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = once_in(2) ? NV_SHADOW_WINDOWS + below(NV_SHADOW_WINDOW_COUNT * PAGE) : any();
		run->mmio.len = 1 << below(4);
		run->mmio.is_write = below(2);
	} else {
		run->exit_reason = KVM_EXIT_IO;
		run->io = (typeof(run->io)){below(2), 1 << below(3), 0x80, 1, PAGE};
	}
}

/* Entries that lead to such addresses by one of these bits; plain: those of a page that allows everything. */
static inline void write_table(uint64_t *table, const uint64_t *flags, uint64_t count, uint64_t plain)
{
	for (uint64_t entries = 1 + below(8); entries; entries--)
		table[once_in(2) ? below(4) : below(512)] = once_in(16) ? any() : address() | flags[below(count)];
	if (once_in(4))
		for (int i = 0; i < 512; i++)
			table[i] = (i % PAGES) * PAGE | plain;
}

/* Three tables lead everywhere, by pages of 2 MiB; small: but for the first ones, of 4 KiB, in a fourth. */
static inline void write_plain_tables(uint64_t first, uint64_t plain, int small)
{
	uint64_t *table = (uint64_t *)(level + first * PAGE);

	memset(table, 0, 3 * PAGE);
	table[0] = (first + 1) * PAGE | 7;
	table[512] = (first + 2) * PAGE | 7;
	for (int i = 0; i < 512; i++)
		table[1024 + i] = ((uint64_t)i << 21) | 0x80 | plain;
	if (!small)
		return;
	table[1024] = (first + 3) * PAGE | 7;
	for (int i = 0; i < 512; i++)
		table[1536 + i] = i * PAGE | plain;
}

/* Everything that comes is the seed's. It must not take for ever. write_table's words: of the tables. */
static inline void begin(const char *seed, void (*write_block)(uint8_t *at), const uint64_t *flags, uint64_t count, uint64_t plain)
{
	limit_time(100);
	random_state = strtoull(seed, NULL, 0) * 2 + 1;
	for (unsigned int i = 0; i < BLOCKS; i++)
		write_block(level + i * PAGE);
	for (unsigned int i = BLOCKS; i < BLOCKS + TABLES; i++)
		write_table((uint64_t *)(level + i * PAGE), flags, count, plain);
}

static inline void run_with(const struct nv_table *table)
{
	static struct nv_counter counters[NV_REASONS + 1];
	static struct nv_unclaimed unclaimed;

	vcpu.table = table;
	vcpu.counters = counters;
	vcpu.unclaimed = &unclaimed;
}

#endif
