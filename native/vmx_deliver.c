#include "nested_vmx_internal.h"

#include <string.h>

static uint64_t event_of(int kind, uint8_t vector)
{
	return EVENT_VALID | (uint64_t)kind << EVENT_KIND | vector;
}

static void set_interruptibility(struct nv_vmx *vmx, uint64_t value)
{
	if (value == vmx->interruptibility)
		return;
	vmx->interruptibility = value;
	nv_vmx_put(vmx, NV_VMCS_GUEST_INTERRUPTIBILITY, value);
}

void nv_vmx_end_shadow(struct nv_vmx *vmx)
{
	set_interruptibility(vmx, vmx->interruptibility & ~SHADOWED);
}

void nv_vmx_shadow(struct nv_vmx *vmx)
{
	set_interruptibility(vmx, vmx->interruptibility | SHADOWED_BY_STI);
}

/* What was interrupted comes later, when something else comes first. Exceptions are raised again by their instruction. */
static void postpone(struct nv_vmx *vmx)
{
	if (!vmx->interrupted)
		return;
	if (EVENT_KIND_OF(vmx->interrupted) == NV_EVENT_INTERRUPT) {
		nv_pending_interrupt(nv_nested_pending(vmx->nested, vmx->nested->active->depth), EVENT_VECTOR(vmx->interrupted));
	} else if (EVENT_KIND_OF(vmx->interrupted) == NV_EVENT_NMI) {
		set_interruptibility(vmx, vmx->interruptibility & ~NMI_MASKED);
		nv_pending_nmi(nv_nested_pending(vmx->nested, vmx->nested->active->depth));
	}
	vmx->interrupted = 0;
}

/* An exception on top of one that was being delivered. */
static uint64_t combine(struct nv_vmx *vmx, uint64_t event)
{
	int first = EVENT_VECTOR(vmx->interrupted), second = EVENT_VECTOR(event);

	switch (nv_exception_combine(first, second)) {
	case NV_COMBINED_SHUTDOWN:
		vmx->synthetic = NV_REASON_SHUTDOWN;
		return 0;
	case NV_COMBINED_DOUBLE_FAULT:
		vmx->injection_error = 0;
		vmx->doubled = 1;
		return event_of(NV_EVENT_EXCEPTION, DF) | EVENT_ERROR_CODE;
	default:
		return event;
	}
}

static void inject(struct nv_vmx *vmx, uint64_t event, uint64_t error_code, uint64_t length)
{
	vmx->injection_error = error_code;
	vmx->injection_length = length;
	vmx->doubled = 0;
	if (vmx->interrupted && EVENT_KIND_OF(event) == NV_EVENT_EXCEPTION && EVENT_KIND_OF(vmx->interrupted) == NV_EVENT_EXCEPTION)
		event = combine(vmx, event);
	postpone(vmx);
	vmx->injection = event;
}

int nv_vmx_inject(struct nv_vcpu *vcpu, int kind, uint8_t vector, uint32_t error_code)
{
	struct nv_vmx_field cr0 = {NV_VMCS_GUEST_CR0, 0};
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t event = event_of(kind, vector);
	int result;

	if (kind == NV_EVENT_EXCEPTION && nv_exception_has_error_code(vector)) {
		/* an entry checks that an error code is there exactly when it must be: not in real mode (27.2.1.3) */
		result = nv_vmx_exchange(vcpu, &cr0, 1);
		if (result)
			return result;
		if (cr0.value & CR0_PE)
			event |= EVENT_ERROR_CODE;
	}
	inject(vmx, event, error_code, 0);
	return 0;
}

void nv_vmx_inject_soft(struct nv_vmx *vmx, int kind, uint8_t vector, uint8_t length)
{
	inject(vmx, event_of(kind, vector), 0, length);
}

