/* The virtual machine control structure (Intel SDM vol. 3, appendix B): encodings of the fields that minivisor uses. */
#ifndef VMCS_H
#define VMCS_H

#include <stdint.h>

enum {
	/* controls */
	VMCS_IO_MAP_A = 0x2000,
	VMCS_IO_MAP_B = 0x2002,
	VMCS_MSR_MAP = 0x2004,
	VMCS_EPT_POINTER = 0x201a,
	VMCS_PIN_CONTROLS = 0x4000,
	VMCS_PRIMARY_CONTROLS = 0x4002,
	VMCS_EXIT_CONTROLS = 0x400c,
	VMCS_ENTRY_CONTROLS = 0x4012,
	VMCS_ENTRY_EVENT = 0x4016,
	VMCS_SECONDARY_CONTROLS = 0x401e,
	VMCS_EXCEPTIONS = 0x4004,
	VMCS_CR3_TARGETS = 0x400a,
	VMCS_EXIT_MSR_STORES = 0x400e,
	VMCS_EXIT_MSR_LOADS = 0x4010,
	VMCS_ENTRY_MSR_LOADS = 0x4014,
	VMCS_CR0_MASK = 0x6000,
	VMCS_CR4_MASK = 0x6002,

	/* what an exit tells */
	VMCS_PHYSICAL_ADDRESS = 0x2400,
	VMCS_INSTRUCTION_ERROR = 0x4400,
	VMCS_EXIT_REASON = 0x4402,
	VMCS_INSTRUCTION_LENGTH = 0x440c,
	VMCS_QUALIFICATION = 0x6400,

	/* the guest's state; ES, CS, SS, DS, FS, GS, LDTR, TR follow each other */
	VMCS_ES = 0x800,
	VMCS_LINK = 0x2800,
	VMCS_DEBUGCTL = 0x2802,
	VMCS_ES_LIMIT = 0x4800,
	VMCS_GDTR_LIMIT = 0x4810,
	VMCS_IDTR_LIMIT = 0x4812,
	VMCS_ES_RIGHTS = 0x4814,
	VMCS_INTERRUPTIBILITY = 0x4824,
	VMCS_ACTIVITY = 0x4826,
	VMCS_SYSENTER_CS = 0x482a,
	VMCS_CR0 = 0x6800,
	VMCS_CR3 = 0x6802,
	VMCS_CR4 = 0x6804,
	VMCS_ES_BASE = 0x6806,
	VMCS_GDTR_BASE = 0x6816,
	VMCS_IDTR_BASE = 0x6818,
	VMCS_DR7 = 0x681a,
	VMCS_RSP = 0x681c,
	VMCS_RIP = 0x681e,
	VMCS_RFLAGS = 0x6820,
	VMCS_PENDING_DEBUG = 0x6822,
	VMCS_SYSENTER_ESP = 0x6824,
	VMCS_SYSENTER_EIP = 0x6826,

	/* our own, after an exit; ES, CS, SS, DS, FS, GS, TR follow each other */
	VMCS_HOST_ES = 0xc00,
	VMCS_HOST_TR = 0xc0c,
	VMCS_HOST_SYSENTER_CS = 0x4c00,
	VMCS_HOST_CR0 = 0x6c00,
	VMCS_HOST_CR3 = 0x6c02,
	VMCS_HOST_CR4 = 0x6c04,
	VMCS_HOST_FS_BASE = 0x6c06,
	VMCS_HOST_GS_BASE = 0x6c08,
	VMCS_HOST_TR_BASE = 0x6c0a,
	VMCS_HOST_GDTR_BASE = 0x6c0c,
	VMCS_HOST_IDTR_BASE = 0x6c0e,
	VMCS_HOST_SYSENTER_ESP = 0x6c10,
	VMCS_HOST_SYSENTER_EIP = 0x6c12,
	VMCS_HOST_RSP = 0x6c14,
	VMCS_HOST_RIP = 0x6c16,
};

/* Segments' numbers in those rows. */
enum { SEGMENT_ES, SEGMENT_CS, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS, SEGMENT_LDTR, SEGMENT_TR };

static inline uint64_t vmread(uint64_t field)
{
	uint64_t value;

	asm volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
	return value;
}

/* Fails for a field that the processor does not have: the entry's own checks tell, as the field then has a wrong value. */
static inline void vmwrite(uint64_t field, uint64_t value)
{
	asm volatile("vmwrite %1, %0" :: "r"(field), "r"(value) : "cc");
}

#endif
