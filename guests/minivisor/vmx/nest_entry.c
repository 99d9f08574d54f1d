#include "nest_entry.h"
#include "memory.h"
#include "minivisor.h"
#include "nest.h"
#include "nest_msrs.h"
#include "nest_paging.h"
#include "offer.h"
#include "vmcs.h"

#define PAGE 4096ull
#define CR4_PAE (1ull << 5)
#define DR7_OFF 0x400
#define SEGMENT_FIELDS 4
#define SEGMENTS 8
#define HOST_LIMIT 0xffffffffu
#define HOST_TSS_LIMIT 0x67
#define HOST_TABLE_LIMIT 0xffff

enum { FAIL_CONTROLS = 7, FAIL_HOST_STATE = 8 };

/* Controls that are the guest's own, as minivisor wants nothing of them. */
static const uint16_t passed_controls[] = {
	VMCS_EXCEPTIONS, VMCS_PAGE_FAULT_MASK, VMCS_PAGE_FAULT_MATCH, VMCS_XSS_BITMAP, VMCS_CR0_MASK, VMCS_CR4_MASK, VMCS_CR0_SHADOW,
	VMCS_CR4_SHADOW, VMCS_ENTRY_CONTROLS, VMCS_ENTRY_EVENT, VMCS_ENTRY_ERROR_CODE, VMCS_ENTRY_LENGTH,
};

/* The guest's guest's state, but segments. */
static const uint16_t state[] = {
	VMCS_GDTR_BASE, VMCS_GDTR_LIMIT, VMCS_IDTR_BASE, VMCS_IDTR_LIMIT, VMCS_INTERRUPTIBILITY, VMCS_ACTIVITY, VMCS_DEBUGCTL, VMCS_CR0,
	VMCS_CR3, VMCS_PDPTE0, VMCS_PDPTE0 + 2, VMCS_PDPTE0 + 4, VMCS_PDPTE0 + 6, VMCS_CR4, VMCS_DR7, VMCS_RSP, VMCS_RIP, VMCS_RFLAGS,
	VMCS_PENDING_DEBUG, VMCS_SYSENTER_CS, VMCS_SYSENTER_ESP, VMCS_SYSENTER_EIP,
};

static const uint16_t told[] = {
	VMCS_PHYSICAL_ADDRESS, VMCS_LINEAR_ADDRESS, VMCS_EXIT_EVENT, VMCS_EXIT_ERROR_CODE, VMCS_VECTORING, VMCS_VECTORING_ERROR_CODE,
	VMCS_INSTRUCTION_LENGTH, VMCS_INSTRUCTION,
};

#define COUNT(list) (sizeof(list) / sizeof(list)[0])

struct vmcs merged;
static uint8_t io_map[IO_MAPS_SIZE] __attribute__((aligned(4096)));
static uint8_t msr_map[MSR_MAP_SIZE] __attribute__((aligned(4096)));
static uint32_t own_pin, own_primary, own_exit;

static struct nest_vmcs *asked;          /* the guest's VMCS that runs */
static const uint8_t *asked_io[2], *asked_msr; /* its maps; NULL: it has none */

static uint64_t get(uint64_t encoding)
{
	return *nest_field(asked, encoding);
}

/* Fields of the guest's VMCS go to the current one, or come from there. */
static void put(const uint16_t *fields, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		vmwrite(fields[i], get(fields[i]));
}

static void take(const uint16_t *fields, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		*nest_field(asked, fields[i]) = vmread(fields[i]);
}

static uint64_t segment_field(unsigned int i)
{
	static const uint16_t first[SEGMENT_FIELDS] = {VMCS_ES, VMCS_ES_BASE, VMCS_ES_LIMIT, VMCS_ES_RIGHTS};

	return first[i % SEGMENT_FIELDS] + 2 * (i / SEGMENT_FIELDS);
}

