#include "nested_vmx_internal.h"

/* Exit qualifications of a refused guest state (27.8). */
enum { PDPTES = 2, LINK = 4 };

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
enum { ACTIVE, HALTED };
enum { MACHINE_CHECK = 18 };

#define CR4_PCIDE (1ull << 17)
#define RFLAGS_RESERVED 0xffffffffffc08028ull
#define RFLAGS_ONE 2ull
#define INTERRUPTIBILITY_RESERVED (~0x1full)
#define BLOCKED_BY_STI 1ull
#define BLOCKED_BY_MOV_SS 2ull
#define BLOCKED_BY_SMI 4ull
#define IN_ENCLAVE 0x10ull
#define PENDING_RESERVED 0xfffffffffffeaff0ull
#define PENDING_ENABLED (1ull << 12)
#define PENDING_IN_TRANSACTION (1ull << 16)
#define DEBUGCTL_BTF 2ull

/* Access rights (25.4.1). */
#define TYPE(rights) ((rights) & 15)
#define CODE_OR_DATA (1u << 4)
#define DPL(rights) ((rights) >> 5 & 3)
#define PRESENT (1u << 7)
#define GRANULAR (1u << 15)
#define UNUSABLE (1u << 16)
#define RIGHTS_RESERVED 0xfffe0f00u
#define ACCESSED 1u
#define WRITABLE 2u             /* of code: readable */
#define CONFORMING 4u
#define CODE 8u
#define VIRTUAL_8086 0xf3u

struct guest {
	const struct nv_nested_vmx_limits *limits;
	const struct nv_virtual_vmcs *block;
	uint64_t cr0, cr4, rflags, entry, event, interruptibility, activity;
	int unrestricted, long_mode;
};

typedef int (*rule_fn)(const struct guest *guest);

#define RULE(name) static int name(const struct guest *g)

static uint64_t get(const struct guest *g, uint32_t encoding) { return field_of(g->block, encoding); }
static uint64_t selector(const struct guest *g, int segment) { return get(g, NV_VMCS_GUEST_ES + 2 * segment); }
static uint64_t base(const struct guest *g, int segment) { return get(g, NV_VMCS_GUEST_ES_BASE + 2 * segment); }
static uint32_t limit(const struct guest *g, int segment) { return get(g, NV_VMCS_GUEST_ES_LIMIT + 2 * segment); }
static uint32_t rights(const struct guest *g, int segment) { return get(g, NV_VMCS_GUEST_ES_RIGHTS + 2 * segment); }
static int usable(const struct guest *g, int segment) { return !(rights(g, segment) & UNUSABLE); }
static int virtual_8086(const struct guest *g) { return !!(g->rflags & RFLAGS_VM); }

/* 27.3.1.1: control and debug registers, MSRs. */
RULE(cr0_fixed)
{
	uint64_t must = g->limits->msr[VMX_CR0_FIXED0] & ~(g->unrestricted ? CR0_PE | CR0_PG : 0);

	return (must & ~g->cr0) || (g->cr0 & ~g->limits->msr[VMX_CR0_FIXED1]);
}

RULE(paging_unprotected) { return g->cr0 & CR0_PG && !(g->cr0 & CR0_PE); }
RULE(cr4_fixed) { return (g->limits->msr[VMX_CR4_FIXED0] & ~g->cr4) || (g->cr4 & ~g->limits->msr[VMX_CR4_FIXED1]); }
RULE(debugctl) { return g->entry & ENTRY_LOADS_DEBUG && get(g, NV_VMCS_GUEST_DEBUGCTL) & DEBUGCTL_RESERVED; }
RULE(long_mode) { return g->long_mode && (!(g->cr0 & CR0_PG) || !(g->cr4 & CR4_PAE)); }
RULE(pcid) { return !g->long_mode && g->cr4 & CR4_PCIDE; }
RULE(cr3) { return !!(get(g, NV_VMCS_GUEST_CR3) & g->limits->physical_reserved); }
RULE(dr7) { return g->entry & ENTRY_LOADS_DEBUG && get(g, NV_VMCS_GUEST_DR7) >> 32; }
RULE(sysenter) { return !is_canonical(get(g, NV_VMCS_GUEST_SYSENTER_ESP)) || !is_canonical(get(g, NV_VMCS_GUEST_SYSENTER_EIP)); }

