#include "nested_vmx_internal.h"

#define CR3_TARGETS_MAX 4
#define MSR_LIST_ENTRY 16
#define SELECTOR_BITS 7      /* RPL and TI */
#define CR4_PCIDE (1ull << 17)
#define EVENT_RESERVED 0x7ffff000ull
#define EXCEPTIONS_WITH_CODE (1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17)

/* What the checks of an entry look at. long_mode: the machine that does it is in 64-bit mode. */
struct entry {
	const struct nv_nested_vmx_limits *limits;
	const struct nv_virtual_vmcs *block;
	int long_mode;
};

typedef int (*rule_fn)(const struct entry *entry);

#define RULE(name) static int name(const struct entry *e)

static uint64_t get(const struct entry *e, uint32_t encoding)
{
	return field_of(e->block, encoding);
}

/* Bits that must be set are the MSR's lower half, those that may be its upper one. */
static int disallowed(const struct entry *e, uint32_t encoding, int msr)
{
	uint32_t value = get(e, encoding), must = e->limits->msr[msr], may = e->limits->msr[msr] >> 32;

	return (must & ~value) || (value & ~may);
}

static int beyond(const struct entry *e, uint64_t address, uint64_t aligned)
{
	return !!(address & ((aligned - 1) | e->limits->physical_reserved));
}

static int list_beyond(const struct entry *e, uint32_t count, uint32_t list)
{
	uint64_t entries = get(e, count), address = get(e, list);

	return entries && (beyond(e, address, MSR_LIST_ENTRY) || (address + entries * MSR_LIST_ENTRY - 1) & e->limits->physical_reserved);
}

static int pin(const struct entry *e, uint64_t bit) { return !!(get(e, NV_VMCS_PIN_CONTROLS) & bit); }
static int primary(const struct entry *e, uint64_t bit) { return !!(get(e, NV_VMCS_PRIMARY_CONTROLS) & bit); }
static int secondary(const struct entry *e, uint64_t bit) { return !!(secondary_of(e->block) & bit); }
static int exits(const struct entry *e, uint64_t bit) { return !!(get(e, NV_VMCS_EXIT_CONTROLS) & bit); }

/* 27.2.1.1: execution controls. */
RULE(pin_controls) { return disallowed(e, NV_VMCS_PIN_CONTROLS, VMX_TRUE_PIN); }
RULE(primary_controls) { return disallowed(e, NV_VMCS_PRIMARY_CONTROLS, VMX_TRUE_PRIMARY); }
RULE(secondary_controls) { return primary(e, PRIMARY_SECONDARY) && disallowed(e, NV_VMCS_SECONDARY_CONTROLS, VMX_SECONDARY); }
RULE(cr3_targets) { return get(e, NV_VMCS_CR3_TARGETS) > CR3_TARGETS_MAX; }

RULE(port_maps)
{
	return primary(e, PRIMARY_PORT_MAPS) && (beyond(e, get(e, NV_VMCS_IO_BITMAP_A), PAGE) || beyond(e, get(e, NV_VMCS_IO_BITMAP_B), PAGE));
}

RULE(msr_map) { return primary(e, PRIMARY_MSR_MAP) && beyond(e, get(e, NV_VMCS_MSR_BITMAP), PAGE); }
/* What lies there is nested_vmx_tpr.c's to look at. */
RULE(virtual_apic) { return primary(e, PRIMARY_TPR_SHADOW) && beyond(e, get(e, NV_VMCS_VIRTUAL_APIC), PAGE); }
RULE(tpr_threshold) { return primary(e, PRIMARY_TPR_SHADOW) && get(e, NV_VMCS_TPR_THRESHOLD) >> 4; }
RULE(virtual_nmis) { return pin(e, PIN_VIRTUAL_NMI) && !pin(e, PIN_NMI); }
RULE(nmi_window) { return primary(e, PRIMARY_NMI_WINDOW) && !pin(e, PIN_VIRTUAL_NMI); }
RULE(vpid_zero) { return secondary(e, SECONDARY_VPID) && !get(e, NV_VMCS_VPID); }
RULE(ept_pointer) { return secondary(e, SECONDARY_EPT) && !nv_nested_vmx_valid_eptp(e->limits, get(e, NV_VMCS_EPT_POINTER)); }
RULE(unrestricted) { return secondary(e, SECONDARY_UNRESTRICTED) && !secondary(e, SECONDARY_EPT); }

