#include "nested_vmx_internal.h"

#include <stddef.h>

/* Controls that make an instruction exit (25.6.2). */
#define PRIMARY_INVLPG (1ull << 9)
#define PRIMARY_MWAIT (1ull << 10)
#define PRIMARY_RDPMC (1ull << 11)
#define PRIMARY_RDTSC (1ull << 12)
#define PRIMARY_CR3_STORE (1ull << 16)
#define PRIMARY_DR (1ull << 23)
#define PRIMARY_MONITOR_TRAP (1ull << 27)
#define PRIMARY_MONITOR (1ull << 29)
#define PRIMARY_PAUSE (1ull << 30)
#define SECONDARY_TABLES (1ull << 2)
#define SECONDARY_WBINVD (1ull << 6)
#define SECONDARY_RDRAND (1ull << 11)
#define SECONDARY_RDSEED (1ull << 16)

#define XSS 0xda0

#define MSRS 0x2000          /* in each half of a map */
#define HIGH_MSRS 0xc0000000
#define LMSW_VALUE(qualification) ((qualification) >> 16 & 15)
#define CR0_LMSW (CR0_PE | CR0_MP | CR0_EM | CR0_TS)

static uint64_t primary(const struct nv_machine *machine)
{
	return field_of(&machine->vmx.block, NV_VMCS_PRIMARY_CONTROLS);
}

/* 26.1.3: an access that wraps around the last port exits, too. */
static int wants_port(struct nv_nested *nested, struct nv_machine *machine)
{
	uint64_t qualification = got(nested->vmx, GOT_QUALIFICATION);
	unsigned int port = qualification >> 16 & 0xffff, size = (qualification & 7) + 1;

	if (!(primary(machine) & PRIMARY_PORT_MAPS))
		return !!(primary(machine) & PRIMARY_ALL_PORTS);
	for (unsigned int i = port; i < port + size; i++) {
		uint64_t map = field_of(&machine->vmx.block, i < 0x8000 ? NV_VMCS_IO_BITMAP_A : NV_VMCS_IO_BITMAP_B);

		if (i > 0xffff || nv_nested_map_byte(nested, machine, map + i % 0x8000 / 8) >> i % 8 & 1)
			return 1;
	}
	return 0;
}

static int wants_msr(struct nv_nested *nested, struct nv_machine *machine, int write)
{
	uint32_t index = *register_of(nested->vmx, NV_REG_RCX);
	uint64_t bit = write ? 0x4000 : 0;

	if (!(primary(machine) & PRIMARY_MSR_MAP))
		return 1;
	if (index < MSRS)
		bit += index;
	else if (index - HIGH_MSRS < MSRS)
		bit += MSRS + (index - HIGH_MSRS);
	else
		return 1;
	return nv_nested_map_byte(nested, machine, field_of(&machine->vmx.block, NV_VMCS_MSR_BITMAP) + bit / 8) >> bit % 8 & 1;
}

/* 25.6.3: for page faults mask and match turn the bit round. */
int nv_nested_vmx_wants_exception(const struct nv_machine *machine, int vector, uint32_t error_code)
{
	const struct nv_virtual_vmcs *block = &machine->vmx.block;
	int bit = field_of(block, NV_VMCS_EXCEPTION_BITMAP) >> vector & 1;

	if (vector != PF)
		return bit;
	return bit == ((error_code & field_of(block, NV_VMCS_PAGE_FAULT_MASK)) == field_of(block, NV_VMCS_PAGE_FAULT_MATCH));
}

static int is_target(const struct nv_machine *machine, uint64_t value)
{
	for (uint32_t i = 0; i < field_of(&machine->vmx.block, NV_VMCS_CR3_TARGETS) && i < 4; i++)
		if (field_of(&machine->vmx.block, NV_VMCS_CR3_TARGET + 2 * i) == value)
			return 1;
	return 0;
}

/* Whether a write changes a bit of these, as the active machine sees it; see nv_nested_vmx_activate. */
static int changes_cr0(const struct nv_vmx *vmx, uint64_t mask, uint64_t value)
{
	uint64_t seen = vmx->nested->seen_cr0;

	switch (cr_access(vmx)) {
	case CR_CLTS:
		return !!(mask & seen & CR0_TS);
	case CR_LMSW:
		value = LMSW_VALUE(got(vmx, GOT_QUALIFICATION));
		/* it sets PE and does not clear it */
		return !!(mask & (((value ^ seen) & CR0_LMSW & ~CR0_PE) | (value & ~seen & CR0_PE)));
	default:
		return !!(mask & (value ^ seen));
	}
}