RULE(pat) { return g->entry & ENTRY_LOADS_PAT && !is_pat(get(g, NV_VMCS_GUEST_PAT)); }

RULE(efer)
{
	uint64_t value = get(g, NV_VMCS_GUEST_EFER);

	if (!(g->entry & ENTRY_LOADS_EFER))
		return 0;
	if (value & ~(g->limits->efer_allowed | EFER_LMA) || !!(value & EFER_LMA) != g->long_mode)
		return 1;
	return g->cr0 & CR0_PG && !!(value & EFER_LMA) != !!(value & EFER_LME);
}

/* 27.3.1.2: segments. */
RULE(task_table) { return !!(selector(g, TR) & 4); }
RULE(local_table) { return usable(g, LDTR) && selector(g, LDTR) & 4; }
RULE(stack_privilege) { return !virtual_8086(g) && !g->unrestricted && ((selector(g, SS) ^ selector(g, CS)) & 3); }

RULE(bases)
{
	for (int i = ES; i <= GS; i++)
		if (virtual_8086(g) && base(g, i) != selector(g, i) << 4)
			return 1;
	if (!is_canonical(base(g, TR)) || !is_canonical(base(g, FS)) || !is_canonical(base(g, GS)))
		return 1;
	if ((usable(g, LDTR) && !is_canonical(base(g, LDTR))) || base(g, CS) >> 32)
		return 1;
	return (usable(g, SS) && base(g, SS) >> 32) || (usable(g, DS) && base(g, DS) >> 32) || (usable(g, ES) && base(g, ES) >> 32);
}

/* A limit with its low bits clear counts bytes, one with high bits set counts pages. */
static int granularity(const struct guest *g, int segment)
{
	uint32_t value = limit(g, segment);

	if ((value & 0xfff) != 0xfff && rights(g, segment) & GRANULAR)
		return 1;
	return value >> 20 && !(rights(g, segment) & GRANULAR);
}

static int plain(const struct guest *g, int segment)
{
	return !(rights(g, segment) & CODE_OR_DATA) || !(rights(g, segment) & PRESENT) || rights(g, segment) & RIGHTS_RESERVED ||
	       granularity(g, segment);
}

RULE(virtual_8086_segments)
{
	if (!virtual_8086(g))
		return 0;
	for (int i = ES; i <= GS; i++)
		if (limit(g, i) != 0xffff || rights(g, i) != VIRTUAL_8086)
			return 1;
	return 0;
}

RULE(code_segment)
{
	uint32_t value = rights(g, CS), type = TYPE(value);

	if (virtual_8086(g))
		return 0;
	if (!usable(g, CS) || plain(g, CS))
		return 1;
	if (!(type & CODE))
		return type != (ACCESSED | WRITABLE) || !g->unrestricted || DPL(value) != 0;
	if (!(type & ACCESSED))
		return 1;
	if (type & CONFORMING ? DPL(value) > DPL(rights(g, SS)) : DPL(value) != DPL(rights(g, SS)))
		return 1;
	return g->long_mode && value & CS_LONG && value & CS_BIG;
}

RULE(stack_segment)
{
	uint32_t value = rights(g, SS), type = TYPE(value);

	if (virtual_8086(g))
		return 0;
	if (!g->unrestricted && DPL(value) != (selector(g, SS) & 3))
		return 1;
	if ((TYPE(rights(g, CS)) == (ACCESSED | WRITABLE) || !(g->cr0 & CR0_PE)) && DPL(value))
		return 1;
	return usable(g, SS) && (plain(g, SS) || type & CODE || (type & (ACCESSED | WRITABLE)) != (ACCESSED | WRITABLE));
}

static int data_segment(const struct guest *g, int segment)
{
	uint32_t value = rights(g, segment), type = TYPE(value);

	if (!usable(g, segment) || virtual_8086(g))
		return 0;
	if (plain(g, segment) || !(type & ACCESSED) || (type & CODE && !(type & WRITABLE)))
		return 1;
	return !g->unrestricted && type < (CODE | CONFORMING) && DPL(value) < (selector(g, segment) & 3);
}

