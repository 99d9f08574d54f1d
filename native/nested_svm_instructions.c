#include "nested_svm_internal.h"

#include <string.h>

enum { INVLPGA = 0x7a, VMRUN = 0x80, VMLOAD = 0x82, VMSAVE = 0x83, STGI = 0x84, CLGI = 0x85, SKINIT = 0x86 };

static int done(struct nv_svm *svm, const struct nv_event *event)
{
	svm->nested->served[svm->nested->active->depth]++;
	nv_svm_skip(svm, event);
	return NV_HANDLED;
}

static int fault(struct nv_svm *svm, struct nv_event *event, int vector)
{
	svm->block->interrupt_shadow &= ~SHADOWED;
	nv_nested_raise(svm->nested, vector, vector == GP);
	event->retry = 1;
	return NV_HANDLED;
}

/* RAX names a block: a page of the machine's memory. How much of it counts the size of addresses says. */
static uint64_t operand(const struct nv_svm *svm, const struct nv_event *event)
{
	uint64_t rax = svm->switched.mailbox->regs[NV_REG_RAX];

	switch (nv_svm_address_bits(svm, event)) {
	case 16:
		return (uint16_t)rax;
	case 32:
		return (uint32_t)rax;
	default:
		return rax;
	}
}

/* Those that work on a block (AMD APM vol. 3, chapter 4). A machine below that does not give its memory hears of that first, and the
 * instruction happens again. */
static int use_block(struct nv_nested *nested, struct nv_event *event, uint64_t code, uint64_t next_rip)
{
	struct nv_svm *svm = nested->svm;
	struct nv_mailbox *mailbox = svm->switched.mailbox;
	uint64_t address = operand(svm, event);
	struct nv_nested_place place;
	uint8_t *page;

	if (address & 0xfff || address & nested->svm->limits.physical_reserved)
		return fault(svm, event, GP);
	page = nv_nested_page(nested, nested->active, address, code != VMLOAD, &place);
	if (!page)
		return nv_nested_refused(nested, &place, NPF_FINAL) ? NV_HANDLED : fault(svm, event, GP);
	if (code == VMRUN) {
		nv_nested_run(nested, (struct nv_vmcb *)page, address, next_rip);
		event->retry = !nested->too_deep;
		return nested->too_deep ? NV_DECLINED : NV_HANDLED;
	}
	if (code == VMLOAD) {
		mailbox->load = place.leaf.to;
	} else {
		mailbox->store = place.leaf.to;
		nested->ahead.stored = page;
	}
	nested->ahead.armed = 1;
	return done(svm, event);
}

int nv_nested_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_svm *svm = device;
	struct nv_nested *nested = svm->nested;
	struct nv_machine *active = nested->active;
	uint64_t code = event->raw, next_rip = *register_of(svm, NV_REG_RIP) + event->advance;

	(void)offset;
	if (code_bits(svm->block) != 64)
		next_rip = (uint32_t)next_rip;
	if (!nested->visible || !active->svme || !event->advance)
		return NV_DECLINED;
	if (code != SKINIT && svm->block->cpl)
		return fault(svm, event, GP);
	event->retry = 1; /* RIP is set here */
	switch (code) {
	case VMRUN:
	case VMLOAD:
	case VMSAVE:
		return use_block(nested, event, code, next_rip);
	case STGI:
		active->gif = 1;
		break;
	case CLGI:
		active->gif = 0;
		break;
	case INVLPGA:
		nested->flush = 1;
		break;
	default:
		return fault(svm, event, UD); /* SKINIT: CPUID does not show it */
	}
	return done(svm, event);
}

void nv_nested_init(struct nv_nested *nested)
{
	struct nv_machine *machine = nested->machines;

	nested->active = machine;
	nested->switched = &nested->svm->switched;
	nested->ops = &nv_nested_svm_ops;
	machine->used = nested->clock = nested->own_maps = 1;
	machine->gif = 1;
	nv_nested_init_paging(nested);
}
