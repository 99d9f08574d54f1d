#include "nested_vmx_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define ACTIVITY_HLT 1
/* MSRs that the bitmap has (25.6.9); accesses to others always exit. */
#define MSRS_LOW 0x1fff
#define MSRS_HIGH 0xc0000000

static void begin(struct nv_vmx *vmx, const struct nv_vmx_controls *off, const struct nv_trap_flag *trap)
{
	vmx->step = (struct nv_vmx_step){
		.off = *off,
		.rip = *register_of(vmx, NV_REG_RIP),
		.count = *register_of(vmx, NV_REG_RCX),
		.active = 1,
		.traps = 1,
		.trap = *trap,
	};
	nv_trap_set(&vmx->step.trap, vmx->nested->vcpu->fd, vmx->switched.mailbox->regs);
	/* Bochs has the trap of level n's own pending at every exit, before the instruction is done */
	if (vmx->step.trap.own)
		nv_vmx_put(vmx, NV_VMCS_GUEST_PENDING_DEBUG, 0);
	/* with the trap flag set the processor enters no shadow that has no #DB pending (27.3.1.5); interrupts exit meanwhile */
	nv_vmx_end_shadow(vmx);
}

void nv_vmx_step_begin(struct nv_vmx *vmx, const struct nv_vmx_controls *off)
{
	begin(vmx, off, &(struct nv_trap_flag){0});
}

void nv_vmx_step_trap(struct nv_vmx *vmx, const struct nv_trap_flag *trap)
{
	begin(vmx, &(struct nv_vmx_controls){0}, trap);
}

/* CR0 and CR4 are what they became; the read shadows have level n's bits where VMX keeps others. */
static int show_control_registers(struct nv_vcpu *vcpu, int executed)
{
	struct nv_vmx_field cr[] = {{NV_VMCS_GUEST_CR0, 0}, {NV_VMCS_CR0_SHADOW, 0}, {NV_VMCS_GUEST_CR4, 0}};
	struct nv_vmx *vmx = vcpu->engine;
	int result = nv_vmx_exchange(vcpu, cr, 3);

	if (result)
		return result;
	if (!executed && vmx->step.off.cr0_mask)
		cr[1].value = vmx->step.cr0_shadow;
	if (!executed && vmx->step.off.cr4_mask)
		vmx->nested->active->vmx.vmxe = vmx->step.vmxe;
	cr[0].value = nv_nested_vmx_seen_cr0(vmx->nested, cr[0].value, cr[1].value);
	nv_nested_vmx_activate(vmx->nested, vmx->nested->active, cr[0].value, cr[2].value);
	return 0;
}

/* PUSHF has stored the trap flag that is L0's. */
static int clean_pushed_flags(struct nv_vcpu *vcpu)
{
	struct nv_vmx_field stack[] = {{NV_VMCS_GUEST_SS_BASE, 0}, {NV_VMCS_GUEST_SS_RIGHTS, 0}};
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_code code;
	int result = nv_vmx_code(vcpu, &code);

	if (!result)
		result = nv_vmx_exchange(vcpu, stack, 2);
	if (!result)
		nv_trap_clean(vmx->switched.paging, &code, stack[0].value, !!(stack[1].value & CS_BIG), *register_of(vmx, NV_REG_RSP));
	return result;
}

int nv_vmx_step_end(struct nv_vcpu *vcpu, int executed)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_step *step = &vmx->step;
	uint8_t owns = step->trap.own;

	step->active = 0;
	if (executed)
		vmx->switched.stepped = 1;
	if (!step->traps) {
		nv_vmx_put(vmx, NV_VMCS_GUEST_ACTIVITY, 0);
		return 0;
	}
	nv_trap_clear(&step->trap, vcpu->fd, vmx->switched.mailbox->regs, executed);
	/* where KVM did the instruction, Bochs still has its own trap pending */
	nv_vmx_put(vmx, NV_VMCS_GUEST_PENDING_DEBUG, 0);
	if (executed && step->trap.kind == NV_TRAPPED_PUSHES && !owns)
		return clean_pushed_flags(vcpu);
	return step->moves_cr ? show_control_registers(vcpu, executed) : 0;
}