int nv_vmx_raise(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t event = got(vmx, GOT_INTERRUPTION);
	int result = nv_vmx_set_fault_registers(vcpu, EVENT_VECTOR(event));

	if (result)
		return result;
	inject(vmx, event & ~EVENT_UNBLOCKED, got(vmx, GOT_INTERRUPTION_ERROR), got(vmx, GOT_LENGTH));
	return 0;
}

void nv_vmx_interrupted(struct nv_vmx *vmx)
{
	uint64_t event, unblocked = 0;

	vmx->interrupted = 0;
	vmx->interruptibility = got(vmx, GOT_INTERRUPTIBILITY);
	if (depth_of(vmx) <= GOT_INTERRUPTION_ERROR)
		return;
	event = got(vmx, GOT_VECTORING);
	if (event & EVENT_VALID) {
		/* a task switch is the delivery, if it came of one; what led to a shutdown is over */
		if (basic_of(vmx) == BASIC_TASK_SWITCH || basic_of(vmx) == BASIC_TRIPLE_FAULT)
			return;
		/* an exception that came out of an INT is the instruction's, which level n comes to again unless a level skips it */
		if (basic_of(vmx) == BASIC_EXCEPTION && EVENT_KIND_OF(event) >= NV_EVENT_SOFTWARE_INTERRUPT)
			return;
		vmx->interrupted = event & ~EVENT_UNBLOCKED;
		vmx->interrupted_error = got(vmx, GOT_VECTORING_ERROR);
		vmx->interrupted_length = got(vmx, GOT_LENGTH);
		return;
	}
	/* IRET had unmasked NMIs before it was stopped, and will again (28.2.3) */
	if (basic_of(vmx) == BASIC_EXCEPTION && !is_nmi(vmx) && EVENT_VECTOR(got(vmx, GOT_INTERRUPTION)) != DF)
		unblocked = got(vmx, GOT_INTERRUPTION) & EVENT_UNBLOCKED;
	else if (basic_of(vmx) == BASIC_EPT_VIOLATION)
		unblocked = got(vmx, GOT_QUALIFICATION) & EVENT_UNBLOCKED;
	if (unblocked)
		set_interruptibility(vmx, vmx->interruptibility | NMI_MASKED);
}

/* Level n takes one event at an entry. A step comes before what is pending. */
uint64_t nv_vmx_next_event(struct nv_vmx *vmx)
{
	const struct nv_pending *pending = &vmx->switched.pending;
	int vector;

	if (vmx->injection)
		return vmx->injection;
	if (vmx->interrupted)
		return vmx->interrupted;
	if (vmx->step.active || vmx->interruptibility & SHADOWED)
		return 0;
	if (__atomic_load_n(&pending->nmi, __ATOMIC_SEQ_CST) &&
	    nv_nested_vmx_route_nmi(vmx->nested, vmx->nested->machines, 0).turn == NV_VMX_TURN_TAKES)
		return event_of(NV_EVENT_NMI, 2);
	vector = nv_pending_highest(pending);
	if (vector < 0 || nv_nested_vmx_route(vmx->nested, vmx->nested->machines, 0).turn != NV_VMX_TURN_TAKES)
		return 0;
	return event_of(NV_EVENT_INTERRUPT, vector);
}

/* The vector of a pending interrupt or NMI that level n takes at its next entry; -1: it takes none. */
static int offered(const struct nv_vmx *vmx, int kind)
{
	return vmx->event && EVENT_KIND_OF(vmx->event) == kind && !vmx->injection && !vmx->interrupted ? EVENT_VECTOR(vmx->event) : -1;
}

