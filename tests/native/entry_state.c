/* Each rule of VM entry for the guest's state, broken alone; see entry_rows.h. */
#include "entry_rows.h"

#define STI 1ull
#define MOV_SS 2ull
#define SELECTOR(segment) (NV_VMCS_GUEST_ES + 2 * (segment))
#define BASE(segment) (NV_VMCS_GUEST_ES_BASE + 2 * (segment))
#define LENGTH(segment) (NV_VMCS_GUEST_ES_LIMIT + 2 * (segment))
#define RIGHTS(segment) (NV_VMCS_GUEST_ES_RIGHTS + 2 * (segment))
#define UNUSABLE 0x10000u

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };

#define DEBUG_LOADED {NV_VMCS_ENTRY_CONTROLS, ENTRY | ENTRY_LOADS_DEBUG}
#define PAT_LOADED {NV_VMCS_ENTRY_CONTROLS, ENTRY | ENTRY_LOADS_PAT}
#define EFER_LOADED {NV_VMCS_ENTRY_CONTROLS, ENTRY | ENTRY_LOADS_EFER}
#define HAS_LDT {RIGHTS(LDTR), 0x82}, {LENGTH(LDTR), 0xffff}
#define INJECTS(kind, vector) {NV_VMCS_ENTRY_INTERRUPTION, EVENT(kind, vector)}

/* What is not for the segment alone that is looked at: of all kinds. */
#define SEGMENT(name, number, plain)                                                                                                    \
	{name ": system", RIGHTS(number), plain, (plain) & ~0x10u, {{0}}}, {name " not present", RIGHTS(number), plain, (plain) & ~0x80u, {{0}}}, \
	{name ": bit 8", RIGHTS(number), plain, (plain) | 0x100, {{0}}}, {name ": bit 11", RIGHTS(number), plain, (plain) | 0x800, {{0}}},        \
	{name ": bit 17", RIGHTS(number), plain, (plain) | 0x20000, {{0}}}, {name ": bit 31", RIGHTS(number), plain, (plain) | 1u << 31, {{0}}},  \
	{name " counts pages", LENGTH(number), 0xffffffff, 0xfffff7ff, {{0}}},                                                            \
	{name " counts bytes", LENGTH(number), 0xfffff, 0x100000, {{RIGHTS(number), (plain) & ~0x8000u}}}

/* What an unusable one may be. */
#define USED(name, number) {name ", if used", RIGHTS(number), UNUSABLE, 0, {{0}}}

#define DATA_SEGMENT(name, number)                                                                                                    \
	SEGMENT(name, number, DATA), USED(name, number), {name " not accessed", RIGHTS(number), DATA, DATA & ~1u, {{0}}},                  \
	{name " cannot be read", RIGHTS(number), CODE_32, CODE_32 & ~2u, {{0}}},                                                          \
	{name ": RPL", SELECTOR(number), 0x18, 0x1b, {{0}}}, {name ": RPL of code", RIGHTS(number), 0xc09f, 0xc09b, {{SELECTOR(number), 0x1b}}}, \
	{name ": RPL, if restricted", NV_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_UNRESTRICTED, SECONDARY_EPT,                   \
	 {{NV_VMCS_PRIMARY_CONTROLS, MORE}, {SELECTOR(number), 0x1b}}}

