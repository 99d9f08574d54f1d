/* Each rule of VM entry for controls and the host's state, broken alone; see entry_rows.h. */
#include "entry_rows.h"

#define LIST(count, list)                                                                                                \
	{#list " unaligned", list, 0x1000, 0x1008, {{count, 1}}}, {#list " beyond", list, 0x1000, BEYOND, {{count, 1}}}, \
	{#list "'s end beyond", list, BEYOND - 32, BEYOND - 16, {{count, 2}}}, {#list " is looked at", count, 0, 1, {{list, BEYOND}}}

#define EVENT_FIELD NV_VMCS_ENTRY_INTERRUPTION
#define SOFTWARE EVENT(NV_EVENT_SOFTWARE_INTERRUPT, 0x20)
#define OF_TWO {NV_VMCS_ENTRY_LENGTH, 2}

static const struct row controls[] = {
	{"pin: must", NV_VMCS_PIN_CONTROLS, PIN, PIN & ~2u, {{0}}},
	{"pin: may", NV_VMCS_PIN_CONTROLS, PIN | 1, PIN | 1u << 7, {{0}}},
	{"primary: must", NV_VMCS_PRIMARY_CONTROLS, PRIMARY, PRIMARY & ~2u, {{0}}},
	{"primary: may", NV_VMCS_PRIMARY_CONTROLS, PRIMARY | 4, PRIMARY | 1, {{0}}},
	{"secondary: may", NV_VMCS_SECONDARY_CONTROLS, 4, 1, {{NV_VMCS_PRIMARY_CONTROLS, MORE}}},
	{"secondary, if active", NV_VMCS_PRIMARY_CONTROLS, PRIMARY, MORE, {{NV_VMCS_SECONDARY_CONTROLS, 1}}},
	{"CR3 targets", NV_VMCS_CR3_TARGETS, 4, 5, {{0}}},
	{"ports A unaligned", NV_VMCS_IO_BITMAP_A, 0x5000, 0x5800, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_PORT_MAPS}}},
	{"ports A beyond", NV_VMCS_IO_BITMAP_A, 0x5000, BEYOND, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_PORT_MAPS}}},
	{"ports B unaligned", NV_VMCS_IO_BITMAP_B, 0x5000, 0x5001, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_PORT_MAPS}}},
	{"ports B beyond", NV_VMCS_IO_BITMAP_B, 0x5000, BEYOND, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_PORT_MAPS}}},
	{"ports, if used", NV_VMCS_PRIMARY_CONTROLS, PRIMARY, PRIMARY | PRIMARY_PORT_MAPS, {{NV_VMCS_IO_BITMAP_A, 1}}},
	{"MSRs unaligned", NV_VMCS_MSR_BITMAP, 0x5000, 0x5004, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_MSR_MAP}}},
	{"MSRs beyond", NV_VMCS_MSR_BITMAP, 0x5000, BEYOND, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_MSR_MAP}}},
	{"MSRs, if used", NV_VMCS_PRIMARY_CONTROLS, PRIMARY, PRIMARY | PRIMARY_MSR_MAP, {{NV_VMCS_MSR_BITMAP, 1}}},
	{"virtual APIC unaligned", NV_VMCS_VIRTUAL_APIC, 0x5000, 0x5010, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_TPR_SHADOW}}},
	{"virtual APIC beyond", NV_VMCS_VIRTUAL_APIC, 0x5000, BEYOND, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_TPR_SHADOW}}},
	{"virtual APIC, if used", NV_VMCS_PRIMARY_CONTROLS, PRIMARY, PRIMARY | PRIMARY_TPR_SHADOW, {{NV_VMCS_VIRTUAL_APIC, 1}}},
	{"TPR threshold", NV_VMCS_TPR_THRESHOLD, 15, 16, {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_TPR_SHADOW}}},
	{"virtual NMIs", NV_VMCS_PIN_CONTROLS, PIN | PIN_NMI | PIN_VIRTUAL_NMI, PIN | PIN_VIRTUAL_NMI, {{0}}},
	{"NMI window", NV_VMCS_PIN_CONTROLS, PIN | PIN_NMI | PIN_VIRTUAL_NMI, PIN | PIN_NMI,
	 {{NV_VMCS_PRIMARY_CONTROLS, PRIMARY | PRIMARY_NMI_WINDOW}}},
	{"VPID", NV_VMCS_VPID, 1, 0, {SECONDARY(SECONDARY_VPID)}},
	{"VPID, if used", NV_VMCS_SECONDARY_CONTROLS, 0, SECONDARY_VPID, {{NV_VMCS_PRIMARY_CONTROLS, MORE}}},
	{"EPT pointer: type", NV_VMCS_EPT_POINTER, 0x5018, 0x5019, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer: type 7", NV_VMCS_EPT_POINTER, 0x501e, 0x501f, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer: 3 levels", NV_VMCS_EPT_POINTER, 0x501e, 0x5016, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer: 5 levels", NV_VMCS_EPT_POINTER, 0x501e, 0x5026, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer: dirty bits", NV_VMCS_EPT_POINTER, 0x501e, 0x505e, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer: bit 7", NV_VMCS_EPT_POINTER, 0x501e, 0x509e, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer: bit 11", NV_VMCS_EPT_POINTER, 0x501e, 0x581e, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer beyond", NV_VMCS_EPT_POINTER, 0x501e, BEYOND | 0x1e, {SECONDARY(SECONDARY_EPT)}},
	{"EPT pointer, if used", NV_VMCS_SECONDARY_CONTROLS, 0, SECONDARY_EPT, {{NV_VMCS_PRIMARY_CONTROLS, MORE}, {NV_VMCS_EPT_POINTER, 1}}},
	{"unrestricted", NV_VMCS_SECONDARY_CONTROLS, SECONDARY_UNRESTRICTED | SECONDARY_EPT, SECONDARY_UNRESTRICTED,
	 {{NV_VMCS_PRIMARY_CONTROLS, MORE}}},

	{"exit: must", NV_VMCS_EXIT_CONTROLS, EXIT, EXIT & ~1u, {{0}}},
	{"exit: may", NV_VMCS_EXIT_CONTROLS, EXIT | 4, EXIT | 1u << 31, {{0}}},
	{"saved timer", NV_VMCS_PIN_CONTROLS, PIN | PIN_TIMER, PIN, {{NV_VMCS_EXIT_CONTROLS, EXIT | EXIT_SAVES_TIMER}}},
	LIST(NV_VMCS_EXIT_MSR_STORE_COUNT, NV_VMCS_EXIT_MSR_STORES),
	LIST(NV_VMCS_EXIT_MSR_LOAD_COUNT, NV_VMCS_EXIT_MSR_LOADS),

	{"entry: must", NV_VMCS_ENTRY_CONTROLS, ENTRY, ENTRY & ~1u, {{0}}},
	{"entry: may", NV_VMCS_ENTRY_CONTROLS, ENTRY | 4, ENTRY | 1u << 31, {{0}}},
	LIST(NV_VMCS_ENTRY_MSR_LOAD_COUNT, NV_VMCS_ENTRY_MSR_LOADS),
	{"event: bit 12", EVENT_FIELD, SOFTWARE, SOFTWARE | 1u << 12, {OF_TWO}},
	{"event: bit 30", EVENT_FIELD, SOFTWARE, SOFTWARE | 1u << 30, {OF_TWO}},
	{"event, if valid", EVENT_FIELD, 0x7fffffff, 0xffffffff, {{0}}},
	{"event: type 1", EVENT_FIELD, EVENT(0, 0x20), EVENT(1, 0x20), {TAKES_INTERRUPTS}},
	{"event: type 7", EVENT_FIELD, EVENT(6, 0), EVENT(7, 0), {OF_TWO}},
	{"event: NMI", EVENT_FIELD, EVENT(NV_EVENT_NMI, 2), EVENT(NV_EVENT_NMI, 3), {{0}}},
	{"event: exception", EVENT_FIELD, EVENT(NV_EVENT_EXCEPTION, 31), EVENT(NV_EVENT_EXCEPTION, 32), {{0}}},
	{"event: error code's upper half", NV_VMCS_ENTRY_ERROR_CODE, 0xffff, 0x10000,
	 {{EVENT_FIELD, EVENT(NV_EVENT_EXCEPTION, GP) | EVENT_ERROR_CODE}}},
	{"event: error code in real mode", EVENT_FIELD, EVENT(NV_EVENT_EXCEPTION, GP), EVENT(NV_EVENT_EXCEPTION, GP) | EVENT_ERROR_CODE,
	 {REAL_MODE}},
	{"event: error code without real mode", EVENT_FIELD, EVENT(NV_EVENT_EXCEPTION, GP) | EVENT_ERROR_CODE, EVENT(NV_EVENT_EXCEPTION, GP),
	 {UNRESTRICTED}},
	{"event: INT's length", NV_VMCS_ENTRY_LENGTH, 15, 16, {{EVENT_FIELD, EVENT(4, 0x20)}}},
	{"event: INT1's length", NV_VMCS_ENTRY_LENGTH, 15, 16, {{EVENT_FIELD, EVENT(5, 1)}}},
	{"event: INT3's length", NV_VMCS_ENTRY_LENGTH, 15, 16, {{EVENT_FIELD, EVENT(6, 3)}}},
	{"event: no length", NV_VMCS_ENTRY_LENGTH, 1, 0, {{EVENT_FIELD, EVENT(4, 0x20)}}},
	{"event: length of what has one", EVENT_FIELD, EVENT(NV_EVENT_EXCEPTION, UD), EVENT(6, 3), {{NV_VMCS_ENTRY_LENGTH, 16}}},
};