void nest_entry_init(void)
{
	own_pin = (uint32_t)vmread(VMCS_PIN_CONTROLS);
	own_primary = (uint32_t)vmread(VMCS_PRIMARY_CONTROLS);
	own_exit = (uint32_t)vmread(VMCS_EXIT_CONTROLS);
	host_clear(&merged);
	merged.launched = 0;
	host_fill();
	vmwrite(VMCS_PIN_CONTROLS, own_pin);
	vmwrite(VMCS_IO_MAP_A, (uintptr_t)io_map);
	vmwrite(VMCS_IO_MAP_B, (uintptr_t)io_map + PAGE);
	vmwrite(VMCS_MSR_MAP, (uintptr_t)msr_map);
	vmwrite(VMCS_CR3_TARGETS, 0);
	vmwrite(VMCS_EXIT_MSR_STORES, 0);
	vmwrite(VMCS_EXIT_MSR_LOADS, 0);
	vmwrite(VMCS_ENTRY_MSR_LOADS, 0);
	vmwrite(VMCS_LINK, ~0ull);
	host_use(&block);
}

static uint32_t secondary_of(void)
{
	return get(VMCS_PRIMARY_CONTROLS) & PRIMARY_SECONDARY ? (uint32_t)get(VMCS_SECONDARY_CONTROLS) : 0;
}

static const uint8_t *map_at(uint64_t address)
{
	return address % PAGE ? 0 : memory_at(address, PAGE);
}

/* Finds the maps; false: one of them is not the guest's memory. */
static bool find_maps(void)
{
	uint64_t primary = get(VMCS_PRIMARY_CONTROLS);

	asked_io[0] = asked_io[1] = asked_msr = 0;
	if (primary & PRIMARY_IO_MAPS) {
		asked_io[0] = map_at(get(VMCS_IO_MAP_A));
		asked_io[1] = map_at(get(VMCS_IO_MAP_B));
		if (!asked_io[0] || !asked_io[1])
			return false;
	}
	if (primary & PRIMARY_MSR_MAPS)
		asked_msr = map_at(get(VMCS_MSR_MAP));
	return asked_msr || !(primary & PRIMARY_MSR_MAPS);
}

/* What an entry checks of controls and the processor does not see in ours (27.2.1). */
static bool acceptable_controls(void)
{
	uint32_t secondary = secondary_of();

	if (!nest_allows(MSR_VMX_TRUE_PIN, get(VMCS_PIN_CONTROLS)) || !nest_allows(MSR_VMX_TRUE_PRIMARY, get(VMCS_PRIMARY_CONTROLS)) ||
	    !nest_allows(MSR_VMX_SECONDARY, secondary) || !nest_allows(MSR_VMX_TRUE_EXIT, get(VMCS_EXIT_CONTROLS)) ||
	    !nest_allows(MSR_VMX_TRUE_ENTRY, get(VMCS_ENTRY_CONTROLS)) || get(VMCS_CR3_TARGETS))
		return false;
	if (secondary & SECONDARY_EPT ? !nest_paging_takes(get(VMCS_EPT_POINTER)) : !!(secondary & SECONDARY_UNRESTRICTED))
		return false;
	return find_maps();
}

static bool keeps_fixed(uint64_t value, uint32_t msr)
{
	uint64_t ones, may;

	return nest_capability(msr, &ones) && nest_capability(msr + 1, &may) && !(ones & ~value) && !(value & ~may);
}

/* And of the host's state, which is a 64-bit hypervisor's (27.2.2 to 27.2.4). */
static bool acceptable_host(void)
{
	return get(VMCS_EXIT_CONTROLS) & EXIT_TO_64_BIT && get(VMCS_HOST_CR4) & CR4_PAE && get(VMCS_HOST_ES + 2 * SEGMENT_CS) &&
	       get(VMCS_HOST_TR) && keeps_fixed(get(VMCS_HOST_CR0), MSR_CR0_FIXED0) && keeps_fixed(get(VMCS_HOST_CR4), MSR_CR4_FIXED0) &&
	       is_canonical(get(VMCS_HOST_RIP)) && is_canonical(get(VMCS_HOST_GDTR_BASE)) && is_canonical(get(VMCS_HOST_IDTR_BASE)) &&
	       is_canonical(get(VMCS_HOST_TR_BASE)) && is_canonical(get(VMCS_HOST_FS_BASE)) && is_canonical(get(VMCS_HOST_GS_BASE));
}

