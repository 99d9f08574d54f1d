#include "svm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>

#include "direct.h"
#include "svm_exits.h"
#include "undefined.h"

_Static_assert(offsetof(struct nv_vmcb, exit_code) == 0x70, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, event_injection) == 0xa8, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, next_rip) == 0xc8, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, es) == 0x400, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, cpl) == 0x4cb, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, rip) == 0x578, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, rax) == 0x5f8, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, cr2) == 0x640, "AMD APM vol. 2, table B-2");

/* Bits of a nested page fault's error code, EXITINFO1 (AMD APM vol. 2, 15.25.6). */
enum { ERROR_PRESENT = 1 << 0, ERROR_WRITE = 1 << 1, ERROR_RESERVED = 1 << 3, ERROR_FETCH = 1 << 4 };

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
	case NV_FROM_VECTOR:
		return block->exit_info_1 & 0xff;
	case NV_FROM_PHYSICAL:
		return block->exit_info_2;
	default:
		return 0;
	}
}

/* Attributes of CS, and EFER (AMD APM vol. 2, 15.5.1 and 3.1.7). */
enum { CS_LONG = 1 << 9, CS_DEFAULT = 1 << 10, EFER_LMA = 1 << 10 };

static struct nv_code code_of(const struct nv_vmcb *block)
{
	uint16_t attributes = block->cs.attributes;

	return (struct nv_code){
		.cr0 = block->cr0,
		.cr3 = block->cr3,
		.cr4 = block->cr4,
		.efer = block->efer,
		.base = block->cs.base,
		.rip = block->rip,
		.bits = block->efer & EFER_LMA && attributes & CS_LONG ? 64 : attributes & CS_DEFAULT ? 32 : 16,
		.user = block->cpl == 3,
	};
}

/* The length of the instruction that was stopped: as the processor tells, or else by decoding. */
static uint32_t length_of(const struct nv_svm *svm, const struct nv_exit_row *row, struct nv_event *event)
{
	const struct nv_vmcb *block = svm->block;
	struct nv_code code;
	uint32_t length;

	if (!row->length)
		return 0;
	if (block->next_rip)
		return block->next_rip - block->rip;
	code = code_of(block);
	length = nv_fetch_instruction(svm->switched.paging, &code, event);
	/* INTn's, where the processor has no decode assists */
	if (length && row->source == NV_FROM_VECTOR)
		event->qualifier = event->instruction[length - 1];
	return length ? length : row->length;
}

/* Present is what the levels' maps have, filled or not. */
static void decode_page_fault(const struct nv_svm *svm, struct nv_event *event)
{
	event->direction = event->info & ERROR_FETCH ? NV_EXECUTE : event->info & ERROR_WRITE ? NV_WRITE : NV_READ;
	event->info &= ~(uint64_t)ERROR_PRESENT;
	if (nv_shadow_rights(svm->switched.shadow, event->qualifier))
		event->info |= ERROR_PRESENT;
}

static void decode_exit(const struct nv_svm *svm, struct nv_event *event)
{
	const struct nv_vmcb *block = svm->block;
	const struct nv_exit_row *row = nv_svm_exit_row(block->exit_code);
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
	event->advance = length_of(svm, row, event);
	if (event->reason == NV_REASON_NESTED_PAGE_FAULT)
		decode_page_fault(svm, event);
}

enum { RFLAGS_TF = 1 << 8, EXIT_EXCEPTION = 0x40, EXIT_DB = 0x41, EXIT_NMI = 0x61, EXIT_NPF = 0x400, EXCEPTION_DB = 1 << 1 };
enum { INTERRUPT_SHADOW = 1 };
/* EVENTINJ and EXITINTINFO (AMD APM vol. 2, 15.20 and 15.7.2) */
#define EVENT_VALID (1ull << 31)
#define EVENT_ERROR_CODE (1ull << 11)
#define EVENT_KIND 8
/* Vectors (AMD APM vol. 2, table 8-2) */
#define UD 6
#define WITH_ERROR_CODE (1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21 | 3u << 29)

static uint32_t *intercept_of(struct nv_vmcb *block, uint32_t code, uint32_t *bit)
{
	*bit = 1u << ((code - 0x60) % 32);
	return &block->intercept[(code - 0x60) / 32];
}

void nv_svm_pass(struct nv_svm *svm, struct nv_event *event)
{
	struct nv_vmcb *block = svm->block;
	uint64_t *rflags = &svm->switched.mailbox->regs[NV_REG_RFLAGS];
	uint32_t bit, *intercept;

	event->advance = 0;
	if (block->exit_code == EXIT_NMI) {
		nv_svm_inject(svm, NV_EVENT_NMI, 2, 0, 0);
		return;
	}
	if (block->exit_code - EXIT_EXCEPTION < 32) {
		uint8_t vector = block->exit_code - EXIT_EXCEPTION;

		nv_svm_inject(svm, NV_EVENT_EXCEPTION, vector, WITH_ERROR_CODE >> vector & 1, block->exit_info_1);
		return;
	}
	svm->passed = block->exit_code;
	svm->passed_trap = !!(*rflags & RFLAGS_TF);
	svm->passed_debug = !!(block->exceptions & EXCEPTION_DB);
	intercept = intercept_of(block, svm->passed, &bit);
	*intercept &= ~bit;
	block->exceptions |= EXCEPTION_DB;
	*rflags |= RFLAGS_TF;
}

