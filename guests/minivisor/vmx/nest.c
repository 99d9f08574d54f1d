#include "nest.h"
#include "memory.h"
#include "minivisor.h"
#include "nest_entry.h"
#include "nest_instructions.h"
#include "nest_msrs.h"
#include "nest_paging.h"
#include "vmcs.h"

/* Reads of low MSRs are at the map's beginning, writes in its third KiB. */
#define LOW_WRITES 2048

void nest_intercept_msrs(uint8_t *map)
{
	for (unsigned int i = MSR_VMX_FIRST; i <= MSR_VMX_LAST; i++) {
		map[i / 8] |= (uint8_t)(1 << i % 8);
		map[LOW_WRITES + i / 8] |= (uint8_t)(1 << i % 8);
	}
}

/* What was being delivered when minivisor filled a table comes again. */
static void deliver_again(void)
{
	uint64_t event = vmread(VMCS_VECTORING);

	if (!(event & EVENT_VALID))
		return;
	vmwrite(VMCS_ENTRY_EVENT, event & (EVENT_VALID | EVENT_FIELDS));
	if (event & EVENT_ERROR_CODE)
		vmwrite(VMCS_ENTRY_ERROR_CODE, vmread(VMCS_VECTORING_ERROR_CODE));
	vmwrite(VMCS_ENTRY_LENGTH, vmread(VMCS_INSTRUCTION_LENGTH));
}

/* The guest's EPT may say more than ours has of it. */
static bool violation(struct exit *exit)
{
	uint64_t qualification = vmread(VMCS_QUALIFICATION);

	switch (nest_paging_fill(&exit->address, &qualification)) {
	case NEST_FILLED:
		deliver_again();
		return true;
	case NEST_REFUSED:
		nest_leave(CODE_EPT_VIOLATION, qualification);
		return true;
	case NEST_MISCONFIGURED:
		nest_leave(CODE_EPT_MISCONFIGURATION, 0);
		return true;
	default:
		return false;
	}
}

/* Whether the exit of the guest's guest is the guest's, and done. */
static bool is_guests(struct exit *exit)
{
	uint64_t qualification;

	if (exit->reason == EXIT_REFUSED) {
		nest_entry_fails(nest_refused());
		return true;
	}
	if (exit->code == CODE_EPT_VIOLATION)
		return violation(exit);
	qualification = vmread(VMCS_QUALIFICATION);
	if (!nest_wants(exit->code, qualification))
		return false;
	nest_leave(exit->code, qualification);
	return true;
}

/* The capability MSRs cannot be written, and those beyond the map are not there: #GP. */
static void serve_msr(bool write)
{
	uint64_t value;

	if (write || !nest_capability((uint32_t)guest_registers.rcx, &value)) {
		vmwrite_event(INJECT_PROTECTION, 0);
		return;
	}
	guest_registers.rax = (uint32_t)value;
	guest_registers.rdx = value >> 32;
	vendor_skip();
}

bool nest_exit(struct exit *exit)
{
	if (running == &merged && is_guests(exit))
		return true;
	if (exit->reason == EXIT_REFUSED || exit->code == CODE_EPT_VIOLATION)
		return false;
	if (exit->code == CODE_RDMSR || exit->code == CODE_WRMSR) {
		serve_msr(exit->code == CODE_WRMSR);
		return true;
	}
	return nest_instruction(exit->code);
}
