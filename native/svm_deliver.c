#include "nested_svm_internal.h"

#include <string.h>

#define GATE_PRIVILEGE 5 /* the byte of an IDT's gate that has its DPL */

/* KVM forgets a software interrupt, and INT3 and INTO, when a nested page fault comes of its delivery (Linux 6.1 without next-RIP save). So
 * it is delivered as an external interrupt, and what that lacks is L0's: see is_forbidden. */
static uint64_t as_interrupt(uint64_t event)
{
	return EVENT_VALID | EVENT_VECTOR(event);
}

static uint64_t event_of(int kind, uint8_t vector, int with_error, uint32_t error_code)
{
	return EVENT_VALID | (uint64_t)kind << EVENT_KIND | vector | (with_error ? EVENT_ERROR_CODE | (uint64_t)error_code << 32 : 0);
}

/* What was interrupted comes later, when something else comes first. Exceptions are raised again by their instruction. */
static void postpone(struct nv_svm *svm)
{
	struct nv_pending *pending = nv_nested_pending(svm->nested, svm->nested->active->depth);

	if (EVENT_KIND_OF(svm->interrupted) == NV_EVENT_INTERRUPT && svm->interrupted) {
		nv_pending_interrupt(pending, EVENT_VECTOR(svm->interrupted));
	} else if (EVENT_KIND_OF(svm->interrupted) == NV_EVENT_NMI) {
		if (!svm->blocks_no_nmi)
			svm->switched.pending.nmi_masked = 0;
		nv_pending_nmi(pending);
	}
	svm->interrupted = 0;
}

/* An exception on top of one that was being delivered. */
static uint64_t combine(struct nv_svm *svm, uint64_t event)
{
	int first = EVENT_VECTOR(svm->interrupted), second = EVENT_VECTOR(event);

	switch (nv_exception_combine(first, second)) {
	case NV_COMBINED_SHUTDOWN:
		svm->synthetic = NV_REASON_SHUTDOWN;
		return 0;
	case NV_COMBINED_DOUBLE_FAULT:
		return event_of(NV_EVENT_EXCEPTION, DF, 1, 0);
	default:
		return event;
	}
}

static int is_double_fault(uint64_t event)
{
	return event && EVENT_KIND_OF(event) == NV_EVENT_EXCEPTION && EVENT_VECTOR(event) == DF;
}

/* A machine below wants the double fault that has come of two exceptions: an exit for it, during the delivery of the first (15.12). */
static int exits(struct nv_svm *svm)
{
	struct nv_machine *owner = nv_nested_owner(svm->nested, EXIT_EXCEPTION + DF, 0);

	if (!owner)
		return 0;
	svm->interrupted = 0;
	nv_nested_owe(svm->nested, owner, &(struct nv_nested_exit){.code = EXIT_EXCEPTION + DF});
	return 1;
}

void nv_svm_inject(struct nv_svm *svm, int kind, uint8_t vector, int with_error, uint32_t error_code)
{
	uint64_t event = event_of(kind, vector, with_error, error_code);

	svm->soft_injected = 0;
	if (svm->interrupted && kind == NV_EVENT_EXCEPTION && EVENT_KIND_OF(svm->interrupted) == NV_EVENT_EXCEPTION)
		event = combine(svm, event);
	if (vector != DF && is_double_fault(event) && exits(svm))
		return;
	postpone(svm);
	if (!(svm->block->cr0 & CR0_PE))
		event = (uint32_t)event & ~EVENT_ERROR_CODE; /* real mode has no error codes (AMD APM vol. 2, 8.2) */
	svm->blocks_no_nmi = 0;
	svm->injection = event;
}

void nv_svm_raise(struct nv_svm *svm)
{
	struct nv_vmcb *block = svm->block;
	int vector = block->exit_code - EXIT_EXCEPTION;

	if (vector == PF)
		block->cr2 = block->exit_info_2;
	if (vector == BP || vector == OF)
		nv_svm_inject_soft(svm, NV_EVENT_EXCEPTION, vector, 1);
	else
		nv_svm_inject(svm, NV_EVENT_EXCEPTION, vector, nv_exception_has_error_code(vector), block->exit_info_1);
}

void nv_svm_inject_soft(struct nv_svm *svm, int kind, uint8_t vector, uint8_t length)
{
	uint64_t *rip = register_of(svm, NV_REG_RIP);

	nv_svm_inject(svm, kind, vector, 0, 0);
	svm->soft_injected = 1;
	svm->soft_rip = *rip;
	/* level n comes back behind the instruction: a processor that saves the next RIP takes it from there */
	if (!svm->saves_next_rip)
		*rip += length;
}

