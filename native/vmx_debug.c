#include "vmx_internal.h"

#include <errno.h>
#include <sys/ioctl.h>

#define DR6_ONES 0xffff0ff0
#define DR6_SETTABLE 0xe00f
#define DR7_GD (1ull << 13)
#define DR7_ONES 0x400
#define DR7_SETTABLE 0xffff2bff

int nv_vmx_set_fault_registers(struct nv_vcpu *vcpu, int vector)
{
	struct nv_vmx *vmx = vcpu->engine;
	uint64_t qualification = got(vmx, GOT_QUALIFICATION);
	struct kvm_debugregs debug;
	struct kvm_sregs sregs;

	if (vector == PF) {
		if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
			return -errno;
		sregs.cr2 = qualification;
		return ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) ? -errno : 0;
	}
	if (vector == DB) {
		if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug))
			return -errno;
		debug.dr6 = (debug.dr6 & ~0xfull) | (qualification & (DR6_CAUSES | DR6_BS));
		return ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug) ? -errno : 0;
	}
	return 0;
}

int nv_vmx_trap_own(struct nv_vcpu *vcpu)
{
	struct kvm_debugregs debug;

	if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug))
		return -errno;
	debug.dr6 |= DR6_BS;
	if (ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug))
		return -errno;
	return nv_vmx_inject(vcpu, NV_EVENT_EXCEPTION, DB, 0);
}

/* Level n's #DB or #GP instead. */
static int faults(struct nv_vcpu *vcpu, uint8_t vector)
{
	int result;

	vcpu->event.advance = 0;
	result = nv_vmx_inject(vcpu, NV_EVENT_EXCEPTION, vector, 0);
	return result ? result : 1;
}

static int write_register(struct nv_vcpu *vcpu, struct kvm_debugregs *debug, int number, uint64_t value)
{
	if (number >= 6 && value >> 32)
		return faults(vcpu, GP);
	if (number == 7) {
		nv_vmx_put(vcpu->engine, NV_VMCS_GUEST_DR7, (value & DR7_SETTABLE) | DR7_ONES);
		return 1;
	}
	if (number == 6)
		debug->dr6 = (value & DR6_SETTABLE) | DR6_ONES;
	else
		debug->db[number] = value;
	return ioctl(vcpu->fd, KVM_SET_DEBUGREGS, debug) ? -errno : 1;
}

int nv_vmx_pass_dr(struct nv_vcpu *vcpu)
{
	struct nv_vmx *vmx = vcpu->engine;
	struct nv_vmx_field dr7 = {NV_VMCS_GUEST_DR7, 0};
	int number = got(vmx, GOT_QUALIFICATION) & 7;
	struct kvm_debugregs debug;
	int result = nv_vmx_exchange(vcpu, &dr7, 1);

	if (result)
		return result;
	if (ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug))
		return -errno;
	/* the exit comes before the fault that protects the registers (26.1.3) */
	if (dr7.value & DR7_GD) {
		nv_vmx_put(vmx, NV_VMCS_GUEST_DR7, dr7.value & ~DR7_GD);
		debug.dr6 |= DR6_BD;
		return ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug) ? -errno : faults(vcpu, DB);
	}
	/* DR4 and DR5 are DR6 and DR7, or undefined, which comes before the exit */
	if (number == 4 || number == 5)
		number += 2;
	if (vcpu->event.direction == NV_WRITE)
		return write_register(vcpu, &debug, number, vcpu->event.value);
	*register_of(vmx, vmx->switched.operand) = number == 7 ? dr7.value : number == 6 ? debug.dr6 : debug.db[number];
	vcpu->event.size = 0;
	return 1;
}
