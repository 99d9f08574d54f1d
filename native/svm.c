#include "svm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>

#include "direct.h"

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

/* Exit codes from the first to the last (AMD APM vol. 2, appendix C): their neutral reason, and the length of the instruction. */
struct exit_row {
	uint16_t first, last;
	uint8_t reason, length;
};

static const struct exit_row rows[] = {
	{0x00, 0x0f, NV_REASON_CR_READ, 0},
	{0x10, 0x1f, NV_REASON_CR_WRITE, 0},
	{0x20, 0x2f, NV_REASON_DR_READ, 0},
	{0x30, 0x3f, NV_REASON_DR_WRITE, 0},
	{0x40, 0x5f, NV_REASON_EXCEPTION, 0},
	{0x60, 0x60, NV_REASON_INTERRUPT, 0},
	{0x61, 0x61, NV_REASON_NMI, 0},
	{0x64, 0x64, NV_REASON_INTERRUPT_WINDOW, 0},
	{0x6e, 0x6e, NV_REASON_RDTSC, 2},
	{0x6f, 0x6f, NV_REASON_RDPMC, 2},
	{0x72, 0x72, NV_REASON_CPUID, 2},
	{0x76, 0x76, NV_REASON_INVD, 2},
	{0x77, 0x77, NV_REASON_PAUSE, 2},
	{0x78, 0x78, NV_REASON_HLT, 1},
	{0x7a, 0x7a, NV_REASON_SVM_INSTRUCTION, 3},
	{0x7f, 0x7f, NV_REASON_SHUTDOWN, 0},
	{0x80, 0x80, NV_REASON_SVM_INSTRUCTION, 3},
	{0x81, 0x81, NV_REASON_HYPERCALL, 3},
	{0x82, 0x86, NV_REASON_SVM_INSTRUCTION, 3},
	{0x87, 0x87, NV_REASON_RDTSCP, 3},
	{0x89, 0x89, NV_REASON_WBINVD, 2},
	{0x8a, 0x8a, NV_REASON_MONITOR, 3},
	{0x8b, 0x8c, NV_REASON_MWAIT, 3},
	{0x8d, 0x8d, NV_REASON_XSETBV, 3},
	{0x400, 0x400, NV_REASON_NESTED_PAGE_FAULT, 0},
};

static void decode_exit(const struct nv_svm *svm, struct nv_event *event)
{
	const struct nv_vmcb *block = svm->block;
	uint64_t code = block->exit_code;

	event->raw = code;
	event->reason = NV_REASON_UNKNOWN;
	event->qualifier = code;
	event->value = 0;
	event->info = block->exit_info_1;
	event->data = NULL;
	event->count = 1;
	event->size = 0;
	event->direction = NV_EXECUTE;
	event->instruction_length = 0;
	event->advance = 0;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		if (code < rows[i].first || code > rows[i].last)
			continue;
		event->reason = rows[i].reason;
		event->qualifier = code - rows[i].first;
		/* without next-RIP save the shortest encoding is assumed */
		event->advance = block->next_rip ? block->next_rip - block->rip : rows[i].length;
		break;
	}
	if (code == ~0ull)
		event->reason = NV_REASON_ENTRY_FAILURE;
	if (event->reason == NV_REASON_CPUID)
		event->qualifier = (uint32_t)svm->switched.mailbox->regs[NV_REG_RAX];
	else if (event->reason == NV_REASON_HYPERCALL)
		event->qualifier = svm->switched.mailbox->regs[NV_REG_RAX];
	else if (event->reason == NV_REASON_SVM_INSTRUCTION)
		event->qualifier = code;
	else if (event->reason == NV_REASON_NESTED_PAGE_FAULT) {
		event->qualifier = block->exit_info_2;
		event->direction = event->info & ERROR_FETCH ? NV_EXECUTE : event->info & ERROR_WRITE ? NV_WRITE : NV_READ;
		event->advance = 0;
		/* as the levels' maps have it: what is not filled yet is present all the same */
		if (nv_shadow_rights(svm->switched.shadow, event->qualifier))
			event->info |= ERROR_PRESENT;
		else
			event->info &= ~(uint64_t)ERROR_PRESENT;
	}
}

enum { RFLAGS_TF = 1 << 8, EXIT_DB = 0x41, EXIT_NMI = 0x61, EXIT_NPF = 0x400, EXCEPTION_DB = 1 << 1 };
enum { INTERRUPT_SHADOW = 1 };
/* EVENTINJ and EXITINTINFO (AMD APM vol. 2, 15.20 and 15.7.2) */
#define EVENT_VALID (1ull << 31)
#define EVENT_ERROR_CODE (1ull << 11)
#define EVENT_KIND 8

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
}

static void svm_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;
	struct nv_vmcb *block = svm->block;

	if (!svm->switched.rung) {
		nv_direct_complete(vcpu, event);
		return;
	}
	if (event->advance) {
		svm->switched.mailbox->regs[NV_REG_RIP] += event->advance;
		block->interrupt_shadow &= ~(uint64_t)INTERRUPT_SHADOW;
	}
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