/* The event whose delivery the exit interrupted. KVM leaves out the NMI's vector. */
static uint64_t event_interrupted(const struct nv_svm *svm)
{
	uint64_t event = svm->block->exit_interrupt_info;

	if (!(event & EVENT_VALID))
		return 0;
	if (svm->soft_event && event == as_interrupt(svm->soft_event))
		return svm->soft_event;
	return EVENT_KIND_OF(event) == NV_EVENT_NMI ? event | NMI : event;
}

/* Software interrupts and INT3, INTO happen again when their instruction does; unless L0 injected them. What led to a shutdown is over. */
void nv_svm_interrupted(struct nv_svm *svm)
{
	uint64_t event = event_interrupted(svm);

	svm->block->exit_interrupt_info = 0;
	svm->vectoring = event & EVENT_VALID ? event : 0;
	svm->interrupted = event & EVENT_VALID && (!is_soft(event) || svm->soft_injected) && svm->block->exit_code != EXIT_SHUTDOWN ? event : 0;
	if (!svm->interrupted)
		svm->soft_injected = svm->blocks_no_nmi = 0;
	/* an exception that came out of its delivery is the instruction's fault, not an external event's */
	if (svm->soft_injected && svm->block->exit_code - EXIT_EXCEPTION < 32) {
		*register_of(svm, NV_REG_RIP) = svm->soft_rip;
		if (svm->block->exit_code != EXIT_EXCEPTION + PF)
			svm->block->exit_info_1 &= ~ERROR_EXTERNAL;
	}
}

/* The gate's DPL; 3, which forbids nothing, where the processor cannot read the gate either. */
static int gate_privilege(struct nv_svm *svm, uint8_t vector)
{
	const struct nv_vmcb *block = svm->block;
	uint64_t size = block->efer & EFER_LMA ? 16 : 8;
	uint8_t *gate;

	if (size * (vector + 1) > block->idtr.limit + 1ull ||
	    nv_paging_translate(nv_svm_paging(svm, 0, 0), block->idtr.base + size * vector + GATE_PRIVILEGE, NV_PAGING_READ, &gate))
		return 3;
	return *gate >> 5 & 3;
}

/* A software interrupt that its gate keeps from level n's privilege. The look may make nested page tables anew. */
static int is_forbidden(struct nv_svm *svm)
{
	return svm->soft_event && gate_privilege(svm, EVENT_VECTOR(svm->soft_event)) < svm->block->cpl;
}

/* The exit that its delivery would be. */
static void forbid(struct nv_svm *svm)
{
	struct nv_vmcb *block = svm->block;

	block->exit_code = EXIT_EXCEPTION + GP;
	block->exit_info_1 = EVENT_VECTOR(svm->soft_event) * 8 + ERROR_IDT;
	block->exit_info_2 = 0;
	block->exit_interrupt_info = block->event_injection;
	block->event_injection = 0;
}

/* Level n takes one event at an entry. A step comes before what is pending. */
uint64_t nv_svm_next_event(struct nv_svm *svm)
{
	int vector;

	if (svm->injection)
		return svm->injection;
	if (svm->interrupted)
		return svm->interrupted;
	if (svm->step.active)
		return 0;
	if (svm->switched.pending.nmi && !svm->switched.pending.nmi_masked) {
		enum nv_nested_turn turn = nv_nested_route_nmi(svm->nested, svm->nested->machines, 0).turn;

		if (turn == NV_TURN_TAKES)
			return event_of(NV_EVENT_NMI, 2, 0, 0);
		if (turn == NV_TURN_WAITS)
			nv_svm_step_begin(svm, NV_SVM_NO_CODE, 1, 0);
		if (turn != NV_TURN_BLOCKED)
			return 0;
	}
	vector = nv_pending_highest(&svm->switched.pending);
	if (vector < 0 || nv_nested_route(svm->nested, svm->nested->machines, 0).turn != NV_TURN_TAKES)
		return 0;
	return event_of(NV_EVENT_INTERRUPT, vector, 0, 0);
}

/* The vector of a pending interrupt or NMI that level n takes at its next entry; -1: it takes none. */
static int offered(const struct nv_svm *svm, int kind)
{
	uint64_t event = svm->entering;

	return event && EVENT_KIND_OF(event) == kind && !svm->injection && !svm->interrupted ? EVENT_VECTOR(event) : -1;
}

