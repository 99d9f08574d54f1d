/* What a level with VMX has in its memory: random VMCSs, tables, operands and lists of MSRs. */
#ifndef HOSTILE_VMCS_H
#define HOSTILE_VMCS_H

#include "hostile.h"
#include "nested_level_vmx.h"

#define PLAIN 0x37ull                       /* of a page's entry: write-back */
#define READ_ONLY 0x31ull
#define UNWRITABLE 0x35ull
#define UNEXECUTABLE 0x33ull
#define PAGE_TABLES BLOCKS                  /* those that lead everywhere: a level's own, and for its guests */
#define GUEST_TABLES (BLOCKS + 3)
#define OPERANDS (ZEROS + 8)                /* a page that instructions have their operands in */

#define LIST (OPERANDS + 8)                 /* pages with a list of MSRs that is longer than L0 reads */
#define LIST_READ 4096u                     /* elements that it does: no processor recommends more */
#define LIST_LENGTH 5000u
#define LISTED 0xc0000084                   /* the MSR of all of them */

static const uint64_t flags[] = {7, 7, 7, 7, 0xb7, 0x37, 0x35, 0x31, 0, 0x107, 0x32, 0x27, 0x47, 1ull << 52 | 7, 1ull << 51 | 7};
static int climbs;                          /* few changes, so that levels come on top of each other */

static inline uint64_t allowed(int capability, uint64_t chosen)
{
	return (capabilities[capability] & 0xffffffff) | (chosen & capabilities[capability] >> 32);
}

static inline void write_controls(struct nv_virtual_vmcs *to)
{
	uint64_t pin = any() & any(), primary = any() & any() & any(), secondary = once_in(2) ? any() : SECONDARY_EPT, exits = any();

	if (!(pin & PIN_NMI))
		pin &= ~PIN_VIRTUAL_NMI;
	if (!(pin & PIN_VIRTUAL_NMI))
		primary &= ~PRIMARY_NMI_WINDOW;
	if (!(pin & PIN_TIMER))
		exits &= ~EXIT_SAVES_TIMER;
	if (!(secondary & SECONDARY_EPT))
		secondary &= ~SECONDARY_UNRESTRICTED;
	if (!once_in(4))
		primary |= PRIMARY_SECONDARY;
	if (climbs || !once_in(3))
		primary |= PRIMARY_MSR_MAP;
	set_field(to, NV_VMCS_PIN_CONTROLS, allowed(VMX_TRUE_PIN, pin));
	set_field(to, NV_VMCS_PRIMARY_CONTROLS, allowed(VMX_TRUE_PRIMARY, primary));
	set_field(to, NV_VMCS_SECONDARY_CONTROLS, allowed(VMX_SECONDARY, secondary));
	set_field(to, NV_VMCS_EXIT_CONTROLS, allowed(VMX_TRUE_EXIT, exits | EXIT_HOST_64));
	set_field(to, NV_VMCS_ENTRY_CONTROLS, allowed(VMX_TRUE_ENTRY, any() | ENTRY_LONG_MODE));
	set_field(to, NV_VMCS_EXCEPTION_BITMAP, once_in(2) ? (uint32_t)any() & any() : 0);
	set_field(to, NV_VMCS_PAGE_FAULT_MASK, once_in(4) ? (uint32_t)any() : 0);
	set_field(to, NV_VMCS_PAGE_FAULT_MATCH, once_in(4) ? (uint32_t)any() : 0);
	set_field(to, NV_VMCS_CR3_TARGETS, below(5));
	set_field(to, NV_VMCS_VPID, 1 + below(3));
	set_field(to, NV_VMCS_CR0_MASK, once_in(2) ? any() & any() : 0);
	set_field(to, NV_VMCS_CR0_SHADOW, any());
	set_field(to, NV_VMCS_CR4_MASK, once_in(2) ? any() & any() : 0);
	set_field(to, NV_VMCS_CR4_SHADOW, any());
	set_field(to, NV_VMCS_TSC_OFFSET, any());
	set_field(to, NV_VMCS_PREEMPTION_TIMER, once_in(2) ? below(64) : (uint32_t)any());
	set_field(to, NV_VMCS_LINK_POINTER, ~0ull);
}

