#include "nested_vmx_internal.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "direct.h"

_Static_assert(offsetof(struct nv_vmx_block, command) == NV_VMX_COMMAND, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, started) == NV_VMX_STARTED, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, launched) == NV_VMX_LAUNCHED, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, error) == NV_VMX_ERROR, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, reason) == NV_VMX_REASON, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, writes) == NV_VMX_WRITE_COUNT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, reads) == NV_VMX_READ_COUNT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, vmxon) == NV_VMX_VMXON, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, vmcs) == NV_VMX_VMCS, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, depth) == NV_VMX_DEPTH, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, exit) == NV_VMX_EXIT_READ, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, write) == NV_VMX_WRITE, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, loaded) == NV_VMX_LOADED, "the assembler's offsets");
_Static_assert(offsetof(struct nv_vmx_block, read) == NV_VMX_READ, "the assembler's offsets");
_Static_assert(GOT_INTERRUPTION == NV_VMX_INTERRUPTION, "the assembler's index");
_Static_assert(sizeof(struct nv_vmx_block) <= NV_SWITCHER_IDT - NV_SWITCHER_BLOCK, "two pages");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->depth) == NV_VMX_BASIC_REASONS, "one for each basic reason");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->exit) == NV_VMX_EXIT_READS * sizeof(struct nv_vmx_field), "the counts");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->write) == NV_VMX_WRITES * sizeof(struct nv_vmx_field), "the counts");
_Static_assert(sizeof(((struct nv_vmx_block *)0)->read) == NV_VMX_READS * sizeof(struct nv_vmx_field), "the counts");

/* In the order of GOT_RIP to GOT_SS_RIGHTS. */
static const uint16_t exit_fields[] = {
	NV_VMCS_GUEST_RIP,
	NV_VMCS_GUEST_RSP,
	NV_VMCS_GUEST_RFLAGS,
	NV_VMCS_EXIT_LENGTH,
	NV_VMCS_GUEST_INTERRUPTIBILITY,
	NV_VMCS_EXIT_QUALIFICATION,
	NV_VMCS_GUEST_CS_RIGHTS,
	NV_VMCS_IDT_VECTORING,
	NV_VMCS_IDT_VECTORING_ERROR_CODE,
	NV_VMCS_EXIT_INTERRUPTION,
	NV_VMCS_EXIT_ERROR_CODE,
	NV_VMCS_GUEST_PHYSICAL_ADDRESS,
	NV_VMCS_EXIT_INSTRUCTION,
	NV_VMCS_GUEST_SS_RIGHTS,
};

void nv_vmx_put(struct nv_vmx *vmx, uint64_t encoding, uint64_t value)
{
	struct nv_vmx_block *block = vmx->block;
	uint64_t i;

	if (nv_vmx_put_in_memory(vmx, encoding, value))
		return;
	for (i = 0; i < block->writes && block->write[i].encoding != encoding; i++)
		;
	if (i == NV_VMX_WRITES) {
		vmx->overflowed = 1;
		return;
	}
	block->write[i].encoding = encoding;
	block->write[i].value = value;
	if (i == block->writes)
		block->writes = i + 1;
}

/* Runs the switcher until level n is outside again. NMIs that came meanwhile are level n's. -EAGAIN: level n was not entered. */
static int enter_switcher(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_mailbox *mailbox = vmx->switched.mailbox;
	int result = nv_switched_enter(vcpu);

	if (result || !vmx->switched.rung)
		return result;
	if (mailbox->nmi) {
		mailbox->nmi = 0;
		if (vmx->switched.recalling)
			vmx->switched.recalling = 0;
		else
			nv_pending_nmi(&vmx->switched.pending);
	}
	if (mailbox->state != NV_SWITCHER_AGAIN)
		return 0;
	mailbox->state = NV_SWITCHER_OUTSIDE;
	return -EAGAIN;
}

int nv_vmx_command(struct nv_vcpu *vcpu, uint64_t command, struct nv_vmx_field *fields, uint32_t count)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_block *block = vmx->block;
	uint8_t rung = vmx->switched.rung;
	int result;

	if (count > NV_VMX_READS || !nv_switched_outside(&vmx->switched))
		return -EINVAL;
	if (vmx->overflowed)
		return -ENOSPC;
	if (count)
		memcpy(block->read, fields, count * sizeof *fields);
	block->reads = count;
	block->command = command;
	do {
		/* a kick must not end it; it is found again afterwards, for it also sets the flag */
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		result = enter_switcher(vcpu);
	} while (result == -EINTR || result == -EAGAIN);
	block->command = NV_VMX_ENTER;
	vmx->switched.rung = rung;
	if (result)
		return result;
	if (!nv_switched_outside(&vmx->switched))
		return -EIO;
	block->writes = 0;
	if (count)
		memcpy(fields, block->read, count * sizeof *fields);
	return 0;
}

