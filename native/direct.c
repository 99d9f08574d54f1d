#include "direct.h"
#include "instruction.h"
#include "likely.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* Linux 6.8 */
#endif

#define EXIT_BARE_FAULT 0xffffffffu

/* struct kvm_run's memory_fault, which older headers lack. */
struct memory_fault {
	uint64_t flags;
	uint64_t gpa;
	uint64_t size;
};

int nv_direct_enter(struct nv_vcpu *vcpu)
{
	/* since Linux 6.8 KVM_RUN gives a memory fault as EFAULT and this exit reason; before, as EFAULT alone */
	vcpu->run->exit_reason = EXIT_BARE_FAULT;
	if (likely(!ioctl(vcpu->fd, KVM_RUN, 0)) || errno == EFAULT)
		return 0;
	return -errno;
}

/* Constant sizes keep the copies of one element single loads and stores. */
static uint64_t first_element(const struct nv_event *event)
{
	uint64_t value = 0;

	switch (event->size) {
	case 1:
		return event->data[0];
	case 2:
		memcpy(&value, event->data, 2);
		return value;
	case 4:
		memcpy(&value, event->data, 4);
		return value;
	case 8:
		memcpy(&value, event->data, 8);
		return value;
	default:
		memcpy(&value, event->data, event->size < 8 ? event->size : 8);
		return value;
	}
}

static void set_first_element(const struct nv_event *event)
{
	switch (__builtin_expect(event->size, 1)) {
	case 1:
		event->data[0] = event->value;
		break;
	case 2:
		memcpy(event->data, &event->value, 2);
		break;
	case 4:
		memcpy(event->data, &event->value, 4);
		break;
	case 8:
		memcpy(event->data, &event->value, 8);
		break;
	default:
		memcpy(event->data, &event->value, event->size < 8 ? event->size : 8);
	}
}

static inline void decode_io(struct kvm_run *run, struct nv_event *event)
{
	event->raw = KVM_EXIT_IO;
	event->info = 0;
	event->reason = NV_REASON_IO;
	event->qualifier = run->io.port;
	event->direction = run->io.direction == KVM_EXIT_IO_OUT ? NV_WRITE : NV_READ;
	event->size = run->io.size;
	event->count = run->io.count;
	event->data = (uint8_t *)run + run->io.data_offset;
	event->value = event->direction == NV_WRITE ? first_element(event) : 0;
}

static void decode_mmio(struct kvm_run *run, struct nv_event *event)
{
	event->reason = NV_REASON_MMIO;
	event->qualifier = run->mmio.phys_addr;
	event->direction = run->mmio.is_write ? NV_WRITE : NV_READ;
	event->size = run->mmio.len;
	event->data = run->mmio.data;
	if (event->direction == NV_WRITE)
		event->value = first_element(event);
}

static void decode_msr(struct kvm_run *run, struct nv_event *event, int write)
{
	event->reason = write ? NV_REASON_WRMSR : NV_REASON_RDMSR;
	event->qualifier = run->msr.index;
	event->direction = write ? NV_WRITE : NV_READ;
	event->size = 8;
	event->info = run->msr.reason;
	if (write)
		event->value = run->msr.data;
}

