/* What VMX instructions, entries and exits read of a level's memory, and what they tell; see vmx_steps.h. */
#include "vmx_steps.h"

#define CS_32 0xc09bu
#define EXPANDS_DOWN 4u

static void put(uint32_t encoding, uint64_t value)
{
	set_field(processor(), encoding, value);
}

static void in_32_bits(void)
{
	put(NV_VMCS_GUEST_CS_RIGHTS, CS_32);
	put(NV_VMCS_GUEST_EFER, 0);
	put(NV_VMCS_GUEST_CR0, CR0_PLAIN & ~CR0_PG);
}

/* In 64-bit code a whole operand is at canonical addresses, in other code in its segment, which allows the access. */
static void check_segments(void)
{
	static const struct {
		uint64_t rights, limit, operand;
		int stores, loads;
	} ways[] = {
		{DATA, 0xffffffff, 0xa000, 0, 0},
		{DATA, 0xa007, 0xa000, 0, 0},
		{DATA, 0xa006, 0xa000, FAULT_OF(GP), FAULT_OF(GP)},
		{DATA & ~2u, 0xffffffff, 0xa000, FAULT_OF(GP), 0},
		{CS_32, 0xffffffff, 0xa000, FAULT_OF(GP), 0},
		{CS_32 & ~2u, 0xffffffff, 0xa000, FAULT_OF(GP), FAULT_OF(GP)},
		{DATA | EXPANDS_DOWN, 0x9fff, 0xa000, 0, 0},
		{DATA | EXPANDS_DOWN, 0xa000, 0xa000, FAULT_OF(GP), FAULT_OF(GP)},
		{(DATA | EXPANDS_DOWN) & ~0x4000u, 0x9fff, 0xfff9, FAULT_OF(GP), FAULT_OF(GP)},
		{0x10000, 0xffffffff, 0xa000, FAULT_OF(GP), FAULT_OF(GP)},
	};

	begin_steps();
	begin_hypervisor(VMXON_PAGE, VMCS_PAGE);
	CHECK(instruct(BASIC_VMPTRST, 0x00007ffffffffffc) == FAULT_OF(GP));
	CHECK(instruct(BASIC_VMPTRLD, 0x00007ffffffffff9) == FAULT_OF(GP));
	CHECK(instruct(BASIC_VMPTRST, 0xfffffffffffffff8) == FAULT_OF(PF) && fault_address == 0xfffffffffffffff8);
	CHECK(instruct(BASIC_VMPTRST, ELSEWHERE + 2 * PAGE - 4) == FAULT_OF(PF) && fault_address == ELSEWHERE + 2 * PAGE);
	in_32_bits();
	for (unsigned int i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		put(NV_VMCS_GUEST_ES_RIGHTS + 2 * 3, ways[i].rights);
		put(NV_VMCS_GUEST_ES_LIMIT + 2 * 3, ways[i].limit);
		table(0xa)[0] = VMCS_PAGE * PAGE;
		CHECK(instruct(BASIC_VMPTRLD, ways[i].operand) == ways[i].loads);
		CHECK(instruct(BASIC_VMPTRST, ways[i].operand) == ways[i].stores);
	}
}

/* The type comes before the descriptor; of it a register's lower half, in code that is not 64-bit code. */
static void check_types(void)
{
	begin_steps();
	begin_hypervisor(VMXON_PAGE, VMCS_PAGE);
	for (int i = 0; i < 2; i++) {
		uint32_t basic = i ? BASIC_INVVPID : BASIC_INVEPT;

		mailbox.regs[REGISTER_TYPE] = i ? 4 : 3;
		CHECK(instruct(basic, 1ull << 40) == 0x40 && field_of(region(VMCS_PAGE), NV_VMCS_INSTRUCTION_ERROR) == FAIL_INVALIDATION);
		mailbox.regs[REGISTER_TYPE] = 2;
		CHECK(instruct(basic, 1ull << 40) == FAULT_OF(PF));
		mailbox.regs[REGISTER_TYPE] = 1ull << 32 | 2;
		CHECK(instruct(basic, OPERANDS * PAGE) == 0x40);
	}
	in_32_bits();
	table(OPERANDS)[0] = 0;
	CHECK(instruct(BASIC_INVEPT, OPERANDS * PAGE) == 0 && instruct(BASIC_INVVPID, OPERANDS * PAGE) == 0);
}