static inline uint64_t good_address(void)
{
	return address() & ((1ull << PHYSICAL_BITS) - 1) & ~(PAGE - 1);
}

static inline void write_addresses(struct nv_virtual_vmcs *to)
{
	static const uint32_t lists[][2] = {
		{NV_VMCS_ENTRY_MSR_LOAD_COUNT, NV_VMCS_ENTRY_MSR_LOADS}, {NV_VMCS_EXIT_MSR_LOAD_COUNT, NV_VMCS_EXIT_MSR_LOADS},
		{NV_VMCS_EXIT_MSR_STORE_COUNT, NV_VMCS_EXIT_MSR_STORES},
	};

	set_field(to, NV_VMCS_IO_BITMAP_A, good_address());
	set_field(to, NV_VMCS_IO_BITMAP_B, good_address());
	set_field(to, NV_VMCS_VIRTUAL_APIC, page_of(0, PAGES));
	set_field(to, NV_VMCS_TPR_THRESHOLD, once_in(16) ? below(16) : 0);
	set_field(to, NV_VMCS_MSR_BITMAP, !climbs && once_in(2) ? good_address() : ZEROS * PAGE);
	set_field(to, NV_VMCS_EPT_POINTER, (once_in(4) ? good_address() : GUEST_TABLES * PAGE) | NV_VMX_EPT_POINTER);
	for (int i = 0; i < 3; i++) {
		uint64_t length = once_in(climbs ? 32 : 3) ? once_in(8) ? LIST_LENGTH : below(6) : 0;
		uint64_t list = length == LIST_LENGTH ? LIST * PAGE : (once_in(2) ? good_address() : OPERANDS * PAGE) + 16 * below(256);

		set_field(to, lists[i][0], length);
		set_field(to, lists[i][1], list);
	}
}

static inline void write_state(struct nv_virtual_vmcs *to)
{
	for (int i = 0; i < 8; i++) {
		static const uint32_t rights[] = {0xc093, 0xa09b, 0xc093, 0xc093, 0xc093, 0xc093, 0x10000, 0x8b};

		set_field(to, NV_VMCS_GUEST_ES + 2 * i, i == 6 || i == 7 ? 0 : i == 1 ? 0x10 : 0x18);
		set_field(to, NV_VMCS_GUEST_ES_RIGHTS + 2 * i, rights[i]);
		set_field(to, NV_VMCS_GUEST_ES_LIMIT + 2 * i, i == 7 ? 0xffff : 0xffffffff);
		set_field(to, NV_VMCS_GUEST_ES_BASE + 2 * i, 0);
		if (i < 7)
			set_field(to, NV_VMCS_HOST_ES + 2 * i, i == 1 ? 0x10 : i == 6 ? 0x28 : 0x18);
	}
	set_field(to, NV_VMCS_GUEST_CR0, CR0_PLAIN);
	set_field(to, NV_VMCS_GUEST_CR3, once_in(4) ? good_address() : PAGE_TABLES * PAGE);
	set_field(to, NV_VMCS_GUEST_CR4, CR4_PLAIN);
	set_field(to, NV_VMCS_GUEST_EFER, EFER_LME | EFER_LMA);
	set_field(to, NV_VMCS_GUEST_PAT, 0x0007040600070406);
	set_field(to, NV_VMCS_GUEST_DR7, 0x400);
	set_field(to, NV_VMCS_GUEST_RFLAGS, 2 | (any() & RFLAGS_IF));
	set_field(to, NV_VMCS_GUEST_RIP, below(1ull << 30));
	set_field(to, NV_VMCS_GUEST_RSP, any());
	set_field(to, NV_VMCS_HOST_CR0, CR0_PLAIN);
	set_field(to, NV_VMCS_HOST_CR3, once_in(8) ? good_address() : PAGE_TABLES * PAGE);
	set_field(to, NV_VMCS_HOST_CR4, CR4_PLAIN);
	set_field(to, NV_VMCS_HOST_EFER, EFER_LME | EFER_LMA);
	set_field(to, NV_VMCS_HOST_PAT, 0x0007040600070406);
	set_field(to, NV_VMCS_HOST_RIP, below(1ull << 30));
	if (once_in(3) && field_of(to, NV_VMCS_GUEST_RFLAGS) & RFLAGS_IF)
		set_field(to, NV_VMCS_ENTRY_INTERRUPTION, EVENT_VALID | below(256));
	else if (once_in(3))
		set_field(to, NV_VMCS_ENTRY_INTERRUPTION, EVENT_VALID | (once_in(2) ? NV_EVENT_NMI << EVENT_KIND | 2 : 3 << EVENT_KIND | UD));
}