/* A page of a map of ours: the guest's, or all of it alike. */
static void fill(uint8_t *to, const uint8_t *from, bool all)
{
	uint64_t count = PAGE;

	if (from)
		asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) :: "memory");
	else
		asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(all ? 0xff : 0) : "memory");
}

static void merge_controls(void)
{
	uint32_t primary = (uint32_t)get(VMCS_PRIMARY_CONTROLS), secondary = secondary_of();

	for (int i = 0; i < 2; i++)
		fill(io_map + i * PAGE, asked_io[i], primary & PRIMARY_ALL_PORTS);
	fill(msr_map, asked_msr, true);
	io_map[OWN_PORT(level) / 8] |= (uint8_t)(1 << OWN_PORT(level) % 8);
	nest_intercept_msrs(msr_map);
	vmwrite(VMCS_PIN_CONTROLS, own_pin | get(VMCS_PIN_CONTROLS));
	vmwrite(VMCS_PRIMARY_CONTROLS, own_primary | (primary & ~PRIMARY_ALL_PORTS));
	vmwrite(VMCS_SECONDARY_CONTROLS, secondary | SECONDARY_EPT);
	vmwrite(VMCS_EXIT_CONTROLS, own_exit | (get(VMCS_EXIT_CONTROLS) & EXIT_ACKNOWLEDGES));
	vmwrite(VMCS_TSC_OFFSET, get(VMCS_TSC_OFFSET)); /* minivisor has none of its own */
	vmwrite(VMCS_EPT_POINTER, nest_paging_use(secondary & SECONDARY_EPT, get(VMCS_EPT_POINTER)));
	put(passed_controls, COUNT(passed_controls));
}

int nest_enter(struct nest_vmcs *from)
{
	asked = from;
	if (!acceptable_controls())
		return FAIL_CONTROLS;
	if (!acceptable_host())
		return FAIL_HOST_STATE;
	if (get(VMCS_ENTRY_MSR_LOADS) || get(VMCS_EXIT_MSR_LOADS) || get(VMCS_EXIT_MSR_STORES))
		stop(STATUS_NESTING, "its guest's VMCS has lists of MSRs");
	host_use(&merged);
	running = &merged;
	merge_controls();
	for (unsigned int i = 0; i < SEGMENTS * SEGMENT_FIELDS; i++)
		vmwrite(segment_field(i), get(segment_field(i)));
	put(state, COUNT(state));
	return 0;
}

/* 28.3 */
static void save_state(void)
{
	for (unsigned int i = 0; i < SEGMENTS * SEGMENT_FIELDS; i++)
		*nest_field(asked, segment_field(i)) = vmread(segment_field(i));
	take(state, COUNT(state));
	take(told, COUNT(told));
	*nest_field(asked, VMCS_ENTRY_CONTROLS) = vmread(VMCS_ENTRY_CONTROLS); /* whether it is in long mode */
	*nest_field(asked, VMCS_ENTRY_EVENT) &= ~(uint64_t)EVENT_VALID;
	asked->launched = 1;
}

/* NMIs are masked by one that is the exit, and as they were when the guest does not keep them virtual (28.2.3, 28.5.5). */
static uint64_t host_interruptibility(uint64_t reason)
{
	uint64_t event = get(VMCS_EXIT_EVENT);

	if (reason == CODE_EXCEPTION && event & EVENT_VALID && EVENT_KIND(event) == KIND_NMI)
		return NMI_MASKED;
	return get(VMCS_PIN_CONTROLS) & PIN_VIRTUAL_NMI ? 0 : get(VMCS_INTERRUPTIBILITY) & NMI_MASKED;
}

