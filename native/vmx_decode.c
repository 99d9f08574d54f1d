#include "nested_vmx_internal.h"

#include <string.h>

#include "undefined.h"
#include "vmx_exits.h"

uint8_t nv_vmx_depth(uint32_t basic)
{
	const struct nv_exit_row *row = nv_vmx_exit_row(basic);

	if (!row->length)
		return GOT_PHYSICAL + 1;
	switch (basic) {
	case BASIC_INVLPG:
		return GOT_QUALIFICATION + 1;
	case BASIC_CR:
	case BASIC_DR:
		return GOT_CS_RIGHTS + 1;
	case BASIC_RDRAND:
	case BASIC_RDSEED:
	case BASIC_INVPCID:
		return GOT_INSTRUCTION + 1;
	case BASIC_VMCALL ... BASIC_VMXON:
	case BASIC_INVEPT:
	case BASIC_INVVPID:
		return GOT_SS_RIGHTS + 1;
	default:
		break;
	}
	switch (row->source) {
	case NV_FROM_NOTHING:
	case NV_FROM_CODE:
	case NV_FROM_RAX:
	case NV_FROM_EAX:
	case NV_FROM_ECX:
		return GOT_INTERRUPTIBILITY + 1;
	case NV_FROM_TABLE:
		return GOT_INSTRUCTION + 1;
	default:
		return GOT_QUALIFICATION + 1;
	}
}

static uint64_t qualifier_of(const struct nv_vmx *vmx, const struct nv_exit_row *row)
{
	const uint64_t *regs = vmx->switched.mailbox->regs;
	uint64_t information = got(vmx, GOT_QUALIFICATION);

	switch (row->source) {
	case NV_FROM_CODE:
		return basic_of(vmx);
	case NV_FROM_RAX:
		return regs[NV_REG_RAX];
	case NV_FROM_EAX:
		return (uint32_t)regs[NV_REG_RAX];
	case NV_FROM_ECX:
		return (uint32_t)regs[NV_REG_RCX];
	case NV_FROM_INFORMATION:
		return information;
	case NV_FROM_PORT:
		return information >> 16 & 0xffff;
	case NV_FROM_SELECTOR:
		return information & 0xffff;
	case NV_FROM_OFFSET:
		return information & 0xfff;
	case NV_FROM_VECTOR:
		return (basic_of(vmx) == BASIC_EXCEPTION ? got(vmx, GOT_INTERRUPTION) : information) & 0xff;
	case NV_FROM_REGISTER:
		/* CLTS and LMSW are CR0's: their number is 0 */
		return information & 15;
	case NV_FROM_TABLE:
		return row->value + (got(vmx, GOT_INSTRUCTION) >> 28 & 1);
	case NV_FROM_PHYSICAL:
		return got(vmx, GOT_PHYSICAL);
	default:
		return 0;
	}
}

/* Which of a row's two reasons it is, and which way data moves. */
static int writes(const struct nv_vmx *vmx, const struct nv_exit_row *row)
{
	uint64_t information = got(vmx, GOT_QUALIFICATION);

	switch (basic_of(vmx)) {
	case BASIC_CR:
		return cr_access(vmx) != CR_MOV_FROM;
	case BASIC_DR:
		return !(information >> 4 & 1);
	case BASIC_IO:
		return !(information >> 3 & 1);
	case BASIC_TABLE:
	case BASIC_TASK_TABLE:
		/* of store and load (table 28-13) */
		return got(vmx, GOT_INSTRUCTION) >> 29 & 1;
	case BASIC_EPT_VIOLATION:
		return !!(information & VIOLATION_WRITE);
	default:
		return row->direction == NV_WRITE;
	}
}

/* MOV to and from a control or debug register moves a general register. SMSW, LMSW and CLTS do not: their events move nothing. */
static void decode_move(struct nv_vmx *vmx, struct nv_event *event)
{
	if (basic_of(vmx) == BASIC_CR && cr_access(vmx) >= CR_CLTS)
		return;
	event->size = got(vmx, GOT_CS_RIGHTS) & CS_LONG ? 8 : 4;
	vmx->switched.operand = got(vmx, GOT_QUALIFICATION) >> 8 & 15;
	if (event->direction == NV_WRITE) {
		event->value = *register_of(vmx, vmx->switched.operand);
		if (event->size == 4)
			event->value = (uint32_t)event->value;
	}
}

