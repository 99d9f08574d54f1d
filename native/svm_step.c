#include "nested_svm_internal.h"

int nv_svm_steps(const struct nv_svm *svm, uint8_t above)
{
	return svm->switched.debug & NV_DEBUG_STEPS && nv_nested_debugged(svm->nested, DB, above);
}

static struct nv_code code_now(struct nv_svm *svm)
{
	struct nv_code code = nv_svm_code(svm);

	code.rip = *register_of(svm, NV_REG_RIP);
	return code;
}

void nv_svm_step_begin(struct nv_svm *svm, uint32_t code, int traps, uint8_t length)
{
	struct nv_code now = code_now(svm);

	svm->step = (struct nv_svm_step){
		.code = code,
		.active = 1,
		.traps = traps,
		.shadowed = !!(svm->block->interrupt_shadow & SHADOWED),
		.length = length,
		.rip = now.rip,
		.dr6 = svm->block->dr6,
	};
	if (!traps)
		return;
	if (code != EXIT_IOIO)
		nv_trap_look(&svm->step.trap, svm->switched.paging, &now);
	nv_trap_set(&svm->step.trap, svm->nested->vcpu->fd, svm->switched.mailbox->regs);
}

/* L0 does it. */
static int enable(struct nv_svm *svm, const struct nv_trap_flag *trap)
{
	struct nv_vmcb *block = svm->block;
	int opens;

	if (!nv_trap_enable(trap, svm->switched.mailbox->regs, block->cr0, block->cpl, &opens))
		return 0;
	nv_svm_skip(svm, &(struct nv_event){.advance = trap->length});
	if (opens)
		block->interrupt_shadow |= SHADOWED;
	return 1;
}

int nv_svm_step_debug(struct nv_svm *svm)
{
	struct nv_trap_flag *trap = &svm->step.trap;

	if (!nv_svm_steps(svm, 0) || nv_svm_next_event(svm) || svm->step.active)
		return 0;
	nv_svm_step_begin(svm, NV_SVM_NO_CODE, 1, 0);
	if (trap->kind != NV_TRAPPED_ENABLES &&
	    (trap->kind != NV_TRAPPED_HALTS || svm->block->cpl || trap->own || intercepts(svm->wanted, EXIT_HLT) ||
	     nv_nested_wanted(svm->nested, EXIT_HLT) || nv_pending_any(&svm->switched.pending) || nv_nested_injected(svm->nested)))
		return 0;
	nv_trap_clear(trap, svm->nested->vcpu->fd, svm->switched.mailbox->regs, 0);
	if (trap->kind == NV_TRAPPED_ENABLES) {
		svm->step.active = 0;
		if (enable(svm, trap))
			return 1;
		nv_svm_step_begin(svm, NV_SVM_NO_CODE, 1, 0);
		return 0;
	}
	svm->step.traps = 0;
	svm->step.length = trap->length;
	return 0;
}

void nv_svm_step_end(struct nv_svm *svm, int executed)
{
	struct nv_svm_step *step = &svm->step;
	struct nv_vmcb *block = svm->block;
	uint8_t owns = step->trap.own;

	step->active = 0;
	if (executed && step->code == EXIT_IRET)
		svm->switched.pending.nmi_masked = 0;
	if (!step->traps) {
		/* the processor stops for an interrupt in spite of the shadow; but what wakes HLT must not come before it */
		if (executed && step->shadowed && *register_of(svm, NV_REG_RIP) == step->rip) {
			*register_of(svm, NV_REG_RIP) += step->length;
			block->interrupt_shadow &= ~SHADOWED;
		}
		if (executed && *register_of(svm, NV_REG_RIP) != step->rip)
			svm->switched.stepped = 1;
		return;
	}
	if (executed)
		svm->switched.stepped = 1;
	nv_trap_clear(&step->trap, svm->nested->vcpu->fd, svm->switched.mailbox->regs, executed);
	block->dr6 = step->dr6 | (block->dr6 & DR6_CAUSES) | (executed && step->trap.own ? DR6_BS : 0);
	if (executed && step->trap.kind == NV_TRAPPED_PUSHES && !owns) {
		struct nv_code now = code_now(svm);

		nv_trap_clean(svm->switched.paging, &now, block->ss.base, !!(block->ss.attributes & SEGMENT_BIG),
			      *register_of(svm, NV_REG_RSP));
	}
}

void nv_svm_pass(struct nv_svm *svm, struct nv_event *event)
{
	uint64_t code = svm->block->exit_code;
	uint8_t length = event->length;

	event->retry = 1;
	if (nv_nested_pass(svm->nested, event))
		return;
	if (event->raw != (uint32_t)code || nv_nested_is_step(event))
		return; /* no exit of the processor told of it */
	if (code >= EXIT_EXCEPTION && code <= EXIT_EXCEPTION_LAST) {
		nv_svm_raise(svm);
		return;
	}
	switch (code) {
	case EXIT_INTR:
		if (svm->switched.mailbox->interrupt < NO_INTERRUPT)
			nv_pending_interrupt(&svm->switched.pending, svm->switched.mailbox->interrupt);
		break;
	case EXIT_NMI:
		nv_pending_nmi(&svm->switched.pending);
		break;
	case EXIT_SWINT:
		nv_svm_inject_soft(svm, NV_EVENT_SOFTWARE_INTERRUPT, event->qualifier, length);
		break;
	case EXIT_ICEBP:
		/* a trap, which pushes RIP as it is */
		*register_of(svm, NV_REG_RIP) += length;
		nv_svm_inject(svm, NV_EVENT_EXCEPTION, DB, 0, 0);
		break;
	default:
		/* HLT lasts, and a task switch would store the trap flag */
		nv_svm_step_begin(svm, intercepts(svm->block->intercept, code) ? code : NV_SVM_NO_CODE,
				  code != EXIT_HLT && code != EXIT_TASK_SWITCH, length);
	}
}