int nv_vmx_exchange(struct nv_vcpu *vcpu, struct nv_vmx_field *fields, uint32_t count)
{
	return nv_vmx_get_from_memory(vcpu->engine, fields, count) ? 0 : nv_vmx_command(vcpu, NV_VMX_EXCHANGE, fields, count);
}

static void save_block(struct nv_vmx *vmx)
{
	*register_of(vmx, NV_REG_RIP) = got(vmx, GOT_RIP);
	*register_of(vmx, NV_REG_RSP) = got(vmx, GOT_RSP);
	*register_of(vmx, NV_REG_RFLAGS) = got(vmx, GOT_RFLAGS);
	vmx->block->writes = 0;
}

/* Something waits that the VMCS which level n runs under knows nothing of. */
static int needs_outside(const struct nv_vmx *vmx)
{
	const struct nv_pending *pending = &vmx->switched.pending;

	if (vmx->timer || nv_nested_vmx_timers_asked(vmx->nested) || nv_nested_vmx_moved(vmx->nested) || nv_nested_vmx_stops(vmx->nested))
		return 1;
	if (!(vmx->now.primary & PRIMARY_NMI_WINDOW) && (pending->nmi || pending->windows & NV_WINDOW_NMI))
		return 1;
	return !(vmx->now.primary & PRIMARY_INTERRUPT_WINDOW) &&
	       (pending->windows & NV_WINDOW_INTERRUPT || nv_pending_highest(pending) >= 0);
}

static void refused(struct nv_vmx *vmx)
{
	vmx->switched.mailbox->state = NV_SWITCHER_OUTSIDE;
	vmx->block->writes = 0;
	vmx->refusal = vmx->block->error;
	vmx->refused = 1;
}

/* KVM forgets at an exit of its nested guest that an interrupt waits until that takes it, and thinks of it only at the next interrupt.
 * Setting the state that the vCPU has makes it look. */
static int look_for_interrupts(struct nv_vcpu *vcpu)
{
	struct kvm_mp_state running = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct nv_vmx *vmx = vcpu->engine;

	return vmx->missed && vmx->halts && ioctl(vcpu->fd, KVM_SET_MP_STATE, &running) ? -errno : 0;
}

static int vmx_enter(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int outside = nv_switched_outside(&vmx->switched), result;

	if (outside) {
		if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST))
			return -EINTR;
		vmx->switched.rung = 1;
		if (nv_nested_vmx_waits(vmx->nested))
			return 0;
		result = vmx->nested->lost || vmx->nested->endless ? -EIO : vmx->nested->failed;
		if (result)
			return result;
		if (nv_nested_answered_cpuid(vmx->nested))
			return NV_RUN_ANSWERED;
		if (nv_vmx_debug_told(vmx))
			return 0;
		result = nv_vmx_debug_own_trap(vcpu);
		if (result)
			return result;
		if (nv_nested_is_due(vmx->nested) || nv_vmx_debug_window(vmx) || nv_nested_vmx_window(vmx->nested))
			return 0;
		result = nv_nested_vmx_deliver(vmx->nested);
		if (result || nv_nested_is_due(vmx->nested) || nv_nested_vmx_waits(vmx->nested))
			return result;
		if (vmx->synthetic)
			return 0;
		result = nv_nested_vmx_read_timer(vmx->nested);
		if (!result)
			result = nv_vmx_debug_step(vcpu);
		if (result)
			return result;
		nv_vmx_prepare(vmx);
		if (vmx->overflowed)
			return -ENOSPC;
		result = look_for_interrupts(vcpu);
		if (!result && nv_nested_vmx_urgent(vmx->nested))
			result = nv_switched_summon(vcpu);
		if (result)
			return result;
	} else if (needs_outside(vmx) || (vmx->step.active && nv_vmx_steps(vmx, 0) && nv_switched_stores(vcpu))) {
		result = nv_switched_summon(vcpu);
		if (result)
			return result;
	}
	result = enter_switcher(vcpu);
	if (outside && (!result || !nv_switched_outside(&vmx->switched)))
		nv_vmx_entered(vmx);
	if (result || !vmx->switched.rung)
		return result;
	if (vmx->switched.mailbox->state == NV_SWITCHER_REFUSED)
		refused(vmx);
	else if (vmx->switched.mailbox->state != NV_SWITCHER_OUTSIDE)
		return 0;
	if (vmx->refused)
		return 0;
	save_block(vmx);
	nv_vmx_interrupted(vmx);
	vmx->missed = !takes_interrupts(vmx);
	result = nv_vmx_sort_exit(vcpu);
	return result == -EAGAIN && nv_nested_vmx_waits(vmx->nested) ? 0 : result;
}