#define LOADS_PAT {NV_VMCS_EXIT_CONTROLS, EXIT | EXIT_LOADS_PAT}
#define LOADS_EFER {NV_VMCS_EXIT_CONTROLS, EXIT | EXIT_LOADS_EFER}
#define EFER_PLAIN (EFER_LME | EFER_LMA)

static const struct row host[] = {
	{"CR0: PE", NV_VMCS_HOST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_PE, {{0}}},
	{"CR0: NE", NV_VMCS_HOST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_NE, {{0}}},
	{"CR0: PG", NV_VMCS_HOST_CR0, CR0_PLAIN, CR0_PLAIN & ~CR0_PG, {{0}}},
	{"CR0's upper half", NV_VMCS_HOST_CR0, CR0_PLAIN, CR0_PLAIN | 1ull << 32, {{0}}},
	{"CR4: VMXE", NV_VMCS_HOST_CR4, CR4_HERE, CR4_PAE, {{0}}},
	{"CR4: reserved", NV_VMCS_HOST_CR4, CR4_HERE | 1, CR4_HERE | 1u << 31, {{0}}},
	{"CR3 beyond", NV_VMCS_HOST_CR3, BEYOND - PAGE, BEYOND, {{0}}},
	{"SYSENTER_ESP", NV_VMCS_HOST_SYSENTER_ESP, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"SYSENTER_EIP", NV_VMCS_HOST_SYSENTER_EIP, ~0ull << 47, UNCANONICAL, {{0}}},
	{"PAT: type 2", NV_VMCS_HOST_PAT, 0x0706050401000000, 2, {LOADS_PAT}},
	{"PAT: type 3", NV_VMCS_HOST_PAT, 0x0706050401000000, 3ull << 56, {LOADS_PAT}},
	{"PAT: type 8", NV_VMCS_HOST_PAT, 7, 8, {LOADS_PAT}},
	{"PAT, if loaded", NV_VMCS_EXIT_CONTROLS, EXIT, EXIT | EXIT_LOADS_PAT, {{NV_VMCS_HOST_PAT, 2}}},
	{"EFER: reserved", NV_VMCS_HOST_EFER, EFER_PLAIN | 1, EFER_PLAIN | 2, {LOADS_EFER}},
	{"EFER: LMA", NV_VMCS_HOST_EFER, EFER_PLAIN, EFER_LME, {LOADS_EFER}},
	{"EFER: LME", NV_VMCS_HOST_EFER, EFER_PLAIN, EFER_LMA, {LOADS_EFER}},
	{"EFER: LME of 32 bits", NV_VMCS_HOST_EFER, 0, EFER_LME, {HOST_32, {NV_VMCS_EXIT_CONTROLS, (EXIT | EXIT_LOADS_EFER) & ~EXIT_HOST_64}}},
	{"EFER, if loaded", NV_VMCS_EXIT_CONTROLS, EXIT, EXIT | EXIT_LOADS_EFER, {{NV_VMCS_HOST_EFER, 2}}},
	{"ES: TI", NV_VMCS_HOST_ES, 0x18, 0x1c, {{0}}},
	{"CS: RPL", NV_VMCS_HOST_CS, 0x10, 0x13, {{0}}},
	{"SS: RPL", NV_VMCS_HOST_SS, 0x18, 0x19, {{0}}},
	{"DS: TI", NV_VMCS_HOST_DS, 0x18, 0x1c, {{0}}},
	{"FS: RPL", NV_VMCS_HOST_FS, 0x18, 0x1a, {{0}}},
	{"GS: TI", NV_VMCS_HOST_GS, 0x18, 0x1c, {{0}}},
	{"TR: TI", NV_VMCS_HOST_TR, 0x28, 0x2c, {{0}}},
	{"CS 0", NV_VMCS_HOST_CS, 0x10, 0, {{0}}},
	{"TR 0", NV_VMCS_HOST_TR, 0x28, 0, {{0}}},
	{"SS 0 of 32 bits", NV_VMCS_HOST_SS, 0x18, 0, {HOST_32}},
	{"FS base", NV_VMCS_HOST_FS_BASE, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"GS base", NV_VMCS_HOST_GS_BASE, ~0ull << 47, UNCANONICAL, {{0}}},
	{"TR base", NV_VMCS_HOST_TR_BASE, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"GDTR base", NV_VMCS_HOST_GDTR_BASE, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"IDTR base", NV_VMCS_HOST_IDTR_BASE, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"a guest of 64 bits above 32", NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE, ENTRY, {HOST_32}},
	{"PCID of 32 bits", NV_VMCS_HOST_CR4, CR4_HERE, CR4_HERE | CR4_PCIDE, {HOST_32}},
	{"CR4: PAE", NV_VMCS_HOST_CR4, CR4_HERE, CR4_VMXE, {{0}}},
	{"RIP", NV_VMCS_HOST_RIP, UNCANONICAL - 1, UNCANONICAL, {{0}}},
	{"RIP of 32 bits", NV_VMCS_HOST_RIP, 0xffffffff, 1ull << 32, {HOST_32}},
};

