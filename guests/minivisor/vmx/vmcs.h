/* The virtual machine control structure (Intel SDM vol. 3, appendix B): encodings of the fields that minivisor uses. Basic exit reasons
 * (appendix C). */
#ifndef VMCS_H
#define VMCS_H

#include <stdbool.h>
#include <stdint.h>

enum {
	/* controls */
	VMCS_VPID = 0x0000,
	VMCS_EXIT_MSR_STORE_LIST = 0x2006,
	VMCS_EXIT_MSR_LOAD_LIST = 0x2008,
	VMCS_ENTRY_MSR_LOAD_LIST = 0x200a,
	VMCS_IO_MAP_A = 0x2000,
	VMCS_IO_MAP_B = 0x2002,
	VMCS_MSR_MAP = 0x2004,
	VMCS_TSC_OFFSET = 0x2010,
	VMCS_EPT_POINTER = 0x201a,
	VMCS_XSS_BITMAP = 0x202c,
	VMCS_PIN_CONTROLS = 0x4000,
	VMCS_PRIMARY_CONTROLS = 0x4002,
	VMCS_EXCEPTIONS = 0x4004,
	VMCS_PAGE_FAULT_MASK = 0x4006,
	VMCS_PAGE_FAULT_MATCH = 0x4008,
	VMCS_CR3_TARGETS = 0x400a,
	VMCS_EXIT_CONTROLS = 0x400c,
	VMCS_EXIT_MSR_STORES = 0x400e,
	VMCS_EXIT_MSR_LOADS = 0x4010,
	VMCS_ENTRY_CONTROLS = 0x4012,
	VMCS_ENTRY_MSR_LOADS = 0x4014,
	VMCS_ENTRY_EVENT = 0x4016,
	VMCS_ENTRY_ERROR_CODE = 0x4018,
	VMCS_ENTRY_LENGTH = 0x401a,
	VMCS_SECONDARY_CONTROLS = 0x401e,
	VMCS_CR0_MASK = 0x6000,
	VMCS_CR4_MASK = 0x6002,
	VMCS_CR0_SHADOW = 0x6004,
	VMCS_CR4_SHADOW = 0x6006,

	/* what an exit tells */
	VMCS_PHYSICAL_ADDRESS = 0x2400,
	VMCS_INSTRUCTION_ERROR = 0x4400,
	VMCS_EXIT_REASON = 0x4402,
	VMCS_EXIT_EVENT = 0x4404,
	VMCS_EXIT_ERROR_CODE = 0x4406,
	VMCS_VECTORING = 0x4408,
	VMCS_VECTORING_ERROR_CODE = 0x440a,
	VMCS_INSTRUCTION_LENGTH = 0x440c,
	VMCS_INSTRUCTION = 0x440e,
	VMCS_QUALIFICATION = 0x6400,
	VMCS_LINEAR_ADDRESS = 0x640a,