/* A VMCS that mostly keeps the rules, with a few fields changed; or one of which nothing is known. */
static inline void write_block(uint8_t *at)
{
	struct nv_virtual_vmcs *to = (struct nv_virtual_vmcs *)at;

	memset(to, 0, sizeof *to);
	to->revision = once_in(32) ? any() : NV_VIRTUAL_VMCS_REVISION;
	to->launched = below(2);
	if (once_in(16)) {
		for (uint64_t i = 16; i < PAGE; i += 8)
			*(uint64_t *)(at + i) = any();
		return;
	}
	write_controls(to);
	write_addresses(to);
	write_state(to);
	for (uint64_t count = climbs || below(3) ? 0 : below(4); count; count--)
		to->field[below(NV_VIRTUAL_VMCS_FIELDS)] ^= once_in(2) ? any() : 1ull << below(64);
}

/* Anew from time to time: it is in memory that machines, and lists that are stored to, change. */
static inline void write_list(void)
{
	uint64_t *at = (uint64_t *)(level + LIST * PAGE);

	for (unsigned int i = 0; i < LIST_LENGTH; i++)
		at[2 * i] = LISTED;
}

/* Pointers for VMXON, VMPTRLD and VMCLEAR, and lists of MSRs. */
static inline void write_operands(void)
{
	static const uint32_t indices[] = {0x10, 0x174, 0x175, 0x1d9, 0x277, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000102, 0x4b564d00, 0x1b};
	uint64_t *at = (uint64_t *)(level + OPERANDS * PAGE + 16 * below(256));

	at[0] = indices[below(sizeof indices / sizeof indices[0])];
	at[1] = once_in(2) ? 0xd01 : any();
	at = (uint64_t *)(level + OPERANDS * PAGE);
	for (int i = 0; i < 8; i++)
		at[below(512)] = once_in(16) ? any() : once_in(8) ? address() : page_of(0, BLOCKS);
}

/* A guest may get less than all, and its first 2 MiB somewhere else: where the shadow has what was there before. */
static inline void write_guest_tables(void)
{
	int plain = !once_in(climbs ? 32 : 2), small = below(2);

	write_plain_tables(GUEST_TABLES, plain ? PLAIN : READ_ONLY, small);
	if (!plain && !small)
		((uint64_t *)(level + (GUEST_TABLES + 2) * PAGE))[0] |= below(2) << 21;
}

static inline void change_memory(void)
{
	if (once_in(8))
		write_plain_tables(PAGE_TABLES, PLAIN, 0);
	if (once_in(climbs ? 64 : 8))
		write_guest_tables();
	if (once_in(64))
		write_list();
	write_operands();
	for (uint64_t count = climbs && !once_in(16) ? 0 : below(3); count; count--) {
		if (once_in(2))
			write_block(level + page_of(0, BLOCKS));
		else
			write_table((uint64_t *)(level + page_of(BLOCKS, TABLES)), flags, sizeof flags / sizeof flags[0], PLAIN);
	}
}

#endif