static const struct row registers[] = {
	{"CR0: NE", NV_VMCS_GUEST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_NE, {{0}}},
	{"CR0: PE and PG", NV_VMCS_GUEST_CR0, CR0_PLAIN, 0x30, {GUEST_32}},
	{"CR0: PG", NV_VMCS_GUEST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_PG, {GUEST_32}},
	{"CR0: restricted", NV_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_UNRESTRICTED, SECONDARY_EPT,
	 {GUEST_32, {NV_VMCS_PRIMARY_CONTROLS, MORE}, {NV_VMCS_GUEST_CR0, 0x30}}},
	{"CR0: NE of an unrestricted guest", NV_VMCS_GUEST_CR0, 0x30, 0x10, {REAL_MODE}},
	{"CR0: PG without PE", NV_VMCS_GUEST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_PE, {UNRESTRICTED}},
	{"CR0's upper half", NV_VMCS_GUEST_CR0, CR0_PLAIN, CR0_PLAIN | 1ull << 32, {{0}}},
	{"CR4: VMXE", NV_VMCS_GUEST_CR4, CR4_HERE, CR4_PAE, {{0}}},
	{"CR4: reserved", NV_VMCS_GUEST_CR4, CR4_HERE | 1, CR4_HERE | 1u << 31, {{0}}},
	{"DEBUGCTL", NV_VMCS_GUEST_DEBUGCTL, 0xffc3, 1u << 5, {DEBUG_LOADED}},
	{"DEBUGCTL, if loaded", NV_VMCS_ENTRY_CONTROLS, ENTRY, ENTRY | ENTRY_LOADS_DEBUG, {{NV_VMCS_GUEST_DEBUGCTL, 1u << 16}}},
	{"long mode without paging", NV_VMCS_GUEST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_PG, {UNRESTRICTED}},
	{"long mode without PAE", NV_VMCS_GUEST_CR4, CR4_HERE, CR4_VMXE, {{0}}},
	{"PCID without long mode", NV_VMCS_GUEST_CR4, CR4_HERE, CR4_HERE | CR4_PCIDE, {GUEST_32}},
	{"CR3 beyond", NV_VMCS_GUEST_CR3, BEYOND - 1, BEYOND, {{0}}},
	{"DR7's upper half", NV_VMCS_GUEST_DR7, 0xffffffff, 1ull << 32, {DEBUG_LOADED}},
	{"DR7, if loaded", NV_VMCS_ENTRY_CONTROLS, ENTRY, ENTRY | ENTRY_LOADS_DEBUG, {{NV_VMCS_GUEST_DR7, 1ull << 32}}},
	{"SYSENTER_ESP", NV_VMCS_GUEST_SYSENTER_ESP, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"SYSENTER_EIP", NV_VMCS_GUEST_SYSENTER_EIP, ~0ull << 47, UNCANONICAL, {{0}}},
	{"PAT", NV_VMCS_GUEST_PAT, 0x0706050401000000, 3, {PAT_LOADED}},
	{"PAT, if loaded", NV_VMCS_ENTRY_CONTROLS, ENTRY, ENTRY | ENTRY_LOADS_PAT, {{NV_VMCS_GUEST_PAT, 2}}},
	{"EFER: reserved", NV_VMCS_GUEST_EFER, 0xd01, 0xd03, {EFER_LOADED}},
	{"EFER: LMA", NV_VMCS_GUEST_EFER, 0x500, 0x100, {EFER_LOADED}},
	{"EFER: LME", NV_VMCS_GUEST_EFER, 0x500, 0x400, {EFER_LOADED}},
	{"EFER: LME with paging", NV_VMCS_GUEST_CR0, 0x31, CR0_PLAIN,
	 {UNRESTRICTED, GUEST_32, {NV_VMCS_ENTRY_CONTROLS, (ENTRY | ENTRY_LOADS_EFER) & ~ENTRY_LONG_MODE}, {NV_VMCS_GUEST_EFER, EFER_LME}}},
	{"EFER, if loaded", NV_VMCS_ENTRY_CONTROLS, ENTRY, ENTRY | ENTRY_LOADS_EFER, {{NV_VMCS_GUEST_EFER, 0}}},
	{"GDTR base", NV_VMCS_GUEST_GDTR_BASE, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"IDTR base", NV_VMCS_GUEST_IDTR_BASE, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"GDTR limit", NV_VMCS_GUEST_GDTR_LIMIT, 0xffff, 0x10000, {{0}}},
	{"IDTR limit", NV_VMCS_GUEST_IDTR_LIMIT, 0xffff, 0x10000, {{0}}},
	{"RIP of 64-bit code", NV_VMCS_GUEST_RIP, UNCANONICAL, 1ull << 48, {{0}}},
	{"RIP of 64-bit code below", NV_VMCS_GUEST_RIP, 0xffffull << 48, 0xfffeull << 48, {{0}}},
	{"RIP of other code in long mode", NV_VMCS_GUEST_RIP, 0xffffffff, 1ull << 32, {{RIGHTS(CS), CODE_32}}},
	{"RIP without long mode", NV_VMCS_GUEST_RIP, 0xffffffff, 1ull << 32, {GUEST_32}},
	{"RFLAGS: bit 1", NV_VMCS_GUEST_RFLAGS, 2, 0, {{0}}},
	{"RFLAGS: bit 3", NV_VMCS_GUEST_RFLAGS, 2, 2 | 1u << 3, {{0}}},
	{"RFLAGS: bit 5", NV_VMCS_GUEST_RFLAGS, 2, 2 | 1u << 5, {{0}}},
	{"RFLAGS: bit 15", NV_VMCS_GUEST_RFLAGS, 2, 2 | 1u << 15, {{0}}},
	{"RFLAGS: bit 22", NV_VMCS_GUEST_RFLAGS, 2 | 1u << 21, 2 | 1u << 22, {{0}}},
	{"RFLAGS: bit 63", NV_VMCS_GUEST_RFLAGS, 2, 2 | 1ull << 63, {{0}}},
	{"RFLAGS: IF", NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_IF, 2, {INJECTS(NV_EVENT_INTERRUPT, 0x20)}},
};

