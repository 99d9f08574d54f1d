#include "vmx_pass.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmx_event.h"

enum { PRIMARY_MONITOR_TRAP = 1 << 27 };
enum { ACTIVITY_HLT = 1 };
enum { VECTOR_DB = 1, VECTOR_DF = 8, VECTOR_GP = 13, VECTOR_PF = 14 };
/* #DE, #TS, #NP, #SS, #GP (SDM vol. 3, table 6-5) */
static const uint32_t contributory = 1u << 0 | 0xfu << 10;

/* How a control-register access reads in the exit qualification (SDM vol. 3, table 28-3). */
enum { CR_MOV_TO = 0, CR_MOV_FROM = 1, CR_CLTS = 2, CR_LMSW = 3 };

static int cr_number(const struct nv_vmx *vmx)
{
	return nv_vmx_got(vmx, NV_VMX_QUALIFICATION) & 15;
}

static int cr_access(const struct nv_vmx *vmx)
{
	return nv_vmx_got(vmx, NV_VMX_QUALIFICATION) >> 4 & 3;
}

/* What MOV to a control register writes. */
static uint64_t cr_source(const struct nv_vmx *vmx)
{
	return vmx->switched.mailbox->regs[nv_vmx_got(vmx, NV_VMX_QUALIFICATION) >> 8 & 15];
}

static void step(struct nv_vmx *vmx, struct nv_event *event, uint64_t primary_off, uint64_t secondary_off)
{
	vmx->stepping = NV_VMX_STEP_INSTRUCTION;
	vmx->stepped_rip = vmx->switched.mailbox->regs[NV_REG_RIP];
	vmx->step_length = nv_vmx_got(vmx, NV_VMX_LENGTH);
	event->advance = 0;
	nv_vmx_put(vmx, NV_VMCS_PRIMARY_CONTROLS, (vmx->primary & ~primary_off) | PRIMARY_MONITOR_TRAP);
	if (secondary_off)
		nv_vmx_put(vmx, NV_VMCS_SECONDARY_CONTROLS, vmx->secondary & ~secondary_off);
}

/* The processor does it: masks leave only the fixed bits to the shadows. Of those CR0.NE may be written either way. */
static int pass_cr(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_field shadow = {NV_VMCS_CR0_SHADOW, 0};
	int result;

	switch (cr_number(vmx)) {
	case 0:
		result = nv_vmx_exchange(vcpu, &shadow, 1);
		if (result)
			return result;
		vmx->cr0_shadow = shadow.value;
		if (cr_access(vmx) == CR_MOV_TO)
			shadow.value = (shadow.value & ~(uint64_t)NV_VMX_CR0_FIXED) | (cr_source(vmx) & NV_VMX_CR0_FIXED);
		nv_vmx_put(vmx, NV_VMCS_CR0_SHADOW, shadow.value);
		nv_vmx_put(vmx, NV_VMCS_CR0_MASK, NV_VMX_CR0_FIXED);
		step(vmx, &vcpu->event, 0, 0);
		vmx->stepping = NV_VMX_STEP_CONTROL_REGISTER;
		return 1;
	case 4:
		if (cr_source(vmx) & NV_VMX_CR4_FIXED) {
			vcpu->event.advance = 0;
			result = nv_vmx_inject(vcpu, NV_EVENT_EXCEPTION, VECTOR_GP, 0);
			return result ? result : 1;
		}
		nv_vmx_put(vmx, NV_VMCS_CR4_MASK, NV_VMX_CR4_FIXED);
		step(vmx, &vcpu->event, 0, 0);
		vmx->stepping = NV_VMX_STEP_CONTROL_REGISTER;
		return 1;
	default:
		/* CR3 and CR8, loads and stores */
		step(vmx, &vcpu->event, 1u << 15 | 1u << 16 | 1u << 19 | 1u << 20, 0);
		return 1;
	}
}

/* What the processor had done to CR2 or DR6 when it delivered the exception (SDM vol. 3, 28.1). */
static int set_fault_registers(struct nv_vcpu *vcpu, uint8_t vector)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t qualification = nv_vmx_got(vmx, NV_VMX_QUALIFICATION);
	struct kvm_debugregs debug;
	struct kvm_sregs sregs;

	if (vector == VECTOR_PF) {
		if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
			return -errno;
		sregs.cr2 = qualification;
		return ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) ? -errno : 0;
	}
	if (vector == VECTOR_DB) {
		if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug))
			return -errno;
		/* B0 to B3, BD, BS */
		debug.dr6 = (debug.dr6 & ~0xfull) | (qualification & 0x600f);
		return ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug) ? -errno : 0;
	}
	return 0;
}

/* Whether an exception while another was delivered makes a double fault of both (SDM vol. 3, table 6-5). */
static int doubles(uint64_t first, uint8_t second)
{
	uint8_t vector = first & 0xff;

	if (!(first & NV_VMX_EVENT_VALID) || nv_vmx_event_kind(first) != NV_EVENT_EXCEPTION || vector > 31)
		return 0;
	if (contributory >> vector & 1)
		return contributory >> second & 1;
	return vector == VECTOR_PF && (second == VECTOR_PF || contributory >> second & 1);
}

static int pass_exception(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t information = nv_vmx_got(vmx, NV_VMX_INTERRUPTION);
	uint8_t vector = information & 0xff;
	int result;

	if (nv_vmx_event_kind(information) == NV_EVENT_NMI)
		return nv_vmx_inject(vcpu, NV_EVENT_NMI, vector, 0) ? 0 : 1;
	result = set_fault_registers(vcpu, vector);
	if (result)
		return result;
	if (doubles(nv_vmx_got(vmx, NV_VMX_VECTORING), vector)) {
		result = nv_vmx_inject(vcpu, NV_EVENT_EXCEPTION, VECTOR_DF, 0);
		return result ? result : 1;
	}
	nv_vmx_inject_as(vmx, information & ~(uint64_t)NV_VMX_EVENT_UNBLOCKED, nv_vmx_got(vmx, NV_VMX_INTERRUPTION_ERROR),
			 nv_vmx_got(vmx, NV_VMX_LENGTH));
	return 1;
}