/* VMCALL alone exits in code where no VMX instruction is defined. */
static void check_vmcall(void)
{
	begin_steps();
	begin_hypervisor(VMXON_PAGE, VMCS_PAGE);
	CHECK(instruct(BASIC_VMCALL, 0) == 0x40 && field_of(region(VMCS_PAGE), NV_VMCS_INSTRUCTION_ERROR) == FAIL_VMCALL);
	put(NV_VMCS_GUEST_SS_RIGHTS, USER_DATA);
	CHECK(instruct(BASIC_VMCALL, 0) == FAULT_OF(GP));
	put(NV_VMCS_GUEST_CS_RIGHTS, CS_32 | 0x60);
	CHECK(instruct(BASIC_VMCALL, 0) == UNDEFINED);
	put(NV_VMCS_GUEST_EFER, 0);
	CHECK(instruct(BASIC_VMCALL, 0) == FAULT_OF(GP));
	mailbox.regs[NV_REG_RFLAGS] |= RFLAGS_VM;
	CHECK(instruct(BASIC_VMCALL, 0) == UNDEFINED);
}

/* Its guest's instruction needs an address of the guest's that machine 0 does not give: it hears of that, and of nothing else. */
static void check_withheld(uint64_t at, uint64_t entry, uint32_t basic, uint64_t address, uint64_t access)
{
	begin_steps();
	begin_guest(1);
	begin_hypervisor(VMXON_PAGE + 32, VMCS_PAGE + 32);
	table(EPT_TABLES + 3)[at / PAGE] = entry;
	nv_nested_drop(&nested, nested.active); /* as INVEPT does */
	CHECK(instruct(basic, ELSEWHERE) == ELSEWHERE_NOW && !nested.active->depth);
	CHECK(told(NV_VMCS_EXIT_REASON) == BASIC_EPT_VIOLATION && told(NV_VMCS_GUEST_PHYSICAL_ADDRESS) == address);
	CHECK((told(NV_VMCS_EXIT_QUALIFICATION) & 7) == access);
	table(EPT_TABLES + 3)[at / PAGE] = at | 0x37;
	CHECK(instruct(BASIC_VMRESUME, 0) == ELSEWHERE_NOW && nested.active->depth == 1);
	nv_nested_drop(&nested, nested.active);
	table(OPERANDS)[0] = (VMCS_PAGE + 32) * PAGE;
	CHECK(instruct(basic, ELSEWHERE) == 0);
}

/* Of an exit told: each kind of event that was being delivered. */
static void check_vectoring(void)
{
	static const uint64_t events[] = {EVENT(0, 0x20), EVENT(2, 2), EVENT(3, UD), EVENT(3, GP) | EVENT_ERROR_CODE, EVENT(4, 0x80), EVENT(5, 1),
					  EVENT(6, 3)};

	begin_steps();
	begin_guest(1);
	for (unsigned int i = 0; i < sizeof events / sizeof events[0]; i++) {
		block->exit[GOT_VECTORING].value = events[i] | EVENT_UNBLOCKED;
		block->exit[GOT_VECTORING_ERROR].value = 0x5a8 + i;
		block->exit[GOT_INTERRUPTION].value = EVENT(3, PF) | EVENT_ERROR_CODE;
		block->exit[GOT_INTERRUPTION_ERROR].value = 2;
		stop_for(BASIC_EXCEPTION);
		CHECK(told(NV_VMCS_IDT_VECTORING) == events[i] && told(NV_VMCS_IDT_VECTORING_ERROR_CODE) == 0x5a8 + i);
		CHECK(told(NV_VMCS_EXIT_INTERRUPTION) == (EVENT(3, PF) | EVENT_ERROR_CODE) && told(NV_VMCS_EXIT_ERROR_CODE) == 2);
		CHECK(instruct(BASIC_VMRESUME, 0) == ELSEWHERE_NOW);
	}
}