static const struct row segments[] = {
	{"TR: TI", SELECTOR(TR), 0x28, 0x2c, {{0}}},
	{"LDTR: TI", SELECTOR(LDTR), 0x28, 0x2c, {HAS_LDT}},
	{"SS: another RPL than CS", SELECTOR(CS), 0x13, 0x10, {{RIGHTS(CS), USER_CODE}, {SELECTOR(SS), 0x1b}, {RIGHTS(SS), USER_DATA}}},
	{"FS base", BASE(FS), UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"GS base", BASE(GS), UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"TR base", BASE(TR), UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"LDTR base", BASE(LDTR), UNCANONICAL - 1, UNCANONICAL, {HAS_LDT}},
	{"LDTR base, if used", RIGHTS(LDTR), UNUSABLE, 0x82, {{LENGTH(LDTR), 0xffff}, {BASE(LDTR), UNCANONICAL}}},
	{"CS base", BASE(CS), 0xffffffff, 1ull << 32, {{0}}},
	{"SS base", BASE(SS), 0xffffffff, 1ull << 32, {{0}}},
	{"DS base", BASE(DS), 0xffffffff, 1ull << 32, {{0}}},
	{"ES base", BASE(ES), 0xffffffff, 1ull << 32, {{0}}},
	{"SS base, if used", RIGHTS(SS), UNUSABLE, DATA, {{BASE(SS), 1ull << 32}}},
	{"DS base, if used", RIGHTS(DS), UNUSABLE, DATA, {{BASE(DS), 1ull << 32}}},
	{"ES base, if used", RIGHTS(ES), UNUSABLE, DATA, {{BASE(ES), 1ull << 32}}},

	SEGMENT("CS", CS, CODE_64),
	{"CS unusable", RIGHTS(CS), CODE_64, CODE_64 | UNUSABLE, {{0}}},
	{"CS not accessed", RIGHTS(CS), CODE_64, CODE_64 & ~1u, {{0}}},
	{"CS is data", RIGHTS(CS), CODE_64, 0xa093, {{0}}},
	{"CS is data, restricted", NV_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_UNRESTRICTED, SECONDARY_EPT,
	 {{NV_VMCS_PRIMARY_CONTROLS, MORE}, {RIGHTS(CS), 0xa093}}},
	{"CS is data that cannot be written", RIGHTS(CS), 0xa093, 0xa091, {UNRESTRICTED}},
	{"CS is data: privilege", RIGHTS(CS), 0xa093, 0xa0f3, {UNRESTRICTED}},
	{"CS: privilege", RIGHTS(CS), CODE_64, CODE_64 | 0x20, {{0}}},
	{"CS: privilege below", RIGHTS(CS), USER_CODE, CODE_64, {{SELECTOR(CS), 0x13}, {SELECTOR(SS), 0x1b}, {RIGHTS(SS), USER_DATA}}},
	{"CS conforming: privilege", RIGHTS(CS), 0xa09f, 0xa0bf, {{0}}},
	{"CS: L and D", RIGHTS(CS), CODE_64, CODE_64 | 0x4000, {{0}}},
	{"CS: L and D, in long mode", NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE, ENTRY, {{RIGHTS(CS), CODE_64 | 0x4000}}},

	SEGMENT("SS", SS, DATA),
	USED("SS", SS),
	{"SS is code", RIGHTS(SS), DATA, CODE_32, {{0}}},
	{"SS cannot be written", RIGHTS(SS), DATA, DATA & ~2u, {{0}}},
	{"SS not accessed", RIGHTS(SS), DATA | 4, (DATA | 4) & ~1u, {{0}}},
	{"SS: privilege", RIGHTS(SS), DATA, DATA | 0x20, {{RIGHTS(CS), 0xa09f}}},
	{"SS: privilege, unusable", RIGHTS(SS), UNUSABLE, UNUSABLE | 0x20, {{RIGHTS(CS), 0xa09f}}},
	{"SS: privilege with CS as data", RIGHTS(SS), DATA, USER_DATA, {UNRESTRICTED, {RIGHTS(CS), 0xa093}}},
	{"SS: privilege in real mode", RIGHTS(SS), DATA, USER_DATA, {REAL_MODE, {RIGHTS(CS), 0xc09f}}},

	DATA_SEGMENT("ES", ES), DATA_SEGMENT("DS", DS), DATA_SEGMENT("FS", FS), DATA_SEGMENT("GS", GS),

	{"TR available", RIGHTS(TR), 0x8b, 0x89, {{0}}},
	{"TR of 16 bits", RIGHTS(TR), 0x8b, 0x83, {{0}}},
	{"TR of 16 bits in long mode", NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE, ENTRY, {{RIGHTS(TR), 0x83}}},
	{"TR no system segment", RIGHTS(TR), 0x8b, 0x9b, {{0}}},
	{"TR not present", RIGHTS(TR), 0x8b, 0x0b, {{0}}},
	{"TR: bit 8", RIGHTS(TR), 0x8b, 0x18b, {{0}}},
	{"TR: bit 17", RIGHTS(TR), 0x8b, 0x2008b, {{0}}},
	{"TR unusable", RIGHTS(TR), 0x8b, 0x8b | UNUSABLE, {{0}}},
	{"TR counts bytes", LENGTH(TR), 0xfffff, 0x100000, {{0}}},
	{"TR counts pages", LENGTH(TR), 0xffff, 0xfffe, {{RIGHTS(TR), 0x808b}}},
	{"LDTR is none", RIGHTS(LDTR), 0x82, 0x83, {{LENGTH(LDTR), 0xffff}}},
	{"LDTR no system segment", RIGHTS(LDTR), 0x82, 0x92, {{LENGTH(LDTR), 0xffff}}},
	{"LDTR not present", RIGHTS(LDTR), 0x82, 0x02, {{LENGTH(LDTR), 0xffff}}},
	{"LDTR: bit 8", RIGHTS(LDTR), 0x82, 0x182, {{LENGTH(LDTR), 0xffff}}},
	{"LDTR: bit 31", RIGHTS(LDTR), 0x82, 1u << 31 | 0x82, {{LENGTH(LDTR), 0xffff}}},
	{"LDTR counts bytes", LENGTH(LDTR), 0xfffff, 0x100000, {HAS_LDT}},
};

