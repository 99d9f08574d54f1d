#include "svm.h"

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
_Static_assert(offsetof(struct nv_mailbox, state) == NV_MAILBOX_STATE, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, block) == NV_MAILBOX_BLOCK, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, panic) == NV_MAILBOX_PANIC, "the assembler's offsets");

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
		event->qualifier = (uint32_t)block->rax;
	else if (event->reason == NV_REASON_HYPERCALL)
		event->qualifier = block->rax;
	else if (event->reason == NV_REASON_SVM_INSTRUCTION)
		event->qualifier = code;
}

static void svm_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;
	struct kvm_run *run = vcpu->run;

	svm->rung = run->exit_reason == KVM_EXIT_IO && run->io.port == NV_DOORBELL && svm->mailbox->state != NV_SWITCHER_RUNNING;
	if (!svm->rung) {
		nv_direct_decode(vcpu, event);
		return;
	}
	decode_exit(svm, event);
	if (svm->mailbox->state == NV_SWITCHER_PANIC) {
		event->reason = NV_REASON_INTERNAL_ERROR;
		event->qualifier = svm->mailbox->panic[0];
	}
}

static void svm_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;

	if (!svm->rung)
		nv_direct_complete(vcpu, event);
	else
		svm->block->rip += event->advance;
}

static const struct nv_engine_ops svm_ops = {
	.enter = nv_direct_enter,
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