	/* the guest's state; ES, CS, SS, DS, FS, GS, LDTR, TR follow each other */
	VMCS_ES = 0x800,
	VMCS_LINK = 0x2800,
	VMCS_DEBUGCTL = 0x2802,
	VMCS_PDPTE0 = 0x280a,
	VMCS_ES_LIMIT = 0x4800,
	VMCS_GDTR_LIMIT = 0x4810,
	VMCS_IDTR_LIMIT = 0x4812,
	VMCS_ES_RIGHTS = 0x4814,
	VMCS_INTERRUPTIBILITY = 0x4824,
	VMCS_ACTIVITY = 0x4826,
	VMCS_SYSENTER_CS = 0x482a,
	VMCS_TIMER = 0x482e,
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

/* Segments' numbers in those rows, and access rights. */
enum { SEGMENT_ES, SEGMENT_CS, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS, SEGMENT_LDTR, SEGMENT_TR };
enum { RIGHTS_CODE_64 = 0xa09b, RIGHTS_DATA = 0xc093, RIGHTS_BUSY_TSS = 0x8b, RIGHTS_UNUSABLE = 0x10000 };

/* Controls (25.6 to 25.8). */
#define PIN_VIRTUAL_NMI (1u << 5)
#define PIN_TIMER (1u << 6)
#define PRIMARY_TSC_OFFSET (1u << 3)
#define PRIMARY_ALL_PORTS (1u << 24)
#define PRIMARY_IO_MAPS (1u << 25)
#define PRIMARY_MSR_MAPS (1u << 28)
#define PRIMARY_SECONDARY (1u << 31)
#define SECONDARY_EPT (1u << 1)
#define SECONDARY_VPID (1u << 5)
#define SECONDARY_UNRESTRICTED (1u << 7)
#define EXIT_SAVES_DEBUG (1u << 2)
#define EXIT_TO_64_BIT (1u << 9)
#define EXIT_ACKNOWLEDGES (1u << 15)
#define EXIT_SAVES_TIMER (1u << 22)
#define ENTRY_LOADS_DEBUG (1u << 2)
#define ENTRY_TO_64_BIT (1u << 9)
#define EPT_WRITE_BACK_4_LEVELS 0x1e

/* Basic exit reasons. */
enum {
	CODE_EXCEPTION = 0,
	CODE_TRIPLE_FAULT = 2,
	CODE_CPUID = 10,
	CODE_VMCALL = 18,
	CODE_VMCLEAR = 19,
	CODE_VMLAUNCH = 20,
	CODE_VMPTRLD = 21,
	CODE_VMPTRST = 22,
	CODE_VMREAD = 23,
	CODE_VMRESUME = 24,
	CODE_VMWRITE = 25,
	CODE_VMXOFF = 26,
	CODE_VMXON = 27,
	CODE_IO = 30,
	CODE_RDMSR = 31,
	CODE_WRMSR = 32,
	CODE_EPT_VIOLATION = 48,
	CODE_EPT_MISCONFIGURATION = 49,
	CODE_INVEPT = 50,
	CODE_TIMER = 52,
	CODE_INVVPID = 53,
};
#define CODE_ENTRY_FAILED (1u << 31)

/* The exit qualification of CODE_IO (table 28-5). */
#define IO_SIZE(qualification) ((uint8_t)(((qualification) & 7) + 1))
#define IO_IN (1 << 3)
#define IO_STRING (1 << 4)
#define IO_PORT(qualification) ((uint16_t)((qualification) >> 16))

/* Interruptibility, and events (25.4.2, 25.8.3). */
#define SHADOW_MOV_SS 2ul
#define INTERRUPT_SHADOW 3ul /* by STI, by MOV SS */
#define NMI_MASKED 8ul
#define EVENT_VALID (1u << 31)
#define EVENT_ERROR_CODE (1u << 11)
#define EVENT_KIND(event) ((event) >> 8 & 7)
#define EVENT_FIELDS 0xfffu
enum { KIND_NMI = 2 };
#define VECTOR_DEBUG 1
#define DR6_CAUSES 0xfull
#define INJECT_DEBUG (EVENT_VALID | 3 << 8 | VECTOR_DEBUG)
#define INJECT_UNDEFINED (EVENT_VALID | 3 << 8 | 6)
#define INJECT_STACK_FAULT (EVENT_VALID | EVENT_ERROR_CODE | 3 << 8 | 12)
#define INJECT_PROTECTION (EVENT_VALID | EVENT_ERROR_CODE | 3 << 8 | 13)
#define INJECT_PAGE_FAULT (EVENT_VALID | EVENT_ERROR_CODE | 3 << 8 | 14)

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

static inline void vmwrite_segment(unsigned int number, uint64_t selector, uint64_t base, uint64_t limit, uint64_t rights)
{
	vmwrite(VMCS_ES + 2 * number, selector);
	vmwrite(VMCS_ES_BASE + 2 * number, base);
	vmwrite(VMCS_ES_LIMIT + 2 * number, limit);
	vmwrite(VMCS_ES_RIGHTS + 2 * number, rights);
}

/* The guest takes an exception that has an error code. */
static inline void vmwrite_event(uint32_t event, uint64_t error)
{
	vmwrite(VMCS_ENTRY_EVENT, event);
	vmwrite(VMCS_ENTRY_ERROR_CODE, error);
}

static inline bool is_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

#endif