static void put_event(struct nv_vmx *vmx, uint64_t event)
{
	uint64_t error_code = vmx->injection ? vmx->injection_error : vmx->interrupted_error;
	uint64_t length = vmx->injection ? vmx->injection_length : vmx->interrupted_length;

	if (event || vmx->event)
		nv_vmx_put(vmx, NV_VMCS_ENTRY_INTERRUPTION, event);
	vmx->event = event;
	if (event & EVENT_ERROR_CODE)
		nv_vmx_put(vmx, NV_VMCS_ENTRY_ERROR_CODE, error_code);
	if (event && EVENT_KIND_OF(event) >= NV_EVENT_SOFTWARE_INTERRUPT)
		nv_vmx_put(vmx, NV_VMCS_ENTRY_LENGTH, length);
	/* a halted processor takes no exceptions (27.3.1.5) */
	if (event && EVENT_KIND_OF(event) >= NV_EVENT_EXCEPTION)
		nv_vmx_put(vmx, NV_VMCS_GUEST_ACTIVITY, 0);
	/* an NMI must not be masked when it is injected: what masks it is its own delivery, which was interrupted */
	if (event && EVENT_KIND_OF(event) == NV_EVENT_NMI)
		set_interruptibility(vmx, vmx->interruptibility & ~NMI_MASKED);
}

static void put_control(struct nv_vmx *vmx, uint64_t *now, uint64_t encoding, uint64_t value)
{
	if (*now == value)
		return;
	*now = value;
	nv_vmx_put(vmx, encoding, value);
}

static void put_controls(struct nv_vmx *vmx, uint64_t windows)
{
	struct nv_vmx_controls wanted;
	const struct nv_vmx_step *step = &vmx->step;
	const struct nv_machine *active = vmx->nested->active;
	int more = windows || vmx->timer_armed || vmx->holds || vmx->acknowledges || step->active;

	/* mostly nothing changes */
	if (!more && !active->depth && !active->vmx.on && !memcmp(&vmx->now, &vmx->wanted, sizeof vmx->now))
		return;
	wanted = vmx->wanted;
	if (step->active) {
		wanted.cr0_mask &= ~step->off.cr0_mask;
		wanted.cr4_mask &= ~step->off.cr4_mask;
	}
	nv_nested_vmx_compose(vmx->nested, &wanted);
	wanted.primary |= windows;
	if (vmx->timer_armed) {
		/* what is left of it at an exit is what the next entry starts with */
		wanted.pin |= PIN_TIMER;
		wanted.exit |= EXIT_SAVES_TIMER;
	}
	/* KVM exits for these itself, and Bochs then ends the step before them: L0 does them */
	if (nv_vmx_steps(vmx, 0))
		wanted.primary |= PRIMARY_DEBUG_REGISTERS;
	if (vmx->holds)
		wanted.pin &= ~PIN_INTERRUPTS;
	if (vmx->acknowledges || step->active)
		wanted.exit |= EXIT_ACKNOWLEDGES;
	if (step->active) {
		wanted.primary &= ~step->off.primary;
		wanted.secondary &= ~step->off.secondary;
		if (step->off.msr_bitmap)
			wanted.msr_bitmap = step->off.msr_bitmap;
		/* an exception must not find the trap flag, and an interrupt must not run its handler without the control */
		wanted.exceptions = step->traps ? ~0u : wanted.exceptions;
		wanted.pin &= ~PIN_INTERRUPTS;
		if (takes_interrupts(vmx))
			wanted.pin |= PIN_INTERRUPTS;
	}
	put_control(vmx, &vmx->now.pin, NV_VMCS_PIN_CONTROLS, wanted.pin);
	put_control(vmx, &vmx->now.primary, NV_VMCS_PRIMARY_CONTROLS, wanted.primary);
	put_control(vmx, &vmx->now.secondary, NV_VMCS_SECONDARY_CONTROLS, wanted.secondary);
	put_control(vmx, &vmx->now.exit, NV_VMCS_EXIT_CONTROLS, wanted.exit);
	put_control(vmx, &vmx->now.exceptions, NV_VMCS_EXCEPTION_BITMAP, wanted.exceptions);
	put_control(vmx, &vmx->now.cr0_mask, NV_VMCS_CR0_MASK, wanted.cr0_mask);
	put_control(vmx, &vmx->now.cr4_mask, NV_VMCS_CR4_MASK, wanted.cr4_mask);
	put_control(vmx, &vmx->now.msr_bitmap, NV_VMCS_MSR_BITMAP, wanted.msr_bitmap);
	put_control(vmx, &vmx->now.ports_a, NV_VMCS_IO_BITMAP_A, wanted.ports_a);
	put_control(vmx, &vmx->now.ports_b, NV_VMCS_IO_BITMAP_B, wanted.ports_b);
	put_control(vmx, &vmx->now.ept_pointer, NV_VMCS_EPT_POINTER, wanted.ept_pointer);
	put_control(vmx, &vmx->now.tsc_offset, NV_VMCS_TSC_OFFSET, wanted.tsc_offset);
	put_control(vmx, &vmx->now.virtual_apic, NV_VMCS_VIRTUAL_APIC, wanted.virtual_apic);
	put_control(vmx, &vmx->now.tpr_threshold, NV_VMCS_TPR_THRESHOLD, wanted.tpr_threshold);
	put_control(vmx, &vmx->now.xss, NV_VMCS_XSS_BITMAP, wanted.xss);
}