/* The rights of the page are what the levels' maps give, filled or not. */
static void decode_violation(const struct nv_vmx *vmx, struct nv_event *event)
{
	event->direction = event->info & VIOLATION_FETCH ? NV_EXECUTE : event->info & VIOLATION_WRITE ? NV_WRITE : NV_READ;
	event->info &= ~(7ull << VIOLATION_RIGHTS);
	event->info |= (uint64_t)nv_shadow_rights(vmx->switched.shadow, event->qualifier) << VIOLATION_RIGHTS;
}

/* A task switch by CALL, IRET or JMP; or through a gate of the IDT, by a software interrupt or INT1, INT3, INTO (28.2.5). */
static int is_by_instruction(const struct nv_vmx *vmx)
{
	uint64_t event = got(vmx, GOT_VECTORING);

	if (got(vmx, GOT_QUALIFICATION) >> TASK_SWITCH_SOURCE != TASK_SWITCH_GATE)
		return 1;
	return event & EVENT_VALID && EVENT_KIND_OF(event) >= NV_EVENT_SOFTWARE_INTERRUPT;
}

/* What a processor's exit for it would be. */
static uint32_t basic_of_reason(uint32_t reason)
{
	switch (reason) {
	case NV_REASON_INTERRUPT_WINDOW:
		return BASIC_INTERRUPT_WINDOW;
	case NV_REASON_NMI_WINDOW:
		return BASIC_NMI_WINDOW;
	case NV_REASON_INTERRUPT:
		return BASIC_INTERRUPT;
	case NV_REASON_NMI:
		return BASIC_EXCEPTION;
	case NV_REASON_PREEMPTION_TIMER:
		return BASIC_PREEMPTION_TIMER;
	default:
		return BASIC_TRIPLE_FAULT;
	}
}

static void decode_synthetic(struct nv_vmx *vmx, struct nv_event *event)
{
	event->reason = vmx->refused ? NV_REASON_ENTRY_FAILURE : vmx->synthetic;
	event->raw = event->qualifier = event->info = vmx->refused ? vmx->refusal : 0;
	event->direction = NV_EXECUTE;
	if (!vmx->refused) {
		event->raw = basic_of_reason(vmx->synthetic);
		if (vmx->synthetic == NV_REASON_INTERRUPT)
			event->qualifier = vmx->synthetic_vector;
		event->space = vmx->synthetic_space;
	}
	vmx->synthetic = vmx->synthetic_space = vmx->refused = 0;
	vmx->made = 1;
}

static void decode_stepped(struct nv_vmx *vmx, struct nv_event *event)
{
	event->reason = NV_REASON_DEBUG;
	event->raw = BASIC_EXCEPTION;
	event->direction = NV_READ;
	event->qualifier = DB;
	event->info = DR6_STEPPED;
	vmx->switched.stepped = NV_STEPPED_NOT;
}

