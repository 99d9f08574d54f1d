#include "switched.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "direct.h"

_Static_assert(sizeof(((struct nv_mailbox *)0)->regs) == 8 * NV_REGS, "the registers' indices");
_Static_assert(offsetof(struct nv_mailbox, state) == NV_MAILBOX_STATE, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, block) == NV_MAILBOX_BLOCK, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, interrupt) == NV_MAILBOX_INTERRUPT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, idt) == NV_MAILBOX_IDT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, interrupt_idt) == NV_MAILBOX_INTERRUPT_IDT, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, nmi) == NV_MAILBOX_NMI, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, panic) == NV_MAILBOX_PANIC, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, store) == NV_MAILBOX_STORE, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, load) == NV_MAILBOX_LOAD, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, enabled) == NV_MAILBOX_ENABLED, "the assembler's offsets");
_Static_assert(offsetof(struct nv_mailbox, acknowledge) == NV_MAILBOX_ACKNOWLEDGE, "the assembler's offsets");

/* KVM shadows the nested page tables, and sees writes to them only when its guest does them. Taking away their memory and giving it
 * back makes it start afresh. */
static int forget_tables(struct nv_switched *switched)
{
	struct kvm_userspace_memory_region nothing = switched->tables;

	nothing.memory_size = 0;
	if (ioctl(switched->vm_fd, KVM_SET_USER_MEMORY_REGION, &nothing) ||
	    ioctl(switched->vm_fd, KVM_SET_USER_MEMORY_REGION, &switched->tables))
		return -errno;
	switched->shadow->stale = 0;
	return 0;
}

int nv_switched_enter(struct nv_vcpu *vcpu)
{
	struct nv_switched *switched = vcpu->engine;
	int result;

	if (switched->faulted) {
		/* a level may have mapped it since, and level n tries again: without another exit then */
		nv_shadow_fill(switched->shadow, switched->fault_address, switched->faulted);
		switched->faulted = 0;
	}
	if (switched->shadow->stale) {
		result = forget_tables(switched);
		if (result)
			return result;
	}
	result = nv_direct_enter(vcpu);
	if (result)
		return result;
	switched->rung = nv_switched_rang(vcpu);
	if (!switched->rung)
		return 0;
	if (switched->mailbox->state == NV_SWITCHER_RINGING)
		switched->mailbox->state = NV_SWITCHER_OUTSIDE;
	return switched->mailbox->state == NV_SWITCHER_PANIC ? -EIO : 0;
}

void nv_switched_answer(struct nv_switched *switched, const struct nv_event *event)
{
	uint64_t *regs = switched->mailbox->regs;

	switch (event->reason) {
	case NV_REASON_RDMSR:
		regs[NV_REG_RAX] = (uint32_t)event->value;
		regs[NV_REG_RDX] = event->value >> 32;
		break;
	case NV_REASON_CR_READ:
	case NV_REASON_DR_READ:
		regs[switched->operand] = event->size == 4 ? (uint32_t)event->value : event->value;
		break;
	default:
		break;
	}
}

int nv_switched_outside(const struct nv_switched *switched)
{
	return switched->mailbox->state == NV_SWITCHER_OUTSIDE;
}

int nv_switched_fill(struct nv_switched *switched, uint64_t address, uint32_t access)
{
	if (nv_shadow_fill(switched->shadow, address, access) == NV_SHADOW_FILLED)
		return 1;
	switched->faulted = access;
	switched->fault_address = address;
	return 0;
}

void nv_switched_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	struct nv_switched *switched = vcpu->engine;

	nv_direct_decode(vcpu, event);
	if (event->reason == NV_REASON_MMIO) {
		uint64_t address = nv_shadow_unwindow(switched->shadow, event->qualifier);

		event->space = address >> NV_SPACE_SHIFT;
		event->qualifier = address & ((1ull << NV_SPACE_SHIFT) - 1);
	} else if (event->reason == NV_REASON_MEMORY_FAULT) {
		event->qualifier = nv_shadow_reverse(switched->shadow, event->qualifier);
	}
}

uint64_t nv_switched_rip(const struct nv_vcpu *vcpu)
{
	const struct nv_switched *switched = vcpu->engine;

	return switched->rung ? switched->mailbox->regs[NV_REG_RIP] : nv_direct_rip(vcpu);
}

int nv_switched_rang(const struct nv_vcpu *vcpu)
{
	const struct nv_switched *switched = vcpu->engine;

	return vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == NV_DOORBELL &&
	       switched->mailbox->state != NV_SWITCHER_RUNNING;
}

int nv_switched_stores(const struct nv_vcpu *vcpu)
{
	return vcpu->run->exit_reason == KVM_EXIT_MMIO && vcpu->run->mmio.is_write;
}

int nv_switched_summon(struct nv_vcpu *vcpu)
{
	struct nv_switched *switched = vcpu->engine;

	if (switched->recalling)
		return 0;
	if (ioctl(vcpu->fd, KVM_NMI, 0))
		return -errno;
	switched->recalling = 1;
	return 0;
}

int nv_switched_recall(struct nv_vcpu *vcpu)
{
	struct nv_switched *switched = vcpu->engine;
	int result;

	if (nv_switched_outside(switched))
		return 0;
	result = nv_switched_summon(vcpu);
	if (result)
		return result;
	do {
		/* a kick must not end the entry that takes the NMI; it is found again afterwards, for it also sets the flag */
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		result = vcpu->ops->enter(vcpu);
	} while ((result == -EINTR || result == -EAGAIN) && switched->recalling);
	/* when something else came first, the NMI is still to come */
	return !switched->recalling ? 0 : result ? result : -EIO;
}