/* 27.2.1.2: exit controls. */
RULE(exit_controls) { return disallowed(e, NV_VMCS_EXIT_CONTROLS, VMX_TRUE_EXIT); }
RULE(saved_timer) { return exits(e, EXIT_SAVES_TIMER) && !pin(e, PIN_TIMER); }
RULE(exit_stores) { return list_beyond(e, NV_VMCS_EXIT_MSR_STORE_COUNT, NV_VMCS_EXIT_MSR_STORES); }
RULE(exit_loads) { return list_beyond(e, NV_VMCS_EXIT_MSR_LOAD_COUNT, NV_VMCS_EXIT_MSR_LOADS); }

/* 27.2.1.3: entry controls. */
RULE(entry_controls) { return disallowed(e, NV_VMCS_ENTRY_CONTROLS, VMX_TRUE_ENTRY); }
RULE(entry_loads) { return list_beyond(e, NV_VMCS_ENTRY_MSR_LOAD_COUNT, NV_VMCS_ENTRY_MSR_LOADS); }

static uint64_t event(const struct entry *e)
{
	uint64_t value = get(e, NV_VMCS_ENTRY_INTERRUPTION);

	return value & EVENT_VALID ? value : 0;
}

RULE(event_reserved) { return !!(event(e) & EVENT_RESERVED); }
RULE(event_type) { return event(e) && (EVENT_KIND_OF(event(e)) == 1 || EVENT_KIND_OF(event(e)) == 7); }

RULE(event_vector)
{
	int vector = EVENT_VECTOR(event(e));

	if (!event(e))
		return 0;
	return (EVENT_KIND_OF(event(e)) == NV_EVENT_NMI && vector != 2) || (EVENT_KIND_OF(event(e)) == NV_EVENT_EXCEPTION && vector > 31);
}

/* An exception has an error code exactly if its vector has one, and its guest is not in real mode. */
RULE(event_error_code)
{
	uint64_t value = event(e);
	int has = EVENT_KIND_OF(value) == NV_EVENT_EXCEPTION && EVENT_VECTOR(value) < 32 && EXCEPTIONS_WITH_CODE >> EVENT_VECTOR(value) & 1;

	if (!value)
		return 0;
	if (secondary(e, SECONDARY_UNRESTRICTED) && !(get(e, NV_VMCS_GUEST_CR0) & CR0_PE))
		has = 0;
	return has != !!(value & EVENT_ERROR_CODE);
}

RULE(event_error_bits) { return event(e) & EVENT_ERROR_CODE && get(e, NV_VMCS_ENTRY_ERROR_CODE) >> 16; }

RULE(event_length)
{
	uint64_t length = get(e, NV_VMCS_ENTRY_LENGTH);

	if (!event(e) || EVENT_KIND_OF(event(e)) < NV_EVENT_SOFTWARE_INTERRUPT)
		return 0;
	return length > 15 || (!length && !(e->limits->msr[VMX_MISC] >> 30 & 1));
}

/* 27.2.2: the host's control registers and MSRs. */
static int unfixed(const struct entry *e, uint32_t encoding, int fixed)
{
	uint64_t value = get(e, encoding);

	return (e->limits->msr[fixed] & ~value) || (value & ~e->limits->msr[fixed + 1]);
}