void nv_svm_inject(struct nv_svm *svm, int kind, uint8_t vector, int has_error_code, uint32_t error_code)
{
	svm->block->event_injection = EVENT_VALID | (uint64_t)kind << EVENT_KIND | vector |
				      (has_error_code ? EVENT_ERROR_CODE | (uint64_t)error_code << 32 : 0);
}

/* The single step of nv_svm_pass is over: intercept again. A #DB that level n asked for itself is its own. */
static void end_pass(struct nv_svm *svm)
{
	struct nv_vmcb *block = svm->block;
	uint32_t bit, *intercept = intercept_of(block, svm->passed, &bit);

	*intercept |= bit;
	svm->passed = 0;
	if (!svm->passed_debug)
		block->exceptions &= ~(uint32_t)EXCEPTION_DB;
	if (svm->passed_trap)
		nv_svm_inject(svm, NV_EVENT_EXCEPTION, 1, 0, 0);
	else
		svm->switched.mailbox->regs[NV_REG_RFLAGS] &= ~(uint64_t)RFLAGS_TF;
}

/* The registers that VMRUN takes from the block, and #VMEXIT puts there. */
static void load_block(struct nv_svm *svm)
{
	const uint64_t *regs = svm->switched.mailbox->regs;

	svm->block->rax = regs[NV_REG_RAX];
	svm->block->rsp = regs[NV_REG_RSP];
	svm->block->rip = regs[NV_REG_RIP];
	svm->block->rflags = regs[NV_REG_RFLAGS];
}

static void save_block(struct nv_svm *svm)
{
	uint64_t *regs = svm->switched.mailbox->regs;

	regs[NV_REG_RAX] = svm->block->rax;
	regs[NV_REG_RSP] = svm->block->rsp;
	regs[NV_REG_RIP] = svm->block->rip;
	regs[NV_REG_RFLAGS] = svm->block->rflags;
}

/* An event whose delivery the exit interrupted is delivered again. */
static void redeliver(struct nv_vmcb *block)
{
	if (block->exit_interrupt_info & EVENT_VALID && !(block->event_injection & EVENT_VALID))
		block->event_injection = block->exit_interrupt_info;
}

/* What a nested page fault's access needs (AMD APM vol. 2, 15.25.6). */
static uint32_t access_of(uint64_t error_code)
{
	if (error_code & ERROR_FETCH)
		return NV_RIGHT_EXECUTE;
	return error_code & ERROR_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
}

static int svm_enter(struct nv_vcpu *vcpu)
{
	struct nv_svm *svm = vcpu->engine;
	struct nv_vmcb *block = svm->block;
	int result;

	if (svm->switched.mailbox->state == NV_SWITCHER_EXIT)
		load_block(svm);
	result = nv_switched_enter(vcpu);
	if (result || !nv_switched_rang(vcpu) || svm->switched.mailbox->state == NV_SWITCHER_PANIC)
		return result;
	save_block(svm);
	block->event_injection = 0;
	if (block->exit_code == EXIT_NMI && svm->switched.recalling) {
		svm->switched.recalling = 0;
		return 0;
	}
	if (block->exit_code == EXIT_NPF && !(block->exit_info_1 & ERROR_RESERVED) &&
	    nv_switched_fill(&svm->switched, block->exit_info_2, access_of(block->exit_info_1))) {
		redeliver(block);
		return -EAGAIN;
	}
	if (svm->passed && block->exit_code == EXIT_DB) {
		end_pass(svm);
		return -EAGAIN;
	}
	return 0;
}

static void svm_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;

	svm->switched.rung = nv_switched_rang(vcpu);
	if (!svm->switched.rung) {
		nv_switched_decode(vcpu, event);
		return;
	}
	decode_exit(svm, event);
	if (event->reason == NV_REASON_EXCEPTION && event->qualifier == UD) {
		struct nv_code code = code_of(svm->block);

		nv_undefined(vcpu->table, svm->switched.paging, &code, event);
	}
}

static void move_rip(struct nv_svm *svm, uint8_t bytes)
{
	uint64_t *rip = &svm->switched.mailbox->regs[NV_REG_RIP];

	*rip += bytes;
	if (code_of(svm->block).bits != 64)
		*rip = (uint32_t)*rip;
}

static void svm_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;
	struct nv_vmcb *block = svm->block;

	if (!svm->switched.rung) {
		nv_direct_complete(vcpu, event);
		return;
	}
	if (event->advance)
		move_rip(svm, event->advance);
	if (event->advance || event->reason == NV_REASON_EMULATION_FAILURE)
		block->interrupt_shadow &= ~(uint64_t)INTERRUPT_SHADOW;
	redeliver(block);
}

static const struct nv_engine_ops svm_ops = {
	.enter = svm_enter,
	.decode = svm_decode,
	.complete = svm_complete,
};

void nv_svm_init(struct nv_vcpu *vcpu, struct nv_svm *svm, int fd, struct kvm_run *run, uint8_t level)
{
	nv_vcpu_init(vcpu, &svm_ops, level);
	vcpu->engine = svm;
	vcpu->fd = fd;
	vcpu->run = run;
}