/* A hypervisor with PAE paging has its page-directory pointers loaded by exits: 32-bit code. */
static void check_host_pointers(void)
{
	uint64_t *pointers = table(LISTS) + 4;
	struct nv_virtual_vmcs *of = region(VMCS_PAGE);

	for (int wrong = 0; wrong < 2; wrong++)
		for (int fails = 0; fails < 2; fails++) {
			begin_steps();
			begin_hypervisor(VMXON_PAGE, VMCS_PAGE);
			in_32_bits();
			set_field(of, NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE);
			set_field(of, NV_VMCS_EXIT_CONTROLS, EXIT & ~EXIT_HOST_64);
			set_field(of, NV_VMCS_GUEST_CS_RIGHTS, CS_32);
			set_field(of, NV_VMCS_GUEST_CR3, LISTS * PAGE);
			set_field(of, NV_VMCS_HOST_CR3, LISTS * PAGE + 32);
			set_field(of, NV_VMCS_GUEST_RFLAGS, fails ? 0 : 2);
			of->abort = 0x77; /* which the memory happens to have */
			table(LISTS)[1] = 0x5001;
			pointers[3] = wrong ? 3 : 0x6001;
			if (fails) {
				CHECK(instruct(BASIC_VMLAUNCH, 0) == 0 && told(NV_VMCS_EXIT_REASON) == (BASIC_GUEST_STATE | ENTRY_FAILED));
			} else {
				CHECK(instruct(BASIC_VMLAUNCH, 0) == ELSEWHERE_NOW);
				CHECK(field_of(processor(), NV_VMCS_GUEST_PDPTE0 + 2) == 0x5001);
				stop_for(BASIC_CPUID);
			}
			CHECK(!nested.active->depth && of->abort == (wrong ? ABORT_POINTERS : 0x77u));
			CHECK(vmx.synthetic == (wrong ? NV_REASON_SHUTDOWN : 0));
			CHECK(wrong || field_of(processor(), NV_VMCS_GUEST_PDPTE0 + 6) == 0x6001);
		}
}

/* An entry that fails goes through the list of its exit, too; machine 0 does not give its guest that list. */
static void check_withheld_list(void)
{
	struct nv_virtual_vmcs *of = region(VMCS_PAGE + 32);

	begin_steps();
	begin_guest(1);
	begin_hypervisor(VMXON_PAGE + 32, VMCS_PAGE + 32);
	set_field(of, NV_VMCS_GUEST_RFLAGS, 0);
	set_field(of, NV_VMCS_EXIT_MSR_LOADS, LISTS * PAGE);
	set_field(of, NV_VMCS_EXIT_MSR_LOAD_COUNT, 1);
	table(LISTS)[0] = 0xc0000081;
	table(EPT_TABLES + 3)[LISTS] = 0;
	nv_nested_drop(&nested, nested.active);
	CHECK(instruct(BASIC_VMLAUNCH, 0) == ELSEWHERE_NOW && !nested.active->depth && !vmx.synthetic);
	CHECK(told(NV_VMCS_EXIT_REASON) == BASIC_EPT_VIOLATION && told(NV_VMCS_GUEST_PHYSICAL_ADDRESS) == LISTS * PAGE);
}

/* What WRMSR would refuse ends an exit that loads it. */
static void check_abort(void)
{
	static const uint64_t lists[][2] = {{0x175, UNCANONICAL}, {0x176, UNCANONICAL}, {0x1d9, 1 << 5}, {0xc0000100, 0}, {1ull << 32 | 0x174, 0}};
	struct nv_virtual_vmcs *of = region(VMCS_PAGE);

	for (unsigned int i = 0; i < sizeof lists / sizeof lists[0]; i++) {
		begin_steps();
		begin_guest(0);
		set_field(&nested.machines->vmx.block, NV_VMCS_EXIT_MSR_LOADS, LISTS * PAGE);
		set_field(&nested.machines->vmx.block, NV_VMCS_EXIT_MSR_LOAD_COUNT, 1);
		memcpy(table(LISTS), lists[i], 16);
		stop_for(BASIC_CPUID);
		CHECK(!nested.active->depth && of->abort == ABORT_LOADING && vmx.synthetic == NV_REASON_SHUTDOWN);
	}
}

