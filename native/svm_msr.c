#include "nested_svm_internal.h"

#define EFER 0xc0000080

/* AMD APM vol. 2, 15.30. */
#define VM_CR 0xc0010114
#define VM_HSAVE_PA 0xc0010117
#define VM_CR_LOCK (1ull << 3)
#define VM_CR_SVMDIS (1ull << 4)
#define VM_CR_BITS 0x1full

static int write_efer(struct nv_svm *svm, uint64_t value)
{
	struct nv_machine *machine = svm->nested->active;
	struct nv_vmcb *block = svm->block;
	int svme = !!(value & EFER_SVME);

	value &= ~(EFER_LMA | EFER_SVME); /* LMA is the processor's */
	if (value & ~svm->limits.efer_allowed || ((value ^ block->efer) & EFER_LME && block->cr0 & CR0_PG))
		return 0;
	if (svme && (!svm->nested->visible || machine->vm_cr & VM_CR_SVMDIS))
		return 0;
	block->efer = value | (block->efer & EFER_LMA) | EFER_SVME;
	machine->svme = svme;
	if (!svme)
		machine->gif = 1;
	return 1;
}

static int write_vm_cr(struct nv_machine *machine, uint64_t value)
{
	uint64_t locked = machine->vm_cr & VM_CR_LOCK ? VM_CR_LOCK | VM_CR_SVMDIS : 0;

	value = (value & ~locked) | (machine->vm_cr & locked);
	if (value & ~VM_CR_BITS || (value & VM_CR_SVMDIS && machine->svme))
		return 0;
	machine->vm_cr = value;
	return 1;
}

static int write_hsave(const struct nv_nested *nested, struct nv_machine *machine, uint64_t value)
{
	if (value & 0xfff || value & nested->svm->limits.physical_reserved)
		return 0;
	machine->hsave = value;
	return 1;
}

/* SVM's own, of which there are none where it is hidden. */
static int svm_msr(struct nv_nested *nested, struct nv_event *event)
{
	struct nv_machine *machine = nested->active;
	int write = event->direction == NV_WRITE;

	if (!nested->visible)
		return 0;
	switch (event->qualifier) {
	case VM_CR:
		if (write)
			return write_vm_cr(machine, event->value);
		event->value = machine->vm_cr;
		return 1;
	case VM_HSAVE_PA:
		if (write)
			return write_hsave(nested, machine, event->value);
		event->value = machine->hsave;
		return 1;
	default:
		return 0;
	}
}

int nv_svm_serve_msr(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_svm *svm = device;

	(void)offset;
	if (event->qualifier != EFER)
		event->fault = !svm_msr(svm->nested, event);
	else if (event->direction == NV_WRITE)
		event->fault = !write_efer(svm, event->value);
	else
		event->value = (svm->block->efer & ~EFER_SVME) | (svm->nested->active->svme ? EFER_SVME : 0);
	return NV_HANDLED;
}