RULE(data_segments) { return data_segment(g, DS) || data_segment(g, ES) || data_segment(g, FS) || data_segment(g, GS); }

RULE(task_segment)
{
	uint32_t value = rights(g, TR), type = TYPE(value);

	if (type != 11 && (type != 3 || g->long_mode))
		return 1;
	return value & CODE_OR_DATA || !(value & PRESENT) || value & (RIGHTS_RESERVED | UNUSABLE) || granularity(g, TR);
}

RULE(local_segment)
{
	uint32_t value = rights(g, LDTR);

	if (!usable(g, LDTR))
		return 0;
	return TYPE(value) != 2 || value & CODE_OR_DATA || !(value & PRESENT) || value & RIGHTS_RESERVED || granularity(g, LDTR);
}

/* 27.3.1.3: descriptor tables. */
RULE(tables)
{
	return !is_canonical(get(g, NV_VMCS_GUEST_GDTR_BASE)) || !is_canonical(get(g, NV_VMCS_GUEST_IDTR_BASE)) ||
	       get(g, NV_VMCS_GUEST_GDTR_LIMIT) >> 16 || get(g, NV_VMCS_GUEST_IDTR_LIMIT) >> 16;
}

/* 27.3.1.4: RIP and RFLAGS. */
RULE(rip)
{
	uint64_t value = get(g, NV_VMCS_GUEST_RIP);

	/* bit 47 may differ: a fetch there is the guest's fault, such as behind the last instruction below the hole */
	return g->long_mode && rights(g, CS) & CS_LONG ? value >> 48 != 0 && value >> 48 != 0xffff : value >> 32 != 0;
}

RULE(rflags) { return g->rflags & RFLAGS_RESERVED || !(g->rflags & RFLAGS_ONE); }
RULE(rflags_vm) { return virtual_8086(g) && (g->long_mode || !(g->cr0 & CR0_PE)); }
RULE(rflags_if) { return g->event && EVENT_KIND_OF(g->event) == NV_EVENT_INTERRUPT && !(g->rflags & RFLAGS_IF); }

/* 27.3.1.5: what is not in registers. */
RULE(activity_kind) { return g->activity > HALTED || (g->activity == HALTED && !(g->limits->msr[VMX_MISC] >> 6 & 1)); }
RULE(halted_user) { return g->activity == HALTED && DPL(rights(g, SS)); }
RULE(halted_blocked) { return g->activity != ACTIVE && g->interruptibility & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS); }

RULE(halted_event)
{
	int vector = EVENT_VECTOR(g->event);

	if (!g->event || g->activity != HALTED)
		return 0;
	switch (EVENT_KIND_OF(g->event)) {
	case NV_EVENT_INTERRUPT:
	case NV_EVENT_NMI:
		return 0;
	case NV_EVENT_EXCEPTION:
		return vector != DB && vector != MACHINE_CHECK;
	default:
		return 1;
	}
}

RULE(blocking_bits) { return !!(g->interruptibility & INTERRUPTIBILITY_RESERVED); }
RULE(blocked_twice) { return (g->interruptibility & 3) == (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS); }
RULE(blocked_masked) { return g->interruptibility & BLOCKED_BY_STI && !(g->rflags & RFLAGS_IF); }
RULE(blocked_smi) { return !!(g->interruptibility & (BLOCKED_BY_SMI | IN_ENCLAVE)); }

RULE(blocked_interrupt)
{
	return g->event && EVENT_KIND_OF(g->event) == NV_EVENT_INTERRUPT && g->interruptibility & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
}

static int injects_nmi(const struct guest *g) { return g->event && EVENT_KIND_OF(g->event) == NV_EVENT_NMI; }

RULE(blocked_nmi) { return injects_nmi(g) && g->interruptibility & BLOCKED_BY_MOV_SS; }

RULE(masked_nmi)
{
	return injects_nmi(g) && g->interruptibility & NMI_MASKED && get(g, NV_VMCS_PIN_CONTROLS) & PIN_VIRTUAL_NMI;
}

RULE(pending_bits) { return !!(get(g, NV_VMCS_GUEST_PENDING_DEBUG) & PENDING_RESERVED); }

