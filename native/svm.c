#include "nested_svm_internal.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "direct.h"

_Static_assert(offsetof(struct nv_vmcb, iopm) == 0x40, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, exit_code) == 0x70, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, event_injection) == 0xa8, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, next_rip) == 0xc8, "AMD APM vol. 2, table B-1");
_Static_assert(offsetof(struct nv_vmcb, es) == 0x400, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, cpl) == 0x4cb, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, rip) == 0x578, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, rax) == 0x5f8, "AMD APM vol. 2, table B-2");
_Static_assert(offsetof(struct nv_vmcb, cr2) == 0x640, "AMD APM vol. 2, table B-2");

static void save_block(struct nv_svm *svm)
{
	*register_of(svm, NV_REG_RAX) = svm->block->rax;
	*register_of(svm, NV_REG_RSP) = svm->block->rsp;
	*register_of(svm, NV_REG_RIP) = svm->block->rip;
	*register_of(svm, NV_REG_RFLAGS) = svm->block->rflags;
}

/* What a nested page fault's access needs (AMD APM vol. 2, 15.25.6). */
static uint32_t access_of(uint64_t error_code)
{
	if (error_code & NPF_FETCH)
		return NV_RIGHT_EXECUTE;
	return error_code & NPF_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
}

/* An exit that no level claims, of what L0 intercepts for itself: -EAGAIN when level n goes on, 0 when it is for the table. */
static int own_exit(struct nv_svm *svm)
{
	uint64_t code = svm->block->exit_code;
	struct nv_event event = {0};

	if (code >= EXIT_EXCEPTION && code <= EXIT_EXCEPTION_LAST) {
		nv_svm_raise(svm);
		return -EAGAIN;
	}
	switch (code) {
	case EXIT_INTR:
		if (svm->switched.mailbox->interrupt < NO_INTERRUPT)
			nv_pending_interrupt(&svm->switched.pending, svm->switched.mailbox->interrupt);
		return -EAGAIN;
	case EXIT_NMI:
		nv_pending_nmi(&svm->switched.pending);
		return -EAGAIN;
	case EXIT_VINTR:
		if (!(svm->switched.pending.windows & NV_WINDOW_INTERRUPT))
			return -EAGAIN;
		svm->switched.pending.windows &= ~NV_WINDOW_INTERRUPT;
		return 0;
	case EXIT_IRET:
		nv_svm_step_begin(svm, EXIT_IRET, 1, 0);
		return -EAGAIN;
	case EXIT_SWINT:
	case EXIT_ICEBP:
		nv_svm_decode(svm, &event);
		if (event.reason == NV_REASON_DEBUG)
			return 0;
		nv_svm_pass(svm, &event);
		return -EAGAIN;
	default:
		return 0;
	}
}

/* The exit comes during a step. Gives -EAGAIN when it only ends it. */
static int step_exit(struct nv_svm *svm)
{
	struct nv_svm_step *step = &svm->step;
	uint64_t code = svm->block->exit_code;
	int trapped = code == EXIT_DB && !(svm->block->dr6 & ~step->dr6 & DR6_CAUSES);

	if (step->traps && (code == EXIT_INTR || code == EXIT_NMI) && !intercepts(svm->wanted, code))
		return 0; /* kept for later: the step goes on */
	nv_svm_step_end(svm, step->traps ? trapped : code != EXIT_NPF);
	if (!trapped || !step->traps)
		return 0;
	if (!step->trap.own)
		return -EAGAIN;
	if (!nv_svm_steps(svm, 0) || intercepts(svm->wanted, code))
		return 0;
	nv_nested_raise(svm->nested, DB, 0); /* behind the levels' event */
	return -EAGAIN;
}

/* Whether the tables of level n, or of the machine above it that is active, allow the access now; or another machine hears of it. */
static int fill(struct nv_svm *svm)
{
	const struct nv_vmcb *block = svm->block;

	if (svm->nested->active->depth)
		return nv_nested_fault(svm->nested, block->exit_info_1, block->exit_info_2);
	return nv_switched_fill(&svm->switched, block->exit_info_2, access_of(block->exit_info_1));
}

/* Level n goes on elsewhere: a step is over, and what it has done may be undone. */
static int interrupt_step(struct nv_svm *svm)
{
	if (!svm->step.active)
		return 0;
	/* KVM raises no trap for a store that it emulates */
	nv_svm_step_end(svm, !svm->step.traps || *register_of(svm, NV_REG_RIP) != svm->step.rip);
	if (nv_nested_undo(svm->nested))
		return 1;
	if (!svm->switched.stepped || !nv_svm_steps(svm, 0))
		return 0;
	memset(&svm->nested->due, 0, sizeof svm->nested->due); /* comes again, behind the levels' event */
	return 1;
}

