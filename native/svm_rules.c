#include "svm_rules.h"

#include <stddef.h>

#include "nested_svm_internal.h"

#define UPPER_HALF (~0ull << 32)
/* The vectors that are exceptions; 2 is the NMI, the others are reserved. */
#define EXCEPTIONS 0x702f7dfbu
/* TLB_CONTROL's values: 0, 1, 3, 7. */
#define TLB_CONTROLS 0x8bu

/* Each gives the bits that break the rule, or 1 where they say nothing; 0: it is kept. */
typedef uint64_t (*rule_fn)(const struct nv_svm_limits *limits, const struct nv_vmcb *block);

#define RULE(name) static uint64_t name(const struct nv_svm_limits *limits, const struct nv_vmcb *block)
#define UNLIMITED ((void)limits)

static int paged_long_mode(const struct nv_vmcb *block)
{
	return block->efer & EFER_LME && block->cr0 & CR0_PG;
}

static int injects(const struct nv_vmcb *block, int kind)
{
	return block->event_injection & EVENT_VALID && EVENT_KIND_OF(block->event_injection) == kind;
}

/* The last byte of a map counts; the low bits of its address are ignored. */
static uint64_t map_beyond(const struct nv_svm_limits *limits, uint64_t address, uint64_t size)
{
	uint64_t first = address & ~0xfffull;

	return (first | (first + size - 1)) & limits->physical_reserved; /* the sum may wrap around */
}

RULE(no_vmrun) { UNLIMITED; return !intercepts(block->intercept, EXIT_VMRUN); }
RULE(no_asid) { UNLIMITED; return !block->asid; }
RULE(ports_beyond) { return map_beyond(limits, block->iopm, NV_NESTED_PORTS); }
RULE(msrs_beyond) { return map_beyond(limits, block->msrpm, NV_NESTED_MSRS); }
RULE(bad_tlb_control) { UNLIMITED; return block->tlb_control > 7 || !(TLB_CONTROLS >> block->tlb_control & 1); }
RULE(nested_cr3_beyond) { return block->nested_paging & NESTED_PAGING ? block->nested_cr3 & limits->physical_reserved : 0; }

RULE(bad_pat) { UNLIMITED; return block->nested_paging & NESTED_PAGING && !is_pat(block->guest_pat); }

RULE(bad_event)
{
	UNLIMITED;
	return block->event_injection & EVENT_VALID && !injects(block, NV_EVENT_INTERRUPT) && !injects(block, NV_EVENT_NMI) &&
	       !injects(block, NV_EVENT_EXCEPTION) && !injects(block, NV_EVENT_SOFTWARE_INTERRUPT);
}

RULE(bad_exception)
{
	int vector = EVENT_VECTOR(block->event_injection);

	UNLIMITED;
	return injects(block, NV_EVENT_EXCEPTION) && (vector > 31 || !(EXCEPTIONS >> vector & 1));
}

/* BOUND, which alone raises it, is undefined there. */
RULE(impossible_exception)
{
	UNLIMITED;
	return injects(block, NV_EVENT_EXCEPTION) && EVENT_VECTOR(block->event_injection) == BR && code_bits(block) == 64;
}

RULE(no_svme) { UNLIMITED; return !(block->efer & EFER_SVME); }
RULE(bad_efer) { return block->efer & ~(limits->efer_allowed | EFER_LMA | EFER_SVME); }
RULE(no_long_mode) { return block->efer & EFER_LMA && !(limits->efer_allowed & EFER_LME); }
RULE(not_write_through) { UNLIMITED; return block->cr0 & CR0_NW && !(block->cr0 & CR0_CD); }
RULE(high_cr0) { UNLIMITED; return block->cr0 & UPPER_HALF; }
RULE(cr3_beyond) { return block->cr3 & limits->physical_reserved; }
RULE(bad_cr4) { return block->cr4 & ~limits->cr4_allowed; }
RULE(high_dr6) { UNLIMITED; return block->dr6 & UPPER_HALF; }
RULE(high_dr7) { UNLIMITED; return block->dr7 & UPPER_HALF; }
RULE(no_pae) { UNLIMITED; return paged_long_mode(block) && !(block->cr4 & CR4_PAE); }
RULE(no_protection) { UNLIMITED; return paged_long_mode(block) && !(block->cr0 & CR0_PE); }

RULE(two_sizes)
{
	UNLIMITED;
	return paged_long_mode(block) && block->cr4 & CR4_PAE && block->cs.attributes & SEGMENT_LONG && block->cs.attributes & SEGMENT_BIG;
}

static const struct {
	rule_fn broken;
	const char *says;
	uint8_t shows;           /* the bits tell more */
} rules[] = {
	{no_vmrun, "VMRUN is not intercepted", 0},
	{no_asid, "the ASID is 0", 0},
	{ports_beyond, "the I/O permissions map lies beyond the last physical address", 0},
	{msrs_beyond, "the MSR permissions map lies beyond the last physical address", 0},
	{bad_tlb_control, "TLB_CONTROL is none of 0, 1, 3 and 7", 0},
	{nested_cr3_beyond, "the nested page tables lie beyond the last physical address", 0},
	{bad_pat, "G_PAT has a type of memory that there is not", 0},
	{bad_event, "the injected event is of no type that there is", 0},
	{bad_exception, "the injected exception's vector is no exception's", 0},
	{impossible_exception, "the injected exception is #BR, which 64-bit code cannot raise", 0},
	{no_svme, "EFER.SVME is clear", 0},
	{bad_efer, "EFER has reserved bits", 1},
	{no_long_mode, "EFER.LMA is set and the processor has no long mode", 0},
	{not_write_through, "CR0.NW is set and CR0.CD is clear", 0},
	{high_cr0, "CR0 has bits above 31", 0},
	{cr3_beyond, "CR3 lies beyond the last physical address", 0},
	{bad_cr4, "CR4 has reserved bits", 1},
	{high_dr6, "DR6 has bits above 31", 0},
	{high_dr7, "DR7 has bits above 31", 0},
	{no_pae, "EFER.LME and CR0.PG are set and CR4.PAE is clear", 0},
	{no_protection, "EFER.LME and CR0.PG are set and CR0.PE is clear", 0},
	{two_sizes, "CS.L and CS.D are both set in long mode", 0},
};

_Static_assert(sizeof rules / sizeof rules[0] == NV_SVM_RULES, "the header's number");

const char *nv_svm_broken_rule(const struct nv_svm_limits *limits, const struct nv_vmcb *block, uint32_t number, uint64_t *bits)
{
	uint64_t broken = number < NV_SVM_RULES ? rules[number].broken(limits, block) : 0;

	*bits = broken && rules[number].shows ? broken : 0;
	return broken ? rules[number].says : NULL;
}

int nv_svm_valid(const struct nv_svm_limits *limits, const struct nv_vmcb *block)
{
	for (uint32_t i = 0; i < NV_SVM_RULES; i++)
		if (rules[i].broken(limits, block))
			return 0;
	return 1;
}