/* Bits that an entry which leads to a table does not have (29.3.2), at each level of EPT. */
static void check_misconfigured(void)
{
	for (uint64_t depth = 0; depth < 3; depth++)
		for (int bit = 3; bit <= (depth ? 6 : 7); bit++) {
			begin_steps();
			begin_guest(1);
			begin_hypervisor(VMXON_PAGE + 32, VMCS_PAGE + 32);
			table(EPT_TABLES + depth)[0] |= 1ull << bit;
			nv_nested_drop(&nested, nested.active);
			CHECK(instruct(BASIC_VMPTRLD, OPERANDS * PAGE) == ELSEWHERE_NOW && !nested.active->depth);
			CHECK(told(NV_VMCS_EXIT_REASON) == BASIC_EPT_MISCONFIGURATION);
		}
}

/* XSAVES exits for components that the bitmap has, as they are in IA32_XSS and the instruction asks for them; by the control alone. */
static void check_xsaves(void)
{
	struct nv_vmx_controls wanted = {0};
	struct nv_virtual_vmcs *of = region(VMCS_PAGE);

	for (int enabled = 0; enabled < 2; enabled++) {
		begin_steps();
		begin_hypervisor(VMXON_PAGE, VMCS_PAGE);
		nested.vmx_limits.msr[VMX_SECONDARY] |= SECONDARY_XSAVES << 32;
		set_field(of, NV_VMCS_PRIMARY_CONTROLS, MORE);
		set_field(of, NV_VMCS_SECONDARY_CONTROLS, enabled ? SECONDARY_XSAVES : 0);
		set_field(of, NV_VMCS_XSS_BITMAP, 0x300);
		CHECK(instruct(BASIC_VMLAUNCH, 0) == ELSEWHERE_NOW);
		nv_nested_vmx_compose(&nested, &wanted);
		CHECK(wanted.xss == (enabled ? 0x300 : 0));
		block->reason = BASIC_XSAVES;
		for (msr_value = 0; msr_value <= 0x500; msr_value += 0x100)
			for (uint64_t asked = 0; asked <= 0x400; asked += 0x100) {
				mailbox.regs[NV_REG_RAX] = 1ull << 32 | asked;
				mailbox.regs[NV_REG_RDX] = 0;
				CHECK(nv_nested_vmx_wants(&nested, nested.machines) == (enabled && msr_value & asked & 0x300));
			}
	}
	nv_nested_vmx_reflect(&nested, nested.machines, &(struct nv_nested_vmx_exit){.reason = BASIC_XSAVES, .heard = 1});
	wanted = (struct nv_vmx_controls){0};
	nv_nested_vmx_compose(&nested, &wanted);
	CHECK(!nested.active->depth && !wanted.xss);
}

int main(void)
{
	limit_time(20);
	prepare();
	check_segments();
	check_types();
	check_vmcall();
	/* the operand's page, the table that leads there, and that table's accessed or dirty bit */
	check_withheld(OPERANDS * PAGE, 0, BASIC_VMPTRLD, OPERANDS * PAGE, 1);
	check_withheld(OPERANDS * PAGE, OPERANDS * PAGE | 0x35, BASIC_VMPTRST, OPERANDS * PAGE, 2);
	check_withheld(TABLE_ELSEWHERE, 0, BASIC_VMPTRLD, TABLE_ELSEWHERE, 1);
	check_withheld(TABLE_ELSEWHERE, TABLE_ELSEWHERE | 0x35, BASIC_VMPTRLD, TABLE_ELSEWHERE, 2);
	check_withheld(TABLE_ELSEWHERE, TABLE_ELSEWHERE | 0x35, BASIC_VMPTRST, TABLE_ELSEWHERE, 2);
	check_withheld_list();
	check_vectoring();
	check_host_pointers();
	check_abort();
	check_misconfigured();
	check_xsaves();
	puts("done");
	return 0;
}