static const struct row others[] = {
	{"activity 2", NV_VMCS_GUEST_ACTIVITY, 1, 2, {{0}}},
	{"activity 3", NV_VMCS_GUEST_ACTIVITY, 1, 3, {{0}}},
	{"activity 4", NV_VMCS_GUEST_ACTIVITY, 0, 4, {{0}}},
	{"halted at CPL 3", NV_VMCS_GUEST_ACTIVITY, 0, 1,
	 {{SELECTOR(CS), 0x13}, {RIGHTS(CS), USER_CODE}, {SELECTOR(SS), 0x1b}, {RIGHTS(SS), USER_DATA}}},
	{"halted behind STI", NV_VMCS_GUEST_ACTIVITY, 0, 1, {TAKES_INTERRUPTS, {NV_VMCS_GUEST_INTERRUPTIBILITY, STI}}},
	{"halted behind MOV SS", NV_VMCS_GUEST_ACTIVITY, 0, 1, {{NV_VMCS_GUEST_INTERRUPTIBILITY, MOV_SS}}},
	{"halted with #UD", NV_VMCS_ENTRY_INTERRUPTION, EVENT(3, DB), EVENT(3, UD), {{NV_VMCS_GUEST_ACTIVITY, 1}}},
	{"halted with #GP", NV_VMCS_ENTRY_INTERRUPTION, EVENT(3, 18), EVENT(3, GP) | EVENT_ERROR_CODE, {{NV_VMCS_GUEST_ACTIVITY, 1}}},
	{"halted with INT", NV_VMCS_ENTRY_INTERRUPTION, EVENT(2, 2), EVENT(4, 3), {{NV_VMCS_GUEST_ACTIVITY, 1}, {NV_VMCS_ENTRY_LENGTH, 2}}},
	{"halted with INT1", NV_VMCS_ENTRY_INTERRUPTION, EVENT(0, 0x20), EVENT(5, 1),
	 {TAKES_INTERRUPTS, {NV_VMCS_GUEST_ACTIVITY, 1}, {NV_VMCS_ENTRY_LENGTH, 2}}},
	{"halted with INT3", NV_VMCS_ENTRY_INTERRUPTION, 0, EVENT(6, 3), {{NV_VMCS_GUEST_ACTIVITY, 1}, {NV_VMCS_ENTRY_LENGTH, 2}}},
	{"blocking: bit 5", NV_VMCS_GUEST_INTERRUPTIBILITY, NMI_MASKED, 1u << 5, {{0}}},
	{"blocking: bit 31", NV_VMCS_GUEST_INTERRUPTIBILITY, 0, 1u << 31, {{0}}},
	{"behind STI and MOV SS", NV_VMCS_GUEST_INTERRUPTIBILITY, STI, STI | MOV_SS, {TAKES_INTERRUPTS}},
	{"behind STI, IF clear", NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_IF, 2, {{NV_VMCS_GUEST_INTERRUPTIBILITY, STI}}},
	{"SMIs blocked", NV_VMCS_GUEST_INTERRUPTIBILITY, 0, 4, {{0}}},
	{"in an enclave", NV_VMCS_GUEST_INTERRUPTIBILITY, 0, 0x10, {{0}}},
	{"interrupt behind STI", NV_VMCS_GUEST_INTERRUPTIBILITY, 0, STI, {TAKES_INTERRUPTS, INJECTS(0, 0x20)}},
	{"interrupt behind MOV SS", NV_VMCS_GUEST_INTERRUPTIBILITY, 0, MOV_SS, {TAKES_INTERRUPTS, INJECTS(0, 0x20)}},
	{"NMI behind MOV SS", NV_VMCS_GUEST_INTERRUPTIBILITY, STI, MOV_SS, {TAKES_INTERRUPTS, INJECTS(2, 2)}},
	{"NMI masked", NV_VMCS_PIN_CONTROLS, PIN | PIN_NMI, PIN | PIN_NMI | PIN_VIRTUAL_NMI,
	 {{NV_VMCS_GUEST_INTERRUPTIBILITY, NMI_MASKED}, INJECTS(2, 2)}},
	{"traps: bit 4", NV_VMCS_GUEST_PENDING_DEBUG, 0xf, 0x10, {{0}}},
	{"traps: bit 11", NV_VMCS_GUEST_PENDING_DEBUG, 1u << 12, 1u << 11, {{0}}},
	{"traps: bit 13", NV_VMCS_GUEST_PENDING_DEBUG, 1u << 14, 1u << 13, {{0}}},
	{"traps: bit 15", NV_VMCS_GUEST_PENDING_DEBUG, 0, 1u << 15, {{0}}},
	{"traps: bit 17", NV_VMCS_GUEST_PENDING_DEBUG, 0, 1u << 17, {{0}}},
	{"traps: bit 63", NV_VMCS_GUEST_PENDING_DEBUG, 0, 1ull << 63, {{0}}},
	{"traps in a transaction", NV_VMCS_GUEST_PENDING_DEBUG, 0x11000, 0x10000, {{0}}},
	{"traps in a transaction: others", NV_VMCS_GUEST_PENDING_DEBUG, 0x11000, 0x15000, {{0}}},
	{"traps in a transaction behind MOV SS", NV_VMCS_GUEST_INTERRUPTIBILITY, 0, MOV_SS, {{NV_VMCS_GUEST_PENDING_DEBUG, 0x11000}}},
	{"stepping behind STI", NV_VMCS_GUEST_PENDING_DEBUG, DR6_BS, 0,
	 {{NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_IF | RFLAGS_TF}, {NV_VMCS_GUEST_INTERRUPTIBILITY, STI}}},
	{"stepping behind MOV SS", NV_VMCS_GUEST_PENDING_DEBUG, DR6_BS, 0,
	 {{NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_TF}, {NV_VMCS_GUEST_INTERRUPTIBILITY, MOV_SS}}},
	{"stepping and halted", NV_VMCS_GUEST_PENDING_DEBUG, DR6_BS, 0, {{NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_TF}, {NV_VMCS_GUEST_ACTIVITY, 1}}},
	{"stepping by branches", NV_VMCS_GUEST_DEBUGCTL, 2, 0,
	 {{NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_TF}, {NV_VMCS_GUEST_INTERRUPTIBILITY, MOV_SS}}},
	{"not stepping behind MOV SS", NV_VMCS_GUEST_PENDING_DEBUG, 0, DR6_BS, {{NV_VMCS_GUEST_INTERRUPTIBILITY, MOV_SS}}},
};