/* What level n takes at its next entry keeps others away until IRET. */
static int blocks_nmi(const struct nv_svm *svm)
{
	return svm->entering && EVENT_KIND_OF(svm->entering) == NV_EVENT_NMI && !svm->blocks_no_nmi;
}

static void set_intercepts(struct nv_svm *svm)
{
	uint32_t *vectors = svm->block->intercept;
	const struct nv_svm_step *step = &svm->step;

	memcpy(vectors, svm->wanted, sizeof svm->wanted);
	vectors[EXIT_NMI / 32] |= 1u << EXIT_NMI % 32;
	if (svm->window)
		vectors[EXIT_VINTR / 32] |= 1u << EXIT_VINTR % 32;
	/* also the one that ends the NMI which this entry delivers */
	if (svm->switched.pending.nmi_masked || blocks_nmi(svm))
		vectors[EXIT_IRET / 32] |= 1u << EXIT_IRET % 32;
	/* to set RIP back */
	if (svm->soft_injected && !svm->saves_next_rip)
		vectors[EXIT_EXCEPTION / 32] = ~0u;
	if (svm->switched.debug & NV_DEBUG_BREAKS && nv_nested_debugged(svm->nested, BP, 0))
		vectors[EXIT_SWINT / 32] |= 1u << EXIT_SWINT % 32;
	if (!step->active)
		return;
	/* an exception must not find the trap flag, and an interrupt must not run its handler without the intercept */
	if (step->traps) {
		vectors[EXIT_EXCEPTION / 32] = ~0u;
		vectors[EXIT_SWINT / 32] |= 1u << EXIT_SWINT % 32;
		vectors[EXIT_ICEBP / 32] |= 1u << EXIT_ICEBP % 32;
	}
	vectors[EXIT_INTR / 32] |= 1u << EXIT_INTR % 32;
	if (step->code != NV_SVM_NO_CODE)
		vectors[step->code / 32] &= ~(1u << step->code % 32);
}

/* Level n is to stop as soon as it takes interrupts. */
static int wants_window(struct nv_svm *svm)
{
	const struct nv_pending *pending = &svm->switched.pending;

	if (svm->step.active)
		return 0;
	if ((pending->windows & NV_WINDOW_INTERRUPT || nv_pending_another(pending, offered(svm, NV_EVENT_INTERRUPT))) &&
	    nv_nested_route(svm->nested, svm->nested->machines, 0).turn != NV_TURN_BLOCKED)
		return 1;
	return nv_nested_waits(svm->nested);
}

int nv_svm_prepare(struct nv_svm *svm)
{
	struct nv_vmcb *block = svm->block;
	int forbidden;

	svm->entering = nv_svm_next_event(svm);
	svm->soft_event = svm->soft_injected && !svm->saves_next_rip ? svm->entering : 0;
	block->event_injection = svm->soft_event ? as_interrupt(svm->soft_event) : svm->entering;
	forbidden = is_forbidden(svm);
	svm->window = wants_window(svm);
	block->virtual_interrupt &= V_TPR;
	if (svm->window)
		block->virtual_interrupt |= V_IRQ | V_IGNORES_TPR;
	set_intercepts(svm);
	svm->switched.mailbox->acknowledge = intercepts(svm->wanted, EXIT_INTR) || svm->step.active;
	svm->switched.mailbox->interrupt = NO_INTERRUPT;
	nv_nested_compose(svm->nested);
	nv_nested_compose_gif(svm->nested);
	block->rax = *register_of(svm, NV_REG_RAX);
	block->rsp = *register_of(svm, NV_REG_RSP);
	block->rip = *register_of(svm, NV_REG_RIP);
	block->rflags = *register_of(svm, NV_REG_RFLAGS);
	/* where a processor that saves the next RIP makes software interrupts return to */
	if (svm->saves_next_rip && !svm->soft_injected)
		block->next_rip = block->rip;
	if (forbidden)
		forbid(svm);
	return forbidden;
}

void nv_svm_taken(struct nv_svm *svm)
{
	if (offered(svm, NV_EVENT_INTERRUPT) >= 0)
		nv_pending_taken(&svm->switched.pending, EVENT_VECTOR(svm->entering));
	if (offered(svm, NV_EVENT_NMI) >= 0)
		nv_pending_nmi_taken(&svm->switched.pending);
	if (blocks_nmi(svm))
		svm->switched.pending.nmi_masked = 1;
	svm->entering = svm->injection = svm->interrupted = svm->vectoring = 0;
}

void nv_svm_entered(struct nv_svm *svm)
{
	nv_svm_taken(svm);
	svm->nested->flush = 0;
	svm->nested->ahead.done = 0;
}