static void load_host_segments(void)
{
	for (unsigned int i = SEGMENT_ES; i <= SEGMENT_GS; i++) {
		uint64_t selector = get(VMCS_HOST_ES + 2 * i);
		uint64_t base = i < SEGMENT_FS ? 0 : get(VMCS_HOST_FS_BASE + 2 * (i - SEGMENT_FS));

		vmwrite_segment(i, selector, base, HOST_LIMIT,
				i == SEGMENT_CS ? RIGHTS_CODE_64 : selector ? RIGHTS_DATA : RIGHTS_UNUSABLE);
	}
	vmwrite_segment(SEGMENT_LDTR, 0, 0, 0, RIGHTS_UNUSABLE);
	vmwrite_segment(SEGMENT_TR, get(VMCS_HOST_TR), get(VMCS_HOST_TR_BASE), HOST_TSS_LIMIT, RIGHTS_BUSY_TSS);
	vmwrite(VMCS_GDTR_BASE, get(VMCS_HOST_GDTR_BASE));
	vmwrite(VMCS_GDTR_LIMIT, HOST_TABLE_LIMIT);
	vmwrite(VMCS_IDTR_BASE, get(VMCS_HOST_IDTR_BASE));
	vmwrite(VMCS_IDTR_LIMIT, HOST_TABLE_LIMIT);
}

/* 28.5 */
static void load_host(uint64_t reason)
{
	load_host_segments();
	vmwrite(VMCS_CR0, get(VMCS_HOST_CR0));
	vmwrite(VMCS_CR3, get(VMCS_HOST_CR3));
	vmwrite(VMCS_CR4, get(VMCS_HOST_CR4));
	vmwrite(VMCS_DR7, DR7_OFF);
	vmwrite(VMCS_DEBUGCTL, 0);
	vmwrite(VMCS_SYSENTER_CS, get(VMCS_HOST_SYSENTER_CS));
	vmwrite(VMCS_SYSENTER_ESP, get(VMCS_HOST_SYSENTER_ESP));
	vmwrite(VMCS_SYSENTER_EIP, get(VMCS_HOST_SYSENTER_EIP));
	vmwrite(VMCS_RSP, get(VMCS_HOST_RSP));
	vmwrite(VMCS_RIP, get(VMCS_HOST_RIP));
	vmwrite(VMCS_RFLAGS, 2);
	vmwrite(VMCS_ACTIVITY, 0);
	vmwrite(VMCS_PENDING_DEBUG, 0);
	vmwrite(VMCS_INTERRUPTIBILITY, host_interruptibility(reason));
}

void nest_leave(uint64_t reason, uint64_t qualification)
{
	*nest_field(asked, VMCS_EXIT_REASON) = reason;
	*nest_field(asked, VMCS_QUALIFICATION) = qualification;
	if (!(reason & CODE_ENTRY_FAILED))
		save_state();
	host_use(&block);
	running = &block;
	load_host(reason);
}

int nest_refused(void)
{
	int error = (int)vmread(VMCS_INSTRUCTION_ERROR);

	host_use(&block);
	running = &block;
	return error;
}

static bool in_map(const uint8_t *map, unsigned int bit)
{
	return map[bit / 8] >> bit % 8 & 1;
}

/* 26.1.3: an access that wraps around the last port exits, too. */
static bool wants_port(uint64_t qualification)
{
	unsigned int port = IO_PORT(qualification);

	if (!asked_io[0])
		return get(VMCS_PRIMARY_CONTROLS) & PRIMARY_ALL_PORTS;
	for (unsigned int i = port; i < port + IO_SIZE(qualification); i++)
		if (i > 0xffff || in_map(asked_io[i / 0x8000], i % 0x8000))
			return true;
	return false;
}

/* Reads of low and of high MSRs have 1 KiB of the map each, and writes have what follows (25.6.9). */
static bool wants_msr(bool write)
{
	uint32_t index = (uint32_t)guest_registers.rcx, high = index - 0xc0000000;
	unsigned int first = write ? 0x4000 : 0;

	if (!asked_msr || (index >= 0x2000 && high >= 0x2000))
		return true;
	return in_map(asked_msr, first + (index < 0x2000 ? index : 0x2000 + high));
}

bool nest_wants(uint64_t code, uint64_t qualification)
{
	if (code == CODE_IO)
		return wants_port(qualification);
	if (code == CODE_RDMSR || code == CODE_WRMSR)
		return wants_msr(code == CODE_WRMSR);
	return true;
}
