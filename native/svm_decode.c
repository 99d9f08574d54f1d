#include "nested_svm_internal.h"

#include <string.h>

#include "fetch.h"
#include "instruction.h"
#include "svm_exits.h"
#include "undefined.h"

struct nv_code nv_svm_code(const struct nv_svm *svm)
{
	const struct nv_vmcb *block = svm->block;

	return (struct nv_code){
		.cr0 = block->cr0,
		.cr3 = block->cr3,
		.cr4 = block->cr4,
		.efer = block->efer,
		.base = block->cs.base,
		.rip = block->rip,
		.bits = code_bits(block),
		.user = block->cpl == 3,
	};
}

struct nv_paging *nv_svm_paging(struct nv_svm *svm, int user, int ac)
{
	const struct nv_vmcb *block = svm->block;
	struct nv_paging *paging = svm->switched.paging;

	paging->cr0 = block->cr0;
	paging->cr3 = block->cr3;
	paging->cr4 = block->cr4;
	paging->efer = block->efer;
	paging->user = user;
	paging->ac = ac;
	nv_paging_flush(paging);
	return paging;
}

/* The bytes of the instruction that was stopped, and its length: as the processor tells, or else by decoding. */
static void decode_instruction(struct nv_svm *svm, const struct nv_exit_row *row, struct nv_event *event)
{
	const struct nv_vmcb *block = svm->block;
	uint64_t told = (block->exit_code == EXIT_IOIO ? block->exit_info_2 : block->next_rip) - block->rip;
	struct nv_code code;
	uint32_t length = sizeof svm->met;

	if (svm->met[0]) {
		memcpy(event->instruction, svm->met, sizeof svm->met);
		event->instruction_length = length;
	} else {
		code = nv_svm_code(svm);
		length = nv_fetch_instruction(svm->switched.paging, &code, event);
	}
	if (told - 1 < NV_INSTRUCTION_MAX)
		length = told;
	event->advance = event->length = length ? length : row->length;
}

const uint8_t *nv_svm_opcode(const struct nv_svm *svm, const struct nv_event *event, int count, uint8_t *rex)
{
	const uint8_t *opcode = nv_opcode(event->instruction, event->instruction_length, code_bits(svm->block), rex);

	return opcode && event->instruction + event->instruction_length - opcode >= count ? opcode : NULL;
}

int nv_svm_address_bits(const struct nv_svm *svm, const struct nv_event *event)
{
	int bits = code_bits(svm->block);
	uint8_t rex;
	const uint8_t *opcode = nv_svm_opcode(svm, event, 1, &rex);

	for (const uint8_t *byte = event->instruction; opcode && byte < opcode; byte++)
		if (*byte == 0x67)
			return bits == 32 ? 16 : 32;
	return bits;
}

/* MOV to and from a control or debug register moves a general register, whose number goes to the event's `operand`. SMSW, LMSW and
 * CLTS do not: their events move nothing. */
static void decode_move(struct nv_svm *svm, struct nv_event *event)
{
	uint8_t rex;
	const uint8_t *opcode = nv_svm_opcode(svm, event, 3, &rex);

	if (!opcode || opcode[0] != 0x0f || opcode[1] < 0x20 || opcode[1] > 0x23)
		return;
	event->size = code_bits(svm->block) == 64 ? 8 : 4;
	svm->switched.operand = (opcode[2] & 7) | (rex & 1) << 3;
	if (event->direction == NV_WRITE) {
		event->value = *register_of(svm, svm->switched.operand);
		if (event->size == 4)
			event->value = (uint32_t)event->value;
	}
}

/* Where the processor does not tell the vector, the instruction does: INTn, INT3, INTO. */
static uint8_t vector_of(struct nv_svm *svm, const struct nv_event *event)
{
	uint8_t rex;
	const uint8_t *opcode = nv_svm_opcode(svm, event, 1, &rex);

	if (opcode && *opcode == 0xcc)
		return BP;
	if (opcode && *opcode == 0xce)
		return OF;
	opcode = nv_svm_opcode(svm, event, 2, &rex);
	return opcode && *opcode == 0xcd ? opcode[1] : event->info;
}

/* INT3, of which a level wants to hear. Some processors look at it as INTn. */
static int is_breakpoint(const struct nv_svm *svm, const struct nv_event *event)
{
	uint8_t rex;
	const uint8_t *opcode;

	if (!(svm->switched.debug & NV_DEBUG_BREAKS) || event->qualifier != BP || !nv_nested_debugged(svm->nested, BP, 0))
		return 0;
	if (event->reason == NV_REASON_EXCEPTION)
		return 1;
	opcode = nv_svm_opcode(svm, event, 1, &rex);
	return event->reason == NV_REASON_SOFTWARE_INTERRUPT && opcode && *opcode == 0xcc;
}

static uint64_t linear_rip(const struct nv_svm *svm)
{
	struct nv_code code = nv_svm_code(svm);

	code.rip = svm->switched.mailbox->regs[NV_REG_RIP];
	return nv_code_linear(&code);
}

/* The instruction is still to be executed, unless a level says otherwise. */
static void decode_breakpoint(struct nv_svm *svm, struct nv_event *event)
{
	event->reason = NV_REASON_DEBUG;
	event->direction = NV_READ;
	event->value = linear_rip(svm);
	event->info = 0;
	if (!event->length)
		event->length = 1;
	event->advance = 0;
}