static void decode_emulation_failure(struct kvm_run *run, struct nv_event *event)
{
	uint32_t length = 0;

	event->reason = NV_REASON_EMULATION_FAILURE;
	event->direction = NV_EXECUTE;
	if (run->internal.ndata >= 2 && run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
		length = run->emulation_failure.insn_size;
	if (length > NV_INSTRUCTION_MAX)
		length = NV_INSTRUCTION_MAX;
	memcpy(event->instruction, run->emulation_failure.insn_bytes, length);
	event->instruction_length = length;
	event->qualifier = nv_instruction_key(event->instruction, length);
}

static void decode_memory_fault(struct kvm_run *run, struct nv_event *event)
{
	struct memory_fault fault;

	memcpy(&fault, run->padding, sizeof fault);
	event->reason = NV_REASON_MEMORY_FAULT;
	event->qualifier = fault.gpa;
	event->info = fault.flags;
}

static __attribute__((noinline)) void decode_other(struct kvm_run *run, struct nv_event *event)
{
	event->raw = run->exit_reason;
	event->qualifier = event->value = event->info = 0;
	event->data = NULL;
	event->count = 1;
	event->size = 0;
	event->direction = NV_READ;
	switch (run->exit_reason) {
	case KVM_EXIT_MMIO:
		decode_mmio(run, event);
		break;
	case KVM_EXIT_X86_RDMSR:
		decode_msr(run, event, 0);
		break;
	case KVM_EXIT_X86_WRMSR:
		decode_msr(run, event, 1);
		break;
	case KVM_EXIT_HLT:
		event->reason = NV_REASON_HLT;
		event->instruction[0] = 0xf4;
		event->length = event->instruction_length = 1;
		break;
	case KVM_EXIT_DEBUG:
		event->reason = NV_REASON_DEBUG;
		event->qualifier = run->debug.arch.exception;
		event->info = run->debug.arch.dr6;
		event->value = run->debug.arch.pc;
		break;
	case KVM_EXIT_SHUTDOWN:
		event->reason = NV_REASON_SHUTDOWN;
		break;
	case KVM_EXIT_MEMORY_FAULT:
		decode_memory_fault(run, event);
		break;
	case EXIT_BARE_FAULT:
		/* KVM does not say where */
		event->raw = KVM_EXIT_MEMORY_FAULT;
		event->reason = NV_REASON_MEMORY_FAULT;
		event->qualifier = ~0ull;
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
			decode_emulation_failure(run, event);
		} else {
			event->reason = NV_REASON_INTERNAL_ERROR;
			event->qualifier = run->internal.suberror;
		}
		event->info = run->internal.suberror;
		break;
	case KVM_EXIT_FAIL_ENTRY:
		event->reason = NV_REASON_ENTRY_FAILURE;
		event->qualifier = event->info = run->fail_entry.hardware_entry_failure_reason;
		break;
	case KVM_EXIT_HYPERCALL:
		event->reason = NV_REASON_HYPERCALL;
		event->qualifier = run->hypercall.nr;
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		event->reason = NV_REASON_SYSTEM_EVENT;
		event->qualifier = run->system_event.type;
		break;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		event->reason = NV_REASON_INTERRUPT_WINDOW;
		break;
	case KVM_EXIT_IOAPIC_EOI:
		event->reason = NV_REASON_EOI;
		event->qualifier = run->eoi.vector;
		break;
	default:
		event->reason = NV_REASON_UNKNOWN;
		event->qualifier = run->exit_reason;
	}
}

void nv_direct_decode(struct nv_vcpu *vcpu, struct nv_event *event)
{
	if (likely(vcpu->run->exit_reason == KVM_EXIT_IO))
		decode_io(vcpu->run, event);
	else
		decode_other(vcpu->run, event);
}

void nv_direct_complete(struct nv_vcpu *vcpu, struct nv_event *event)
{
	switch (__builtin_expect(event->reason, NV_REASON_IO)) {
	case NV_REASON_IO:
	case NV_REASON_MMIO:
		if (event->direction == NV_READ && event->count == 1)
			set_first_element(event);
		break;
	case NV_REASON_RDMSR:
		vcpu->run->msr.data = event->value;
		vcpu->run->msr.error = event->fault;
		break;
	case NV_REASON_WRMSR:
		vcpu->run->msr.error = event->fault;
		break;
	default:
		break;
	}
}

uint64_t nv_direct_rip(const struct nv_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	return run->kvm_valid_regs & KVM_SYNC_X86_REGS ? run->s.regs.regs.rip : 0;
}

static const struct nv_engine_ops direct_ops = {
	.enter = nv_direct_enter,
	.decode = nv_direct_decode,
	.complete = nv_direct_complete,
	.rip = nv_direct_rip,
};

void nv_direct_init(struct nv_vcpu *vcpu, int fd, struct kvm_run *run, uint8_t level)
{
	nv_vcpu_init(vcpu, &direct_ops, level);
	vcpu->fd = fd;
	vcpu->run = run;
}
