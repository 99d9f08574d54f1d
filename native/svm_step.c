#include "nested_svm_internal.h"

void nv_svm_step_begin(struct nv_svm *svm, uint32_t code, int traps, uint8_t length)
{
	uint64_t *rflags = register_of(svm, NV_REG_RFLAGS);

	svm->step = (struct nv_svm_step){
		.code = code,
		.active = 1,
		.traps = traps,
		.own_trap = !!(*rflags & RFLAGS_TF),
		.shadowed = !!(svm->block->interrupt_shadow & SHADOWED),
		.length = length,
		.rip = *register_of(svm, NV_REG_RIP),
		.dr6 = svm->block->dr6,
	};
	if (traps)
		*rflags |= RFLAGS_TF;
}

/* PUSHF has stored the trap flag that is L0's. */
static void clean_pushed_flags(struct nv_svm *svm)
{
	const struct nv_vmcb *block = svm->block;
	uint64_t stack = *register_of(svm, NV_REG_RSP) + 1; /* the flag is in the second byte */
	uint8_t *host;

	if (code_bits(block) != 64) {
		if (!(block->ss.attributes & SEGMENT_BIG))
			stack &= 0xffff;
		stack = (uint32_t)(stack + block->ss.base);
	}
	if (nv_paging_translate(nv_svm_paging(svm, block->cpl == 3, 1), stack, NV_PAGING_WRITE, &host) == NV_PAGING_OK)
		*host &= ~(RFLAGS_TF >> 8);
}

void nv_svm_step_end(struct nv_svm *svm, int executed)
{
	struct nv_svm_step *step = &svm->step;
	uint64_t *rflags = register_of(svm, NV_REG_RFLAGS);

	step->active = 0;
	if (executed && step->code == EXIT_IRET)
		svm->switched.pending.nmi_masked = 0;
	if (!step->traps) {
		/* the processor stops for an interrupt in spite of the shadow; but what wakes HLT must not come before it */
		if (executed && step->shadowed && *register_of(svm, NV_REG_RIP) == step->rip) {
			*register_of(svm, NV_REG_RIP) += step->length;
			svm->block->interrupt_shadow &= ~SHADOWED;
		}
		return;
	}
	if (executed && step->own_trap)
		svm->block->dr6 |= DR6_BS;
	else
		svm->block->dr6 = step->dr6;
	if (step->own_trap)
		return;
	if (executed && step->code == EXIT_PUSHF)
		clean_pushed_flags(svm);
	/* the flags that POPF and IRET have loaded are level n's */
	if (!executed || (step->code != EXIT_POPF && step->code != EXIT_IRET))
		*rflags &= ~RFLAGS_TF;
}

void nv_svm_pass(struct nv_svm *svm, struct nv_event *event)
{
	uint64_t code = svm->block->exit_code;
	uint8_t length = event->advance;

	event->retry = 1;
	if (nv_nested_pass(svm->nested, event))
		return;
	if (event->raw != (uint32_t)code)
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