RULE(pending_in_transaction)
{
	uint64_t pending = get(g, NV_VMCS_GUEST_PENDING_DEBUG);

	return pending & PENDING_IN_TRANSACTION &&
	       (pending != (PENDING_IN_TRANSACTION | PENDING_ENABLED) || g->interruptibility & BLOCKED_BY_MOV_SS);
}

/* Where traps wait, they wait exactly if RFLAGS.TF says that they come for each instruction. */
RULE(pending_step)
{
	int stepping = g->rflags & RFLAGS_TF && !(get(g, NV_VMCS_GUEST_DEBUGCTL) & DEBUGCTL_BTF);

	if (!(g->interruptibility & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS)) && g->activity != HALTED)
		return 0;
	return stepping != !!(get(g, NV_VMCS_GUEST_PENDING_DEBUG) & DR6_BS);
}

static const rule_fn rules[] = {
	cr0_fixed, paging_unprotected, cr4_fixed, debugctl, long_mode, pcid, cr3, dr7, sysenter, pat, efer, task_table, local_table,
	stack_privilege, bases, virtual_8086_segments, code_segment, stack_segment, data_segments, task_segment, local_segment, tables,
	rip, rflags, rflags_vm, rflags_if, activity_kind, halted_user, halted_blocked, halted_event, blocking_bits, blocked_twice,
	blocked_masked, blocked_smi, blocked_interrupt, blocked_nmi, masked_nmi, pending_bits, pending_in_transaction, pending_step,
};

/* Another VMCS, which is no shadow one, for there are none. */
static int bad_link(struct nv_nested *nested, uint64_t address)
{
	const struct nv_virtual_vmcs *at;
	struct nv_nested_place place;

	if (address == NO_VMCS)
		return 0;
	if (address & ((PAGE - 1) | nested->vmx_limits.physical_reserved) || address == nested->active->vmx.current)
		return 1;
	at = (const struct nv_virtual_vmcs *)nv_nested_page(nested, nested->active, address, 0, &place);
	return !at || at->revision != NV_VIRTUAL_VMCS_REVISION;
}

/* 27.3.1.6. */
static int bad_pointers(const struct guest *g)
{
	uint64_t pointers[NV_VMX_POINTERS];

	if (nv_nested_vmx_guest_table(g->block) == NO_TABLE)
		return 0;
	for (int i = 0; i < NV_VMX_POINTERS; i++)
		pointers[i] = get(g, NV_VMCS_GUEST_PDPTE0 + 2 * i);
	return nv_nested_vmx_bad_pointers(g->limits, pointers);
}

int nv_nested_vmx_check_guest(struct nv_nested *nested, const struct nv_virtual_vmcs *block, uint64_t *qualification)
{
	uint64_t event = field_of(block, NV_VMCS_ENTRY_INTERRUPTION);
	struct guest guest = {
		.limits = &nested->vmx_limits,
		.block = block,
		.cr0 = field_of(block, NV_VMCS_GUEST_CR0),
		.cr4 = field_of(block, NV_VMCS_GUEST_CR4),
		.rflags = field_of(block, NV_VMCS_GUEST_RFLAGS),
		.entry = field_of(block, NV_VMCS_ENTRY_CONTROLS),
		.event = event & EVENT_VALID ? event : 0,
		.interruptibility = field_of(block, NV_VMCS_GUEST_INTERRUPTIBILITY),
		.activity = field_of(block, NV_VMCS_GUEST_ACTIVITY),
		.unrestricted = !!(secondary_of(block) & SECONDARY_UNRESTRICTED),
		.long_mode = !!(field_of(block, NV_VMCS_ENTRY_CONTROLS) & ENTRY_LONG_MODE),
	};

	*qualification = 0;
	for (unsigned int i = 0; i < sizeof rules / sizeof rules[0]; i++)
		if (rules[i](&guest))
			return 1;
	if (bad_link(nested, field_of(block, NV_VMCS_LINK_POINTER))) {
		*qualification = LINK;
		return 1;
	}
	if (bad_pointers(&guest)) {
		*qualification = PDPTES;
		return 1;
	}
	return 0;
}