/* In VMX operation fixed bits stay set (24.8), and without VMX there is no VMXE. */
static int may_write(const struct nv_nested *nested, int number, uint64_t value)
{
	if (number == 0)
		return !(nv_nested_vmx_held_cr0(nested) & ~value);
	return value & CR4_VMXE ? nested->visible : !nested->active->vmx.on;
}

/* The processor writes CR0 or CR4: only the fixed bits stay masked, and their read shadows have level n's. */
int nv_vmx_pass_cr(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_controls off = {0};
	struct nv_vmx_field shadow = {NV_VMCS_CR0_SHADOW, 0};
	uint64_t source = *register_of(vmx, got(vmx, GOT_QUALIFICATION) >> 8 & 15);
	int result;

	switch (cr_number(vmx)) {
	case 0:
		if (cr_access(vmx) == CR_MOV_TO && !may_write(vmx->nested, 0, source))
			return nv_nested_vmx_fault(vmx->nested, GP, 0);
		result = nv_vmx_exchange(vcpu, &shadow, 1);
		if (result)
			return result;
		off.cr0_mask = ~CR0_FIXED;
		nv_vmx_step_begin(vmx, &off);
		vmx->step.moves_cr = 1;
		vmx->step.cr0_shadow = shadow.value;
		if (cr_access(vmx) == CR_MOV_TO)
			nv_vmx_put(vmx, NV_VMCS_CR0_SHADOW, (shadow.value & ~CR0_FIXED) | (source & CR0_FIXED));
		return 1;
	case 4:
		if (!may_write(vmx->nested, 4, source))
			return nv_nested_vmx_fault(vmx->nested, GP, 0);
		off.cr4_mask = ~CR4_FIXED;
		nv_vmx_step_begin(vmx, &off);
		vmx->step.moves_cr = 1;
		vmx->step.vmxe = vmx->nested->active->vmx.vmxe;
		vmx->nested->active->vmx.vmxe = !!(source & CR4_VMXE);
		nv_vmx_put(vmx, NV_VMCS_CR4_SHADOW, source);
		return 1;
	default:
		/* loads and stores of CR3 and CR8 */
		off.primary = 1u << 15 | 1u << 16 | 1u << 19 | 1u << 20;
		nv_vmx_step_begin(vmx, &off);
		return 1;
	}
}

/* KVM does it, and exits for it. */
void nv_vmx_pass_port(struct nv_vmx *vmx)
{
	struct nv_vmx_controls off = {.primary = 1u << 24 | 1u << 25};

	nv_vmx_step_begin(vmx, &off);
	vmx->step.ports = 1;
}

static int pass_wrmsr(struct nv_vmx *vmx, uint32_t index)
{
	/* the page behind the bitmap is empty */
	struct nv_vmx_controls off = {.msr_bitmap = NV_SWITCHER_BASE + NV_SWITCHER_MSRPM + 0x1000};

	if (index > MSRS_LOW && index - MSRS_HIGH > MSRS_LOW)
		return 0;
	nv_vmx_step_begin(vmx, &off);
	return 1;
}

static int pass_xsetbv(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct kvm_xcrs xcrs = {.nr_xcrs = 1};

	xcrs.xcrs[0].value = *register_of(vmx, NV_REG_RDX) << 32 | (uint32_t)*register_of(vmx, NV_REG_RAX);
	if (!(uint32_t)*register_of(vmx, NV_REG_RCX) && !ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs))
		return 1;
	vcpu->event.advance = 0;
	return nv_vmx_inject(vcpu, NV_EVENT_EXCEPTION, GP, 0) ? -EIO : 1;
}

