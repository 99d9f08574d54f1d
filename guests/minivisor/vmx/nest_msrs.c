#include "nest_msrs.h"
#include "host.h"
#include "msr.h"
#include "vmcs.h"

#define MSR_VMX_PIN 0x481
#define MSR_VMX_ENTRY 0x484
#define MSR_VMX_MISC 0x485
#define MSR_VMX_VMFUNC 0x491

/* Controls by which the guest's guest exits, and that we have otherwise. Debug controls are always moved. */
#define PIN_OFFERED (1u << 0 | 1u << 3 | 1u << 5)       /* interrupts, NMIs, virtual NMIs */
/* windows, TSC offset, HLT, INVLPG, MWAIT, RDPMC, RDTSC, CR3, CR8, DR, ports, MSRs, MONITOR, PAUSE */
#define PRIMARY_OFFERED 0xf3d99e8cu
/* EPT, descriptor tables, RDTSCP, WBINVD, unrestricted guest, RDRAND, INVPCID, RDSEED, XSAVES */
#define SECONDARY_OFFERED (SECONDARY_EPT | 1u << 2 | 1u << 3 | 1u << 6 | SECONDARY_UNRESTRICTED | 1u << 11 | 1u << 12 | 1u << 16 | 1u << 20)
#define EXIT_OFFERED (EXIT_SAVES_DEBUG | EXIT_TO_64_BIT | EXIT_ACKNOWLEDGES)
#define ENTRY_OFFERED (ENTRY_LOADS_DEBUG | ENTRY_TO_64_BIT)

#define BASIC_KEPT (0xffffffffull | 0x1fffull << 32 | 15ull << 50 | 1ull << 55) /* but what INS and OUTS tell */
#define MISC_KEPT (1 << 5 | 7 << 6 | 1 << 30) /* exits store EFER.LMA, activity states, software exceptions of length 0 */
/* four levels, write-back, 2 MiB and 1 GiB, INVEPT of both types */
#define EPT_OFFERED (1 << 6 | 1 << 14 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 25 | 1 << 26)

static uint64_t capabilities[MSR_VMX_LAST + 1 - MSR_VMX_FIRST];

static uint64_t controls(uint64_t allowed, uint32_t rigid, uint32_t offered)
{
	uint32_t must = (uint32_t)allowed | rigid;

	return must | (allowed >> 32 & (must | offered)) << 32;
}

static uint64_t make(uint32_t index)
{
	uint64_t own = rdmsr(index);

	switch (index) {
	case MSR_VMX_BASIC:
		return own & BASIC_KEPT;
	case MSR_VMX_PIN:
	case MSR_VMX_TRUE_PIN:
		return controls(own, 0, PIN_OFFERED);
	case MSR_VMX_PIN + 1:
	case MSR_VMX_TRUE_PRIMARY:
		return controls(own, 0, PRIMARY_OFFERED);
	case MSR_VMX_PIN + 2:
	case MSR_VMX_TRUE_EXIT:
		return controls(own, EXIT_SAVES_DEBUG, EXIT_OFFERED);
	case MSR_VMX_ENTRY:
	case MSR_VMX_TRUE_ENTRY:
		return controls(own, ENTRY_LOADS_DEBUG, ENTRY_OFFERED);
	case MSR_VMX_MISC:
		return own & MISC_KEPT;
	case MSR_VMX_SECONDARY:
		return controls(own, 0, SECONDARY_OFFERED);
	case MSR_VMX_EPT:
		return own & EPT_OFFERED;
	default:
		return own; /* what CR0 and CR4 must have, and the highest field */
	}
}

bool nest_capability(uint32_t index, uint64_t *value)
{
	uint64_t *kept;

	if (index < MSR_VMX_FIRST || index > MSR_VMX_LAST || index == MSR_VMX_VMFUNC)
		return false;
	kept = &capabilities[index - MSR_VMX_FIRST];
	if (!*kept)
		*kept = make(index);
	*value = *kept;
	return true;
}

bool nest_allows(uint32_t index, uint64_t value)
{
	uint64_t allowed;

	return nest_capability(index, &allowed) && !((uint32_t)allowed & ~value) && !(value & ~(allowed >> 32));
}
