#include "nested_internal.h"

#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_SVME (1ull << 12)
#define UPPER_HALF (~0ull << 32)

enum { VMRUN = 0x80 };

/* The vectors that are exceptions; 2 is the NMI, the others are reserved. */
#define EXCEPTIONS 0x702f7dfbu

/* Types of memory in a byte of PAT: 0, 1, 4 to 7. */
static int valid_pat(uint64_t pat)
{
	for (int i = 0; i < 64; i += 8)
		if (pat >> i & 0xf8 || (pat >> i & 7) == 2 || (pat >> i & 7) == 3)
			return 0;
	return 1;
}

static int valid_state(const struct nv_nested *nested, const struct nv_vmcb *block)
{
	uint64_t efer_allowed = nested->svm->efer_allowed | EFER_LMA | EFER_SVME;
	int long_mode = block->efer & EFER_LME && block->cr0 & CR0_PG;

	if (!(block->efer & EFER_SVME) || block->efer & ~efer_allowed)
		return 0;
	if ((block->cr0 & CR0_NW && !(block->cr0 & CR0_CD)) || block->cr0 & UPPER_HALF)
		return 0;
	if (block->cr3 & nested->physical_reserved || block->cr4 & ~nested->cr4_allowed)
		return 0;
	if (block->dr6 & UPPER_HALF || block->dr7 & UPPER_HALF)
		return 0;
	if (!long_mode)
		return 1;
	if (!(block->cr4 & CR4_PAE) || !(block->cr0 & CR0_PE))
		return 0;
	return !(block->cs.attributes & SEGMENT_LONG && block->cs.attributes & SEGMENT_BIG);
}

/* AMD APM vol. 2, 15.20. */
static int valid_event(uint64_t event)
{
	int kind = EVENT_KIND_OF(event), vector = EVENT_VECTOR(event);

	if (!(event & EVENT_VALID))
		return 1;
	switch (kind) {
	case NV_EVENT_INTERRUPT:
	case NV_EVENT_NMI:
	case NV_EVENT_SOFTWARE_INTERRUPT:
		return 1;
	case NV_EVENT_EXCEPTION:
		return vector < 32 && EXCEPTIONS >> vector & 1;
	default:
		return 0;
	}
}

static int valid_control(const struct nv_nested *nested, const struct nv_vmcb *block)
{
	uint64_t reserved = nested->physical_reserved;

	if (!intercepts(block->intercept, VMRUN) || !block->asid)
		return 0;
	/* the low bits of the maps' addresses are ignored; the last byte counts */
	if (((block->iopm & ~0xfffull) + NV_NESTED_PORTS - 1) & reserved || ((block->msrpm & ~0xfffull) + NV_NESTED_MSRS - 1) & reserved)
		return 0;
	if (block->tlb_control > 7 || !(0x8b >> block->tlb_control & 1))
		return 0;
	if (block->nested_paging & NESTED_PAGING && (block->nested_cr3 & reserved || !valid_pat(block->guest_pat)))
		return 0;
	return valid_event(block->event_injection);
}

int nv_nested_valid(const struct nv_nested *nested, const struct nv_vmcb *block)
{
	return valid_control(nested, block) && valid_state(nested, block);
}