/* One of the registers that an entry takes from the VMCS, unless it is there already. */
static void load(struct nv_vmx *vmx, int which, int number)
{
	struct nv_vmx_field *field = &vmx->block->exit[which];

	put_control(vmx, &field->value, field->encoding, *register_of(vmx, number));
}

void nv_vmx_prepare(struct nv_vmx *vmx)
{
	const struct nv_pending *pending = &vmx->switched.pending;
	uint64_t windows = 0;

	/* KVM delivers what it has pending rather than telling that level n takes interrupts */
	if (takes_interrupts(vmx))
		vmx->holds = 0;
	if (!(vmx->wanted.pin & PIN_INTERRUPTS) && !nv_nested_vmx_route(vmx->nested, vmx->nested->machines, 0).told)
		vmx->holds = vmx->acknowledges = 0;
	put_event(vmx, nv_vmx_next_event(vmx));
	if (!vmx->step.active) {
		windows = nv_nested_vmx_windows(vmx->nested);
		if (vmx->holds || pending->windows & NV_WINDOW_INTERRUPT || nv_pending_another(pending, offered(vmx, NV_EVENT_INTERRUPT)))
			windows |= PRIMARY_INTERRUPT_WINDOW;
		if (pending->windows & NV_WINDOW_NMI || (pending->nmi && offered(vmx, NV_EVENT_NMI) < 0))
			windows |= PRIMARY_NMI_WINDOW;
		/* opens in front of the handler's first instruction, unless it is in an NMI's */
		if (vmx->event && nv_vmx_steps(vmx, 0))
			windows |= PRIMARY_NMI_WINDOW;
	}
	if (vmx->timer) {
		nv_vmx_put(vmx, NV_VMCS_PREEMPTION_TIMER, vmx->timer);
		vmx->timer_armed = 1;
		vmx->timer_left = vmx->timer;
		vmx->timer_beyond = 0;
	}
	put_controls(vmx, windows);
	load(vmx, GOT_RIP, NV_REG_RIP);
	load(vmx, GOT_RSP, NV_REG_RSP);
	load(vmx, GOT_RFLAGS, NV_REG_RFLAGS);
}

void nv_vmx_entered(struct nv_vmx *vmx)
{
	if (offered(vmx, NV_EVENT_INTERRUPT) >= 0)
		nv_pending_taken(&vmx->switched.pending, EVENT_VECTOR(vmx->event));
	if (offered(vmx, NV_EVENT_NMI) >= 0)
		nv_pending_nmi_taken(&vmx->switched.pending);
	vmx->event = vmx->injection = vmx->interrupted = vmx->doubled = vmx->made = 0;
	vmx->timer = 0;
}