static int wants_cr(const struct nv_nested *nested, const struct nv_machine *machine)
{
	struct nv_vmx *vmx = nested->vmx;
	uint64_t value = *register_of(vmx, got(vmx, GOT_QUALIFICATION) >> 8 & 15);
	uint64_t exiting;

	if (!(got(vmx, GOT_CS_RIGHTS) & CS_LONG))
		value = (uint32_t)value;
	switch (cr_number(vmx)) {
	case 0:
		return changes_cr0(vmx, field_of(&machine->vmx.block, NV_VMCS_CR0_MASK), value);
	case 3:
		if (cr_access(vmx) == CR_MOV_FROM)
			return !!(primary(machine) & PRIMARY_CR3_STORE);
		return primary(machine) & PRIMARY_CR3_LOAD && !is_target(machine, value);
	case 4:
		return !!(field_of(&machine->vmx.block, NV_VMCS_CR4_MASK) & (value ^ nested->seen_cr4));
	case 8:
		exiting = cr_access(vmx) == CR_MOV_FROM ? PRIMARY_CR8_STORE : PRIMARY_CR8_LOAD;
		return machine == nv_nested_vmx_tpr_of(nested, exiting) && primary(machine) & exiting;
	default:
		return 0;
	}
}

/* 26.1.3: of what the instruction saves or loads, the components that are the supervisor's. */
static int wants_xsaves(struct nv_nested *nested, const struct nv_machine *machine)
{
	const uint64_t *regs = nested->switched->mailbox->regs;
	uint64_t components = regs[NV_REG_RDX] << 32 | (uint32_t)regs[NV_REG_RAX], xss;

	if (!(secondary_of(&machine->vmx.block) & SECONDARY_XSAVES) || nv_nested_vmx_get_msr(nested, XSS, &xss))
		return 0;
	return !!(components & xss & field_of(&machine->vmx.block, NV_VMCS_XSS_BITMAP));
}

/* The control that an instruction exits by, of `primary` or, `secondary`; both 0: every guest exits for it. */
static void control_of(uint32_t basic, uint64_t *first, uint64_t *second)
{
	*first = *second = 0;
	switch (basic) {
	case BASIC_HLT:
		*first = PRIMARY_HLT;
		break;
	case BASIC_INVLPG:
	case BASIC_INVPCID:
		*first = PRIMARY_INVLPG;
		break;
	case BASIC_MWAIT:
		*first = PRIMARY_MWAIT;
		break;
	case BASIC_RDPMC:
		*first = PRIMARY_RDPMC;
		break;
	case BASIC_RDTSC:
	case BASIC_RDTSCP:
	case BASIC_UMWAIT:
	case BASIC_TPAUSE:
		*first = PRIMARY_RDTSC;
		break;
	case BASIC_DR:
		*first = PRIMARY_DR;
		break;
	case BASIC_MONITOR_TRAP:
		*first = PRIMARY_MONITOR_TRAP;
		break;
	case BASIC_MONITOR:
		*first = PRIMARY_MONITOR;
		break;
	case BASIC_PAUSE:
		*first = PRIMARY_PAUSE;
		break;
	case BASIC_TPR_THRESHOLD:
		*first = PRIMARY_TPR_SHADOW;
		break;
	case BASIC_TABLE:
	case BASIC_TASK_TABLE:
		*second = SECONDARY_TABLES;
		break;
	case BASIC_WBINVD:
		*second = SECONDARY_WBINVD;
		break;
	case BASIC_RDRAND:
		*second = SECONDARY_RDRAND;
		break;
	case BASIC_RDSEED:
		*second = SECONDARY_RDSEED;
		break;
	default:
		break;
	}
}

int nv_nested_vmx_wants(struct nv_nested *nested, struct nv_machine *machine)
{
	struct nv_vmx *vmx = nested->vmx;
	uint32_t basic = basic_of(vmx);
	uint64_t first, second;

	switch (basic) {
	case BASIC_EXCEPTION:
		return nv_nested_vmx_wants_exception(machine, EVENT_VECTOR(got(vmx, GOT_INTERRUPTION)), got(vmx, GOT_INTERRUPTION_ERROR));
	case BASIC_INTERRUPT_WINDOW:
		return !!(primary(machine) & PRIMARY_INTERRUPT_WINDOW);
	case BASIC_NMI_WINDOW:
		return !!(primary(machine) & PRIMARY_NMI_WINDOW);
	case BASIC_CR:
		return wants_cr(nested, machine);
	case BASIC_IO:
		return wants_port(nested, machine);
	case BASIC_RDMSR:
	case BASIC_WRMSR:
		return wants_msr(nested, machine, basic == BASIC_WRMSR);
	case BASIC_XSAVES:
	case BASIC_XRSTORS:
		return wants_xsaves(nested, machine);
	case BASIC_PREEMPTION_TIMER:
		return machine->vmx.deadline && nv_ticks() >= machine->vmx.deadline;
	default:
		control_of(basic, &first, &second);
		if (first)
			return !!(primary(machine) & first);
		return second ? !!(secondary_of(&machine->vmx.block) & second) : 1;
	}
}

/* What comes from outside reaches the lowest machine first, what the active machine does the highest. */
struct nv_machine *nv_nested_vmx_owner(struct nv_nested *nested)
{
	struct nv_event event = {0};

	if (basic_of(nested->vmx) == BASIC_INTERRUPT)
		return nv_nested_vmx_route(nested, nested->machines, 0).machine;
	nv_vmx_decode(nested->vmx, &event);
	for (struct nv_machine *machine = nested->active->parent; machine; machine = machine->parent)
		if (nv_nested_vmx_wants(nested, machine) && nv_nested_vmx_gives(nested, machine, &event))
			return machine;
	return NULL;
}