void nv_vmx_decode(struct nv_vmx *vmx, struct nv_event *event)
{
	uint32_t basic = basic_of(vmx);
	const struct nv_exit_row *row = nv_vmx_exit_row(basic);
	const uint64_t *regs = vmx->switched.mailbox->regs;

	vmx->made = 0;
	event->value = 0;
	event->data = NULL;
	event->count = 1;
	event->size = 0;
	event->instruction_length = 0;
	event->length = event->advance = 0;
	if (vmx->switched.stepped == NV_STEPPED_TOLD) {
		decode_stepped(vmx, event);
		return;
	}
	if (vmx->synthetic || vmx->refused) {
		decode_synthetic(vmx, event);
		return;
	}
	event->raw = basic;
	event->reason = row->reason;
	event->direction = row->direction == NV_EXECUTE ? NV_EXECUTE : writes(vmx, row) ? NV_WRITE : NV_READ;
	if (row->other && (basic == BASIC_EXCEPTION ? is_nmi(vmx) : event->direction == NV_WRITE))
		event->reason = row->other;
	event->qualifier = qualifier_of(vmx, row);
	event->info = depth_of(vmx) > GOT_QUALIFICATION ? got(vmx, GOT_QUALIFICATION) : 0;
	if (row->length)
		event->advance = event->length = got(vmx, GOT_LENGTH);
	switch (event->reason) {
	case NV_REASON_CR_READ:
	case NV_REASON_CR_WRITE:
	case NV_REASON_DR_READ:
	case NV_REASON_DR_WRITE:
		decode_move(vmx, event);
		break;
	case NV_REASON_EXCEPTION:
		event->info = got(vmx, GOT_INTERRUPTION) & EVENT_ERROR_CODE ? got(vmx, GOT_INTERRUPTION_ERROR) : 0;
		event->value = event->qualifier == PF || event->qualifier == DB ? got(vmx, GOT_QUALIFICATION) : 0;
		if (event->qualifier == BP && vmx->switched.debug & NV_DEBUG_BREAKS && nv_nested_debugged(vmx->nested, BP, 0)) {
			event->reason = NV_REASON_DEBUG;
			event->direction = NV_READ;
			event->length = got(vmx, GOT_LENGTH);
		}
		break;
	case NV_REASON_TASK_SWITCH:
		/* it is not done, so level n goes on where the handler says */
		if (is_by_instruction(vmx))
			event->length = got(vmx, GOT_LENGTH);
		break;
	case NV_REASON_NMI:
		event->qualifier = 0;
		break;
	case NV_REASON_VMX_INSTRUCTION:
	case NV_REASON_HYPERCALL:
		/* of an operand in memory the displacement, else anything */
		event->info = 0;
		break;
	case NV_REASON_INTERRUPT:
		event->qualifier = EVENT_VECTOR(got(vmx, GOT_INTERRUPTION));
		break;
	case NV_REASON_RDRAND:
	case NV_REASON_RDSEED:
	case NV_REASON_INVPCID:
		event->info = got(vmx, GOT_INSTRUCTION);
		break;
	case NV_REASON_RDMSR:
	case NV_REASON_WRMSR:
		event->size = 8;
		event->value = event->direction == NV_WRITE ? regs[NV_REG_RDX] << 32 | (uint32_t)regs[NV_REG_RAX] : 0;
		break;
	case NV_REASON_NESTED_PAGE_FAULT:
		decode_violation(vmx, event);
		break;
	default:
		break;
	}
}

int nv_vmx_code(struct nv_vcpu *vcpu, struct nv_code *code)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_field fields[] = {
		{NV_VMCS_GUEST_CR0, 0},      {NV_VMCS_GUEST_CR3, 0},    {NV_VMCS_GUEST_CR4, 0},       {NV_VMCS_GUEST_EFER, 0},
		{NV_VMCS_GUEST_CS_BASE, 0}, {NV_VMCS_GUEST_CS_RIGHTS, 0}, {NV_VMCS_GUEST_SS_RIGHTS, 0},
	};
	int result = nv_vmx_exchange(vcpu, fields, sizeof fields / sizeof fields[0]);

	*code = (struct nv_code){
		.cr0 = fields[0].value,
		.cr3 = fields[1].value,
		.cr4 = fields[2].value,
		.efer = fields[3].value,
		.base = fields[4].value,
		.rip = *register_of(vmx, NV_REG_RIP),
		.bits = fields[3].value & EFER_LMA && fields[5].value & CS_LONG ? 64 : fields[5].value & CS_BIG ? 32 : 16,
		.user = (fields[6].value >> 5 & 3) == 3,
	};
	return result;
}

int nv_vmx_decode_undefined(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_code code;
	int result = nv_vmx_code(vcpu, &code);

	if (!result)
		nv_undefined(vcpu->table, vmx->switched.paging, &code, event);
	return result;
}