/* Whether the table hears of the exit: 0; -EAGAIN: level n goes on. */
static int sort_exit(struct nv_svm *svm)
{
	struct nv_vmcb *block = svm->block;

	/* KVM would try again for ever. A processor reads ones there, and cannot deliver the exception that comes of it by such tables */
	if (block->exit_code == EXIT_NPF && block->exit_info_1 & NPF_TABLES && nv_nested_nothing(svm->nested, block->exit_info_2))
		block->exit_code = EXIT_SHUTDOWN;
	if (nv_nested_fetches_nothing(svm->nested)) {
		nv_nested_raise(svm->nested, UD, 0);
		return -EAGAIN;
	}
	if (block->exit_code == EXIT_NPF && !(block->exit_info_1 & NPF_RESERVED) && fill(svm))
		return nv_nested_is_due(svm->nested) && !interrupt_step(svm) ? 0 : -EAGAIN;
	if (block->exit_code == EXIT_NMI && svm->switched.recalling) {
		svm->switched.recalling = 0;
		interrupt_step(svm);
		return -EAGAIN;
	}
	if (svm->step.active) {
		int ended = step_exit(svm);

		/* what else stopped it comes again */
		if ((!svm->step.active && nv_nested_undo(svm->nested)) || ended)
			return -EAGAIN;
	}
	if (nv_nested_remap(svm->nested))
		return -EAGAIN;
	if (nv_nested_exit(svm->nested))
		return nv_nested_is_due(svm->nested) ? 0 : -EAGAIN;
	if (block->exit_code == EXIT_IOIO && !nv_nested_first(svm->nested)) {
		/* KVM brings the data of the access when it does it */
		nv_svm_decode(svm, &svm->stopped);
		memcpy(svm->nested->undo.regs, svm->switched.mailbox->regs, sizeof svm->nested->undo.regs);
		nv_svm_step_begin(svm, EXIT_IOIO, 1, 0);
		return -EAGAIN;
	}
	return intercepts(svm->wanted, block->exit_code) || nv_nested_wanted(svm->nested, block->exit_code) ? 0 : own_exit(svm);
}

/* A level waits for an NMI window that is open already. */
static int nmi_window(struct nv_svm *svm)
{
	const struct nv_pending *pending = &svm->switched.pending;

	if (!(pending->windows & NV_WINDOW_NMI) || pending->nmi_masked || pending->nmi || svm->step.active || svm->injection ||
	    svm->interrupted)
		return 0;
	svm->switched.pending.windows &= ~NV_WINDOW_NMI;
	svm->synthetic = NV_REASON_NMI_WINDOW;
	return 1;
}

/* Likewise for an interrupt window, of a level n that is stepped: no instruction runs without L0's looking. */
static int interrupt_window(struct nv_svm *svm)
{
	const struct nv_pending *pending = &svm->switched.pending;

	if (!(pending->windows & NV_WINDOW_INTERRUPT) || !nv_svm_steps(svm, 0) || nv_pending_highest(pending) >= 0 || svm->step.active ||
	    svm->injection || svm->interrupted || nv_nested_route(svm->nested, svm->nested->machines, 0).turn != NV_TURN_TAKES)
		return 0;
	svm->switched.pending.windows &= ~NV_WINDOW_INTERRUPT;
	svm->synthetic = NV_REASON_INTERRUPT_WINDOW;
	return 1;
}

/* The handler's first instruction is to be stepped as well, and what pushes level n's flags must not find L0's. */
static int stops_behind_delivery(const struct nv_svm *svm)
{
	return svm->entering && nv_svm_steps(svm, 0);
}

/* A level sees that level n is behind an instruction. */
static int debug_step(struct nv_svm *svm)
{
	if (svm->switched.stepped)
		svm->switched.stepped = nv_svm_steps(svm, 0) ? NV_STEPPED_TOLD : NV_STEPPED_NOT;
	return svm->switched.stepped;
}

/* Level n is outside, and something waits: whether the table hears of it now. */
static int offers(struct nv_svm *svm)
{
	if (!svm->switched.recalling && (nmi_window(svm) || interrupt_window(svm) || nv_nested_window(svm->nested)))
		return 1;
	nv_nested_deliver(svm->nested);
	return nv_nested_is_due(svm->nested) || svm->synthetic;
}

/* Something waits that the block which level n runs under knows nothing of. */
static int needs_outside(const struct nv_svm *svm)
{
	const struct nv_pending *pending = &svm->switched.pending;

	if (nv_nested_moved(svm->nested) || nv_nested_stops(svm->nested))
		return 1;
	if (!pending->nmi_masked && (pending->nmi || pending->windows & NV_WINDOW_NMI))
		return 1;
	return !svm->window && (pending->windows & NV_WINDOW_INTERRUPT || nv_pending_highest(pending) >= 0);
}

/* Level n has stopped, or takes an exception before it runs at all. */
static int stopped(struct nv_svm *svm)
{
	save_block(svm);
	nv_nested_read_gif(svm->nested);
	nv_svm_interrupted(svm);
	return sort_exit(svm);
}