static void vmx_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_code code;

	if (nv_nested_vmx_decode_gone(vmx->nested, event))
		return;
	if (nv_nested_is_due(vmx->nested) && vmx->switched.stepped != NV_STEPPED_TOLD) {
		nv_nested_vmx_decode_due(vmx->nested, event);
		return;
	}
	if (vmx->switched.rung) {
		nv_vmx_decode(vmx, event);
		if (event->reason == NV_REASON_DEBUG && !nv_vmx_code(vcpu, &code))
			event->value = nv_code_linear(&code);
		if (event->reason == NV_REASON_EXCEPTION && event->qualifier == UD)
			nv_vmx_decode_undefined(vcpu, event);
		else
			nv_nested_vmx_keep_instruction(vmx->nested, event);
		return;
	}
	nv_switched_decode(vcpu, event);
	nv_nested_lose_address(vmx->nested, event);
	if (event->reason == NV_REASON_IO && vmx->step.active && vmx->step.ports) {
		event->raw = vmx->stopped.raw;
		event->info = vmx->stopped.info;
		event->length = vmx->stopped.length;
	}
}

int nv_vmx_skip(struct nv_vcpu *vcpu, const struct nv_event *event)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_field rights = {NV_VMCS_GUEST_CS_RIGHTS, 0};
	uint64_t *rip = register_of(vmx, NV_REG_RIP), before = *rip;

	*rip += event->advance;
	/* code that is not 64-bit code wraps around */
	if ((*rip ^ before) >> 32 && !nv_vmx_exchange(vcpu, &rights, 1) && !(rights.value & CS_LONG))
		*rip = (uint32_t)*rip;
	nv_vmx_end_shadow(vmx);
	vmx->switched.stepped = nv_vmx_steps(vmx, 0);
	if (!(*register_of(vmx, NV_REG_RFLAGS) & RFLAGS_TF) || vmx->injection)
		return 0;
	/* the next step has the trap that is pending to itself */
	if (nv_vmx_steps(vmx, 0)) {
		vmx->owes_trap = nv_nested_vmx_wants_trap(vmx->nested);
		return vmx->owes_trap ? 0 : nv_vmx_trap_own(vcpu);
	}
	nv_vmx_put(vmx, NV_VMCS_GUEST_PENDING_DEBUG, DR6_BS);
	return 0;
}

/* The next entry gives the error. */
static void fail(struct nv_nested *nested, int result)
{
	if (result)
		nested->failed = result;
}

static void vmx_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_vmx *vmx = vcpu->engine;

	if (nv_nested_vmx_told_gone(vmx->nested))
		return;
	if (!vmx->switched.rung) {
		nv_direct_complete(vcpu, event);
		return;
	}
	if (vmx->nested->due.told) {
		memset(&vmx->nested->due, 0, sizeof vmx->nested->due);
		return;
	}
	if (event->retry)
		return;
	if (event->fault) {
		nv_nested_vmx_fault(vmx->nested, GP, 0);
		return;
	}
	if (event->size)
		nv_switched_answer(&vmx->switched, event);
	if (event->advance)
		fail(vmx->nested, nv_vmx_skip(vcpu, event));
	else if (event->reason == NV_REASON_EMULATION_FAILURE)
		nv_vmx_end_shadow(vmx);
}

static const struct nv_engine_ops vmx_ops = {
	.enter = vmx_enter,
	.decode = vmx_decode,
	.complete = vmx_complete,
	.rip = nv_nested_vmx_rip,
};

void nv_vmx_init(struct nv_vcpu *vcpu, struct nv_vmx *vmx, int fd, struct kvm_run *run, uint8_t level)
{
	struct nv_vmx_block *block = vmx->block;

	for (size_t i = 0; i < sizeof exit_fields / sizeof exit_fields[0]; i++)
		block->exit[i].encoding = exit_fields[i];
	for (uint32_t basic = 0; basic < NV_VMX_BASIC_REASONS; basic++)
		block->depth[basic] = nv_vmx_depth(basic);
	nv_vcpu_init(vcpu, &vmx_ops, level);
	vcpu->engine = vmx;
	vmx->nested->vmx = vmx;
	vmx->nested->vcpu = vcpu;
	vcpu->fd = fd;
	vcpu->run = run;
}
