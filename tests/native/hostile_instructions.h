/* VMX instructions of a level that does what it likes, and the exits by which L0 hears of them. */
#ifndef HOSTILE_INSTRUCTIONS_H
#define HOSTILE_INSTRUCTIONS_H

#include "hostile_vmcs.h"
#include "tables_model_ept.h"

static uint64_t blocks_run;
static const struct nv_machine *invalidates; /* this machine's INVEPT was its last instruction; NULL: it was not */
static uint64_t invalidated;                /* the EPT pointer that it was for; NV_NESTED_UNPAGED: all */
static uint64_t contexts;                   /* INVEPTs of one guest's tables that succeeded */
static uint64_t behind;                     /* RIP, when it has succeeded */

static inline void put(uint32_t encoding, uint64_t value)
{
	nv_virtual_vmcs_write(&vmcs, encoding, value);
}

/* An exit: what it tells is in the VMCS, and the switcher reads what L0 wants of it. */
static inline void stop_with(uint64_t reason)
{
	uint64_t basic = reason & 0xffff, count = block->depth[basic % NV_VMX_BASIC_REASONS];

	block->reason = reason;
	if (!(reason & ENTRY_FAILED))
		block->launched = 1;
	CHECK(count <= NV_VMX_EXIT_READS);
	for (uint64_t i = 0; i < count; i++)
		block->exit[i].value = nv_virtual_vmcs_read(&vmcs, block->exit[i].encoding);
	ring(NV_SWITCHER_RINGING);
}

/* Where an operand is: mostly in OPERANDS; where memory ends; or anywhere. */
static inline uint64_t operand_address(void)
{
	switch (below(16)) {
	case 0:
		return any();
	case 1:
		return address() + below(PAGE);
	case 2 ... 3:
		return page_of(PAGES - 2, 4) - below(20);
	default:
		return OPERANDS * PAGE + 8 * below(512);
	}
}

static inline void tell_operand(void)
{
	uint64_t in_register = once_in(3) ? 1ull << 10 : 0;

	put(NV_VMCS_EXIT_INSTRUCTION, once_in(16) ? any() : in_register | 2 << 7 | 3 << 15 | 1u << 22 | 1u << 27 | below(16) << 3 | below(16) << 28);
	put(NV_VMCS_EXIT_QUALIFICATION, operand_address());
}

static inline uint32_t random_field(void)
{
	return once_in(8) ? any() : encoding_of(below(NV_VIRTUAL_VMCS_FIELDS)) | once_in(8);
}

/* As far as the processor can tell: where the machine's memory is the level's. */
static inline int is_launched(const struct nv_nested_vmx_machine *machine)
{
	return machine->current < PAGES * PAGE && ((struct nv_virtual_vmcs *)(level + machine->current))->launched;
}

/* Of one of the machine's guests, if it has any and the operand's place is known; or of all. */
static inline void stop_for_invept(void)
{
	uint64_t type = field(NV_VMCS_EXIT_INSTRUCTION) >> 28 & 15, at = field(NV_VMCS_EXIT_QUALIFICATION) - OPERANDS * PAGE;
	const struct nv_nested_tables *one = &nested.tables[1 + below(NV_NESTED_SETS - 1)];

	if (once_in(2)) {
		write_guest_tables();
		model_note(&ept_format);
		mailbox.regs[type] = 2;
	}
	invalidated = NV_NESTED_UNPAGED;
	if (once_in(2) && at < PAGE - 8 && one->machine && one->machine->parent == nested.active && one->root.address != NV_NESTED_UNPAGED) {
		put(NV_VMCS_EXIT_INSTRUCTION, 2 << 7 | 3 << 15 | 1u << 22 | 1u << 27 | type << 28);
		mailbox.regs[type] = 1;
		invalidated = ((uint64_t *)(level + OPERANDS * PAGE))[at / 8] = one->root.address;
	} else if (mailbox.regs[type] != 2) {
		return;
	}
	invalidates = nested.active;
	behind = field(NV_VMCS_GUEST_RIP) + 3;
}

/* A VMX instruction: most of the time the one that comes next on the way to a guest. */
static inline void stop_for_vmx(void)
{
	static const uint32_t any_of[] = {BASIC_VMCLEAR, BASIC_VMPTRLD, BASIC_VMPTRST, BASIC_VMREAD, BASIC_VMWRITE, BASIC_VMREAD, BASIC_VMWRITE,
					  BASIC_INVEPT, BASIC_INVVPID, BASIC_VMXON, BASIC_VMCALL, BASIC_VMLAUNCH, BASIC_VMRESUME};
	const struct nv_nested_vmx_machine *own = &nested.active->vmx;
	uint32_t basic = any_of[below(sizeof any_of / sizeof any_of[0])];

	if (once_in(128))
		basic = BASIC_VMXOFF;
	else if (!own->on && !once_in(4))
		basic = BASIC_VMXON;
	else if (own->on && own->current == NO_VMCS && !once_in(4))
		basic = BASIC_VMPTRLD;
	else if (own->on && once_in(16))
		basic = BASIC_INVEPT;
	else if (own->on && !once_in(4))
		basic = is_launched(own) ^ once_in(16) ? BASIC_VMRESUME : BASIC_VMLAUNCH;
	if (basic == BASIC_VMLAUNCH || basic == BASIC_VMRESUME)
		blocks_run++;
	tell_operand();
	for (int i = 0; i < 16; i++)
		if (once_in(4))
			mailbox.regs[i] = basic == BASIC_INVEPT || basic == BASIC_INVVPID ? below(4) : random_field();
	put(NV_VMCS_EXIT_LENGTH, 3);
	if (basic == BASIC_INVEPT)
		stop_for_invept();
	stop_with(basic);
}

/* An INVEPT that has succeeded. */
static inline void note_invalidation(void)
{
	int succeeded = invalidates && nested.active == invalidates && field(NV_VMCS_GUEST_RIP) == behind && !(mailbox.regs[NV_REG_RFLAGS] & 0x41);

	for (unsigned int i = 1; succeeded && i < NV_NESTED_SETS; i++) {
		const struct nv_machine *machine = nested.tables[i].machine;

		if (machine && machine->parent == invalidates && (invalidated == NV_NESTED_UNPAGED || invalidated == nested.tables[i].root.address))
			model_flush_machine(machine);
	}
	contexts += succeeded && invalidated != NV_NESTED_UNPAGED;
	invalidates = NULL;
}

#endif