static int svm_enter(struct nv_vcpu *vcpu)
{
	struct nv_svm *svm = vcpu->engine;
	int outside = nv_switched_outside(&svm->switched), result = 0, idle;

	svm->met[0] = 0;
	if (outside) {
		if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST))
			return -EINTR;
		svm->switched.rung = 1;
		if (svm->nested->lost || svm->nested->endless)
			return -EIO;
		if (nv_nested_answered_cpuid(svm->nested))
			return NV_RUN_ANSWERED;
		/* an NMI that is to bring level n outside comes first */
		if (!svm->switched.recalling && debug_step(svm))
			return 0;
		if (nv_nested_is_due(svm->nested) || svm->synthetic)
			return 0;
		idle = nv_nested_idle(svm->nested);
		if (!idle && offers(svm))
			return 0;
		if (svm->nested->ahead.armed && nv_nested_go_ahead(svm->nested, idle))
			return sort_exit(svm);
		if (nv_svm_step_debug(svm))
			return -EAGAIN;
		if (nv_svm_prepare(svm)) {
			nv_svm_taken(svm); /* and not the processor, which has not forgotten either what it is to */
			return stopped(svm);
		}
		if (stops_behind_delivery(svm) || nv_nested_urgent(svm->nested)) {
			result = nv_switched_summon(vcpu);
			if (result)
				return result;
		}
	} else if (needs_outside(svm) || (svm->step.active && nv_svm_steps(svm, 0) && nv_switched_stores(vcpu))) {
		result = nv_switched_summon(vcpu);
		if (result)
			return result;
	}
	result = nv_switched_enter(vcpu);
	if (outside && (!result || !nv_switched_outside(&svm->switched)))
		nv_svm_entered(svm);
	return result || !svm->switched.rung ? result : stopped(svm);
}

static void svm_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;

	if (nv_nested_is_due(svm->nested) && svm->switched.stepped != NV_STEPPED_TOLD) {
		struct nv_code code = nv_svm_code(svm);

		nv_nested_decode_due(svm->nested, event);
		/* a trace looks for it when another machine runs already */
		if (event->reason == NV_REASON_NESTED_PAGE_FAULT)
			nv_fetch_bytes(svm->switched.paging, &code, event);
		return;
	}
	if (svm->switched.rung) {
		nv_svm_decode(svm, event);
		if (event->reason == NV_REASON_EXCEPTION && event->qualifier == UD)
			nv_svm_decode_undefined(svm, vcpu->table, event);
		return;
	}
	nv_switched_decode(vcpu, event);
	nv_nested_lose_address(svm->nested, event);
	if (event->reason == NV_REASON_IO && svm->step.active && svm->step.code == EXIT_IOIO) {
		event->raw = svm->stopped.raw;
		event->info = svm->stopped.info;
		event->length = svm->stopped.length;
		event->instruction_length = svm->stopped.instruction_length;
		memcpy(event->instruction, svm->stopped.instruction, sizeof event->instruction);
	}
}

/* An SMI or INIT stays pending in KVM: it would stop level n again and again. */
static void discard_signal(struct nv_vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events))
		return;
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = 0;
	events.smi.latched_init = 0;
	ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
}

void nv_svm_trap(struct nv_svm *svm)
{
	if (!(*register_of(svm, NV_REG_RFLAGS) & RFLAGS_TF) || svm->injection)
		return;
	svm->block->dr6 |= DR6_BS;
	nv_nested_raise(svm->nested, DB, 0);
}

void nv_svm_skip(struct nv_svm *svm, const struct nv_event *event)
{
	struct nv_vmcb *block = svm->block;
	uint64_t *rip = register_of(svm, NV_REG_RIP);

	*rip += event->advance;
	if (code_bits(block) != 64)
		*rip = (uint32_t)*rip;
	block->interrupt_shadow &= ~SHADOWED;
	svm->switched.stepped = nv_svm_steps(svm, 0);
	if (event->reason == NV_REASON_IRET)
		svm->switched.pending.nmi_masked = 0;
	*register_of(svm, NV_REG_RFLAGS) &= ~RFLAGS_RF;
	nv_svm_trap(svm);
}

static void svm_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_svm *svm = vcpu->engine;

	if (!svm->switched.rung) {
		nv_direct_complete(vcpu, event);
		return;
	}
	if (svm->nested->due.told) {
		nv_nested_settle(svm->nested);
		if (svm->nested->due.withheld)
			event->retry = NV_RETRY_UNSEEN;
		return;
	}
	if (event->reason == NV_REASON_SMI || event->reason == NV_REASON_INIT)
		discard_signal(vcpu);
	if (event->retry)
		return;
	if (event->fault) {
		nv_nested_raise(svm->nested, GP, 1);
		return;
	}
	if (event->size)
		nv_switched_answer(&svm->switched, event);
	if (event->advance)
		nv_svm_skip(svm, event);
	else if (event->reason == NV_REASON_EMULATION_FAILURE)
		svm->block->interrupt_shadow &= ~SHADOWED;
}

static const struct nv_engine_ops svm_ops = {
	.enter = svm_enter,
	.decode = svm_decode,
	.complete = svm_complete,
	.rip = nv_switched_rip,
};

void nv_svm_init(struct nv_vcpu *vcpu, struct nv_svm *svm, int fd, struct kvm_run *run, uint8_t level)
{
	nv_vcpu_init(vcpu, &svm_ops, level);
	vcpu->engine = svm;
	svm->nested->svm = svm;
	svm->nested->vcpu = vcpu;
	vcpu->fd = fd;
	vcpu->run = run;
}