RULE(host_cr0) { return unfixed(e, NV_VMCS_HOST_CR0, VMX_CR0_FIXED0); }
RULE(host_cr4) { return unfixed(e, NV_VMCS_HOST_CR4, VMX_CR4_FIXED0); }
RULE(host_cr3) { return !!(get(e, NV_VMCS_HOST_CR3) & e->limits->physical_reserved); }
RULE(host_sysenter) { return !is_canonical(get(e, NV_VMCS_HOST_SYSENTER_ESP)) || !is_canonical(get(e, NV_VMCS_HOST_SYSENTER_EIP)); }
RULE(host_pat) { return exits(e, EXIT_LOADS_PAT) && !is_pat(get(e, NV_VMCS_HOST_PAT)); }

RULE(host_efer)
{
	uint64_t efer = get(e, NV_VMCS_HOST_EFER);
	int wide = exits(e, EXIT_HOST_64);

	if (!exits(e, EXIT_LOADS_EFER))
		return 0;
	return efer & ~(e->limits->efer_allowed | EFER_LMA) || !!(efer & EFER_LMA) != wide || !!(efer & EFER_LME) != wide;
}

/* 27.2.3: its segments and tables. */
RULE(host_selectors)
{
	for (uint32_t field = NV_VMCS_HOST_ES; field <= NV_VMCS_HOST_TR; field += 2)
		if (get(e, field) & SELECTOR_BITS)
			return 1;
	return 0;
}

RULE(host_cs) { return !get(e, NV_VMCS_HOST_CS); }
RULE(host_tr) { return !get(e, NV_VMCS_HOST_TR); }
RULE(host_ss) { return !exits(e, EXIT_HOST_64) && !get(e, NV_VMCS_HOST_SS); }

RULE(host_bases)
{
	for (uint32_t field = NV_VMCS_HOST_FS_BASE; field <= NV_VMCS_HOST_IDTR_BASE; field += 2)
		if (!is_canonical(get(e, field)))
			return 1;
	return 0;
}

/* 27.2.4: the size of its addresses. */
RULE(host_size) { return e->long_mode != exits(e, EXIT_HOST_64); }
RULE(guest_size) { return !exits(e, EXIT_HOST_64) && get(e, NV_VMCS_ENTRY_CONTROLS) & ENTRY_LONG_MODE; }
RULE(host_pcid) { return !exits(e, EXIT_HOST_64) && get(e, NV_VMCS_HOST_CR4) & CR4_PCIDE; }
RULE(host_pae) { return exits(e, EXIT_HOST_64) && !(get(e, NV_VMCS_HOST_CR4) & CR4_PAE); }
RULE(host_rip) { return exits(e, EXIT_HOST_64) ? !is_canonical(get(e, NV_VMCS_HOST_RIP)) : get(e, NV_VMCS_HOST_RIP) >> 32 != 0; }

static const rule_fn control_rules[] = {
	pin_controls, primary_controls, secondary_controls, cr3_targets, port_maps, msr_map, virtual_apic, tpr_threshold, virtual_nmis, nmi_window, vpid_zero,
	ept_pointer, unrestricted, exit_controls, saved_timer, exit_stores, exit_loads, entry_controls, entry_loads,
	event_reserved, event_type, event_vector, event_error_code, event_error_bits, event_length,
};

static const rule_fn host_rules[] = {
	host_cr0, host_cr4, host_cr3, host_sysenter, host_pat, host_efer, host_selectors, host_cs, host_tr, host_ss, host_bases,
	host_size, guest_size, host_pcid, host_pae, host_rip,
};

int nv_nested_vmx_check_block(const struct nv_nested *nested, const struct nv_virtual_vmcs *block, int long_mode)
{
	struct entry entry = {.limits = &nested->vmx_limits, .block = block, .long_mode = long_mode};

	for (unsigned int i = 0; i < sizeof control_rules / sizeof control_rules[0]; i++)
		if (control_rules[i](&entry))
			return FAIL_CONTROLS;
	for (unsigned int i = 0; i < sizeof host_rules / sizeof host_rules[0]; i++)
		if (host_rules[i](&entry))
			return FAIL_HOST_STATE;
	return 0;
}