/* Vectors with an error code, and kinds without. */
static void check_error_codes(void)
{
	static const uint32_t coded = 1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17;

	for (uint64_t vector = 0; vector < 32; vector++) {
		uint64_t event = EVENT(NV_EVENT_EXCEPTION, vector), with = event | EVENT_ERROR_CODE;
		struct row row = {"error code", EVENT_FIELD, event, with, {{0}}};

		if (coded >> vector & 1)
			row = (struct row){"no error code", EVENT_FIELD, with, event, {{0}}};
		check_rows(&row, 1, FAIL_CONTROLS, 0);
	}
	for (uint64_t kind = 0; kind < 7; kind++) {
		uint64_t event = EVENT(kind, kind == NV_EVENT_NMI ? 2 : GP);
		struct row row = {"error code of another kind", EVENT_FIELD, event, event | EVENT_ERROR_CODE, {OF_TWO, TAKES_INTERRUPTS}};

		if (kind != 1 && kind != NV_EVENT_EXCEPTION)
			check_rows(&row, 1, FAIL_CONTROLS, 0);
	}
}

/* Of processors that differ. */
static void check_limits(void)
{
	struct nv_virtual_vmcs one;
	uint64_t told;

	make_sound(&one);
	set_field(&one, EVENT_FIELD, EVENT(6, 3));
	nested.vmx_limits.msr[VMX_MISC] |= 1u << 30;
	CHECK(!enter(&one, &told));
	nested.vmx_limits.msr[VMX_MISC] &= ~(1ull << 30);
	CHECK(enter(&one, &told) == FAIL_CONTROLS);
	/* what does the entry is not as wide as its host */
	make_sound(&one);
	CHECK(nv_nested_vmx_check_block(&nested, &one, 0) == FAIL_HOST_STATE);
	set_field(&one, NV_VMCS_EXIT_CONTROLS, EXIT & ~EXIT_HOST_64);
	set_field(&one, NV_VMCS_ENTRY_CONTROLS, ENTRY & ~ENTRY_LONG_MODE);
	CHECK(nv_nested_vmx_check_block(&nested, &one, 1) == FAIL_HOST_STATE);
	CHECK(!nv_nested_vmx_check_block(&nested, &one, 0));
}

int main(void)
{
	start_rows();
	CHECK_ROWS(controls, FAIL_CONTROLS, 0);
	CHECK_ROWS(host, FAIL_HOST_STATE, 0);
	check_error_codes();
	check_limits();
	puts("done");
	return 0;
}