static uint64_t qualifier_of(const struct nv_svm *svm, const struct nv_exit_row *row)
{
	const uint64_t *regs = svm->switched.mailbox->regs;
	const struct nv_vmcb *block = svm->block;

	switch (row->source) {
	case NV_FROM_ROW:
		return row->value;
	case NV_FROM_CODE:
		return block->exit_code;
	case NV_FROM_CODE_4:
		return block->exit_code & 15;
	case NV_FROM_CODE_5:
		return block->exit_code & 31;
	case NV_FROM_RAX:
		return regs[NV_REG_RAX];
	case NV_FROM_EAX:
		return (uint32_t)regs[NV_REG_RAX];
	case NV_FROM_ECX:
		return (uint32_t)regs[NV_REG_RCX];
	case NV_FROM_PORT:
		return block->exit_info_1 >> 16 & 0xffff;
	case NV_FROM_SELECTOR:
		return block->exit_info_1 & 0xffff;
	case NV_FROM_OFFSET:
		return block->exit_info_1 & 0xfff;
	case NV_FROM_PHYSICAL:
		return svm->switched.faulted ? svm->switched.fault_address : block->exit_info_2;
	default:
		return 0;
	}
}

/* Present is what the levels' maps have, filled or not. */
static void decode_page_fault(const struct nv_svm *svm, struct nv_event *event)
{
	event->direction = event->info & NPF_FETCH ? NV_EXECUTE : event->info & NPF_WRITE ? NV_WRITE : NV_READ;
	event->info &= ~NPF_PRESENT;
	if (nv_shadow_rights(svm->switched.shadow, event->qualifier))
		event->info |= NPF_PRESENT;
}

/* What a processor's exit for it would be. */
static uint32_t code_of(uint32_t reason)
{
	switch (reason) {
	case NV_REASON_SHUTDOWN:
		return EXIT_SHUTDOWN;
	case NV_REASON_NMI_WINDOW:
		return EXIT_IRET;
	case NV_REASON_INTERRUPT:
		return EXIT_INTR;
	case NV_REASON_NMI:
		return EXIT_NMI;
	default:
		return EXIT_VINTR;
	}
}

static void decode_synthetic(struct nv_svm *svm, struct nv_event *event)
{
	event->reason = svm->synthetic;
	event->raw = code_of(svm->synthetic);
	event->qualifier = svm->synthetic == NV_REASON_INTERRUPT ? svm->synthetic_vector : 0;
	event->info = 0;
	event->space = svm->synthetic_space;
	svm->synthetic = svm->synthetic_space = 0;
}

static void decode_stepped(struct nv_svm *svm, struct nv_event *event)
{
	event->reason = NV_REASON_DEBUG;
	event->raw = EXIT_DB;
	event->direction = NV_READ;
	event->qualifier = DB;
	event->info = DR6_STEPPED;
	event->value = linear_rip(svm);
	svm->switched.stepped = NV_STEPPED_NOT;
}

void nv_svm_decode(struct nv_svm *svm, struct nv_event *event)
{
	const struct nv_vmcb *block = svm->block;
	const struct nv_exit_row *row = nv_svm_exit_row(block->exit_code);
	const uint64_t *regs = svm->switched.mailbox->regs;
	int other = row->other && block->exit_info_1 & 1;

	event->raw = block->exit_code;
	event->reason = other ? row->other : row->reason;
	event->direction = other ? NV_WRITE : row->direction;
	event->qualifier = qualifier_of(svm, row);
	event->value = 0;
	event->info = block->exit_info_1;
	event->data = NULL;
	event->count = 1;
	event->size = 0;
	event->instruction_length = 0;
	event->length = event->advance = 0;
	if (svm->switched.stepped == NV_STEPPED_TOLD) {
		decode_stepped(svm, event);
		return;
	}
	if (svm->synthetic) {
		decode_synthetic(svm, event);
		return;
	}
	if (row->length)
		decode_instruction(svm, row, event);
	switch (event->reason) {
	case NV_REASON_CR_READ:
	case NV_REASON_CR_WRITE:
	case NV_REASON_DR_READ:
	case NV_REASON_DR_WRITE:
		decode_move(svm, event);
		break;
	case NV_REASON_EXCEPTION:
		event->value = event->qualifier == PF ? block->exit_info_2 : event->qualifier == DB ? block->dr6 : 0;
		break;
	case NV_REASON_INTERRUPT:
		event->qualifier = svm->switched.mailbox->interrupt;
		break;
	case NV_REASON_SOFTWARE_INTERRUPT:
		event->qualifier = vector_of(svm, event);
		break;
	case NV_REASON_IO:
		event->direction = block->exit_info_1 & IO_IN ? NV_READ : NV_WRITE;
		break;
	case NV_REASON_RDMSR:
	case NV_REASON_WRMSR:
		event->size = 8;
		event->value = other ? regs[NV_REG_RDX] << 32 | (uint32_t)regs[NV_REG_RAX] : 0;
		break;
	case NV_REASON_NESTED_PAGE_FAULT:
		decode_page_fault(svm, event);
		break;
	default:
		break;
	}
	if (is_breakpoint(svm, event))
		decode_breakpoint(svm, event);
}

void nv_svm_decode_undefined(struct nv_svm *svm, const struct nv_table *table, struct nv_event *event)
{
	struct nv_code code = nv_svm_code(svm);

	nv_undefined(table, svm->switched.paging, &code, event);
}