static const struct row links[] = {
	{"link unaligned", NV_VMCS_LINK_POINTER, ANOTHER, ANOTHER + 8, {{0}}},
	{"link beyond", NV_VMCS_LINK_POINTER, ANOTHER, BEYOND, {{0}}},
	{"link to itself", NV_VMCS_LINK_POINTER, ANOTHER, CURRENT, {{0}}},
	{"link to no VMCS", NV_VMCS_LINK_POINTER, ANOTHER, NO_REGION, {{0}}},
	{"link to a hole", NV_VMCS_LINK_POINTER, ANOTHER, PAGES * PAGE, {{0}}},
};

#define POINTER(number, bit) {"pointer: bit " #bit, NV_VMCS_GUEST_PDPTE0 + 2 * (number), 1ull << (bit), 1 | 1ull << (bit), {GUEST_32}}

static const struct row pointers[] = {
	POINTER(0, 1), POINTER(1, 2), POINTER(2, 5), POINTER(3, 6), POINTER(0, 7), POINTER(1, 8), POINTER(2, 40), POINTER(3, 63),
	{"pointers, of PAE", NV_VMCS_GUEST_CR4, CR4_VMXE, CR4_HERE, {GUEST_32, {NV_VMCS_GUEST_PDPTE0, 3}}},
	{"pointers, not in long mode", NV_VMCS_ENTRY_CONTROLS, ENTRY, ENTRY & ~ENTRY_LONG_MODE, {{NV_VMCS_GUEST_PDPTE0, 3}}},
	{"pointers, of paging", NV_VMCS_GUEST_CR0, 0x31, CR0_PLAIN, {UNRESTRICTED, GUEST_32, {NV_VMCS_GUEST_PDPTE0, 3}}},
};