/* The bits that stop an instruction that executes by a step; 0: it does not. */
static struct nv_vmx_controls controls_of(uint32_t basic)
{
	switch (basic) {
	case BASIC_INVLPG:
	case BASIC_INVPCID:
		return (struct nv_vmx_controls){.primary = 1u << 9};
	case BASIC_MWAIT:
		return (struct nv_vmx_controls){.primary = 1u << 10};
	case BASIC_RDPMC:
		return (struct nv_vmx_controls){.primary = 1u << 11};
	case BASIC_RDTSC:
	case BASIC_RDTSCP:
	case BASIC_UMWAIT:
	case BASIC_TPAUSE:
		return (struct nv_vmx_controls){.primary = 1u << 12};
	case BASIC_MONITOR:
		return (struct nv_vmx_controls){.primary = 1u << 29};
	case BASIC_PAUSE:
		return (struct nv_vmx_controls){.primary = 1u << 30};
	case BASIC_TABLE:
	case BASIC_TASK_TABLE:
		return (struct nv_vmx_controls){.secondary = 1u << 2};
	case BASIC_WBINVD:
		return (struct nv_vmx_controls){.secondary = 1u << 6};
	case BASIC_RDRAND:
		return (struct nv_vmx_controls){.secondary = 1u << 11};
	case BASIC_ENCLS:
		return (struct nv_vmx_controls){.secondary = 1u << 15};
	case BASIC_RDSEED:
		return (struct nv_vmx_controls){.secondary = 1u << 16};
	default:
		return (struct nv_vmx_controls){0};
	}
}

static int step_over(struct nv_vmx *vmx)
{
	struct nv_vmx_controls off = controls_of(basic_of(vmx));

	if (!off.primary && !off.secondary)
		return 0;
	nv_vmx_step_begin(vmx, &off);
	return 1;
}

int nv_vmx_pass(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint8_t advance = vcpu->event.advance;
	int result;

	vcpu->event.advance = 0;
	if (nv_nested_pass(vmx->nested, &vcpu->event) || nv_nested_is_step(&vcpu->event))
		return 1;
	if (vmx->made) /* a window that is open; or the end of level n */
		return vcpu->event.reason != NV_REASON_SHUTDOWN && vcpu->event.reason != NV_REASON_ENTRY_FAILURE;
	switch (basic_of(vmx)) {
	case BASIC_EXCEPTION:
		if (is_nmi(vmx)) {
			nv_pending_nmi(&vmx->switched.pending);
			return 1;
		}
		result = nv_vmx_raise(vcpu);
		return result ? result : 1;
	case BASIC_INTERRUPT:
		nv_pending_interrupt(&vmx->switched.pending, got(vmx, GOT_INTERRUPTION));
		return 1;
	case BASIC_INTERRUPT_WINDOW:
	case BASIC_NMI_WINDOW:
	case BASIC_MONITOR_TRAP:
	case BASIC_PREEMPTION_TIMER:
		return 1;
	case BASIC_CR:
		return nv_vmx_pass_cr(vcpu);
	case BASIC_DR:
		vcpu->event.advance = advance;
		return nv_vmx_pass_dr(vcpu);
	case BASIC_WRMSR:
		result = pass_wrmsr(vmx, *register_of(vmx, NV_REG_RCX));
		break;
	case BASIC_HLT:
		vcpu->event.advance = advance;
		if (vmx->halts)
			nv_vmx_put(vmx, NV_VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
		return vmx->halts;
	case BASIC_INVD:
		/* level n has no cache of its own that it could empty */
		vcpu->event.advance = advance;
		return 1;
	case BASIC_XSETBV:
		vcpu->event.advance = advance;
		return pass_xsetbv(vcpu);
	default:
		result = step_over(vmx);
	}
	if (!result)
		vcpu->event.advance = advance;
	return result;
}
