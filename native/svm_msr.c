#include "svm_internal.h"

#define EFER 0xc0000080
#define EFER_SVME (1ull << 12)
#define EFER_LME (1ull << 8)
#define CR0_PG (1ull << 31)

static int write_efer(struct nv_svm *svm, uint64_t value)
{
	struct nv_vmcb *block = svm->block;

	value &= ~EFER_LMA; /* the processor's */
	if (value & ~svm->efer_allowed || ((value ^ block->efer) & EFER_LME && block->cr0 & CR0_PG))
		return 0;
	block->efer = value | (block->efer & EFER_LMA) | EFER_SVME;
	return 1;
}

int nv_svm_serve_msr(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_svm *svm = device;

	(void)offset;
	if (event->qualifier != EFER)
		event->fault = 1;
	else if (event->direction == NV_WRITE)
		event->fault = !write_efer(svm, event->value);
	else
		event->value = svm->block->efer & ~EFER_SVME;
	return NV_HANDLED;
}