/* Virtual-8086 mode has rules of its own: each segment's rights, limit and base. */
static void make_virtual_8086(struct nv_virtual_vmcs *to)
{
	make_sound(to);
	set_field(to, NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE);
	set_field(to, NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_VM);
	for (int i = ES; i <= GS; i++) {
		set_field(to, SELECTOR(i), 0x1003 + i);
		set_field(to, BASE(i), (0x1003 + i) << 4);
		set_field(to, LENGTH(i), 0xffff);
		set_field(to, RIGHTS(i), 0xf3);
	}
}

static int with(uint32_t field, uint64_t value)
{
	struct nv_virtual_vmcs one;
	uint64_t told;

	make_virtual_8086(&one);
	set_field(&one, field, value);
	return enter(&one, &told);
}

static void check_virtual_8086(void)
{
	struct nv_virtual_vmcs one;
	uint64_t told;

	CHECK(!with(NV_VMCS_GUEST_RFLAGS, 2 | RFLAGS_VM));
	for (int i = ES; i <= GS; i++) {
		CHECK(with(BASE(i), 0) == BASIC_GUEST_STATE);
		CHECK(with(LENGTH(i), 0xfffff) == BASIC_GUEST_STATE);
		CHECK(with(RIGHTS(i), 0x93) == BASIC_GUEST_STATE);
	}
	CHECK(with(NV_VMCS_ENTRY_CONTROLS, ENTRY) == BASIC_GUEST_STATE);
	make_virtual_8086(&one);
	set_field(&one, NV_VMCS_PRIMARY_CONTROLS, MORE);
	set_field(&one, NV_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_UNRESTRICTED);
	CHECK(!enter(&one, &told));
	set_field(&one, NV_VMCS_GUEST_CR0, 0x30); /* real mode, of which no other rule looks at these segments */
	CHECK(enter(&one, &told) == BASIC_GUEST_STATE);
}

int main(void)
{
	start_rows();
	CHECK_ROWS(registers, BASIC_GUEST_STATE, 0);
	CHECK_ROWS(segments, BASIC_GUEST_STATE, 0);
	CHECK_ROWS(others, BASIC_GUEST_STATE, 0);
	CHECK_ROWS(links, BASIC_GUEST_STATE, 4);
	CHECK_ROWS(pointers, BASIC_GUEST_STATE, 2);
	check_virtual_8086();
	puts("done");
	return 0;
}