/* KVM halts level n at the entry, and wakes it. */
static int pass_halt(struct nv_vmx *vmx)
{
	if (!vmx->halts)
		return 0;
	nv_vmx_put(vmx, NV_VMCS_GUEST_ACTIVITY, ACTIVITY_HLT);
	return 1;
}

int nv_vmx_pass(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_event *event = &vcpu->event;

	switch (nv_vmx_basic(vmx)) {
	case NV_VMX_EXCEPTION:
		return pass_exception(vcpu);
	case NV_VMX_EXTERNAL_INTERRUPT:
		return nv_vmx_inject(vcpu, NV_EVENT_INTERRUPT, nv_vmx_got(vmx, NV_VMX_INTERRUPTION), 0) ? 0 : 1;
	case NV_VMX_INIT:
	case NV_VMX_INTERRUPT_WINDOW:
	case NV_VMX_NMI_WINDOW:
	case NV_VMX_MONITOR_TRAP:
	case NV_VMX_PREEMPTION_TIMER:
	case NV_VMX_INVD:
		/* nothing is left to do: level n has no cache of its own that INVD could empty */
		return 1;
	case NV_VMX_HLT:
		return pass_halt(vmx);
	case NV_VMX_CR:
		return pass_cr(vcpu);
	case NV_VMX_INVLPG:
	case NV_VMX_INVPCID:
		step(vmx, event, 1u << 9, 0);
		return 1;
	case NV_VMX_MWAIT:
		step(vmx, event, 1u << 10, 0);
		return 1;
	case NV_VMX_RDPMC:
		step(vmx, event, 1u << 11, 0);
		return 1;
	case NV_VMX_RDTSC:
	case NV_VMX_RDTSCP:
	case NV_VMX_UMWAIT:
	case NV_VMX_TPAUSE:
		step(vmx, event, 1u << 12, 0);
		return 1;
	case NV_VMX_DR:
		step(vmx, event, 1u << 23, 0);
		return 1;
	case NV_VMX_MONITOR:
		step(vmx, event, 1u << 29, 0);
		return 1;
	case NV_VMX_PAUSE:
		step(vmx, event, 1u << 30, 0);
		return 1;
	case NV_VMX_DESCRIPTOR_TABLE:
	case NV_VMX_TASK_REGISTER:
		step(vmx, event, 0, 1u << 2);
		return 1;
	case NV_VMX_WBINVD:
		step(vmx, event, 0, 1u << 6);
		return 1;
	case NV_VMX_RDRAND:
		step(vmx, event, 0, 1u << 11);
		return 1;
	case NV_VMX_RDSEED:
		step(vmx, event, 0, 1u << 16);
		return 1;
	default:
		return 0;
	}
}

/* Level n's CR0 and CR4 are what they became; the read shadows have its own bits where VMX keeps others. */
static int show_control_registers(struct nv_vcpu *vcpu)
{
	struct nv_vmx_field cr[] = {{NV_VMCS_GUEST_CR0, 0}, {NV_VMCS_CR0_SHADOW, 0}, {NV_VMCS_GUEST_CR4, 0}};
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t fixed = NV_VMX_CR0_FIXED;
	int result = nv_vmx_exchange(vcpu, cr, 3);

	if (result)
		return result;
	/* when the instruction faulted, NE is as before */
	if (nv_vmx_got(vmx, NV_VMX_RIP) != vmx->stepped_rip + vmx->step_length)
		cr[1].value = vmx->cr0_shadow;
	nv_vmx_put(vmx, NV_VMCS_CR0_SHADOW, (cr[0].value & ~fixed) | (cr[1].value & fixed));
	nv_vmx_put(vmx, NV_VMCS_CR4_SHADOW, cr[2].value & ~(uint64_t)NV_VMX_CR4_FIXED);
	nv_vmx_put(vmx, NV_VMCS_CR0_MASK, vmx->cr0_mask);
	nv_vmx_put(vmx, NV_VMCS_CR4_MASK, vmx->cr4_mask);
	return 0;
}

int nv_vmx_end_step(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint8_t stepping = vmx->stepping;
	int stepped = nv_vmx_basic(vmx) == NV_VMX_MONITOR_TRAP, result;

	/* an exit before the instruction was done: it still is to be done */
	if (!stepping || (!stepped && nv_vmx_got(vmx, NV_VMX_RIP) == vmx->stepped_rip))
		return 0;
	vmx->stepping = NV_VMX_STEP_NONE;
	if (stepping == NV_VMX_STEP_CONTROL_REGISTER) {
		result = show_control_registers(vcpu);
		if (result)
			return result;
	}
	nv_vmx_put(vmx, NV_VMCS_PRIMARY_CONTROLS, vmx->primary);
	nv_vmx_put(vmx, NV_VMCS_SECONDARY_CONTROLS, vmx->secondary);
	return stepped;
}

int nv_vmx_hide_fixed(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	int number = cr_number(vmx);

	if (nv_vmx_basic(vmx) != NV_VMX_CR)
		return 0;
	if (number == 0 ? vmx->cr0_mask != NV_VMX_CR0_FIXED : number != 4 || vmx->cr4_mask != NV_VMX_CR4_FIXED)
		return 0;
	return pass_cr(vcpu);
}
