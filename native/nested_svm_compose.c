#include "nested_svm_internal.h"

#define PAGE 4096ull

#define MSR_PAGE (NV_NESTED_PORTS / PAGE)

/* Pages first to last of the maps, from the machine's map at this address: the low bits of that are ignored. Gives 1 when `place` says which
 * of them is refused. */
static int compose_map(struct nv_nested *nested, struct nv_machine *machine, unsigned int first, unsigned int last, uint64_t code,
		       uint64_t map, struct nv_nested_place *place)
{
	uint64_t from = map & ~(PAGE - 1);
	int asks = intercepts(machine->guest.intercept, code), refused = 0;

	for (unsigned int i = first; i <= last; i++, from += PAGE) {
		struct nv_nested_place one;

		if (!nv_nested_compose_map(nested, machine, i, asks ? from : NV_NESTED_MAP_NONE, &one) || refused)
			continue;
		*place = one;
		refused = 1;
	}
	return refused;
}

int nv_nested_compose_maps(struct nv_nested *nested, struct nv_machine *machine, struct nv_nested_place *place)
{
	const struct nv_machine *parent = machine->parent;
	const struct nv_vmcb *guest = &machine->guest;
	int refused;

	for (int i = 0; i < 6; i++)
		machine->composed[i] = guest->intercept[i] | (parent ? parent->composed[i] : 0);
	machine->tsc_offset = guest->tsc_offset + (parent ? parent->tsc_offset : 0);
	refused = compose_map(nested, machine, MSR_PAGE, NV_NESTED_MAP_PAGES - 1, EXIT_MSR, guest->msrpm, place);
	return compose_map(nested, machine, 0, MSR_PAGE - 1, EXIT_IOIO, guest->iopm, place) || refused; /* the ports come first */
}

static int has_changed(struct nv_nested *nested, struct nv_machine *machine, uint64_t code, unsigned int byte)
{
	uint64_t map = code == EXIT_MSR ? machine->guest.msrpm : machine->guest.iopm;
	unsigned int offset = code == EXIT_MSR ? NV_NESTED_PORTS + byte : byte;

	return intercepts(machine->guest.intercept, code) &&
	       nv_nested_map_changed(nested, machine, offset, (map & ~(PAGE - 1)) + (byte & ~(PAGE - 1)));
}

int nv_nested_remap(struct nv_nested *nested)
{
	const struct nv_vmcb *block = nested->svm->block;
	uint64_t code = block->exit_code, info = block->exit_info_1;
	int bit = nv_nested_msr_bit(*register_of(nested->svm, NV_REG_RCX)), changed = 0;
	unsigned int port = info >> 16 & 0xffff, size = info >> 4 & 7, first = (code == EXIT_MSR ? (unsigned int)bit : port) / 8;
	struct nv_nested_place place;

	if (code != EXIT_IOIO && (code != EXIT_MSR || bit == NV_NESTED_NO_BIT))
		return 0;
	/* whoever asks for it now has it, whatever others do not ask for any more */
	if (nv_nested_owner(nested, code, info))
		return 0;
	for (struct nv_machine *machine = nested->active->parent; machine; machine = machine->parent) {
		changed |= has_changed(nested, machine, code, first);
		changed |= code == EXIT_IOIO && size && has_changed(nested, machine, code, (port + size - 1) / 8);
	}
	for (struct nv_machine *machine = nested->machines; changed && machine->child; machine = machine->child)
		nv_nested_compose_maps(nested, machine, &place);
	return changed;
}

/* How the processor treats external interrupts, which are machine 0's. */
static void compose_interrupts(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;
	struct nv_vmcb *block = svm->block;
	struct nv_nested_route route = nv_nested_route(nested, nested->machines, 0);
	uint32_t bit = 1u << EXIT_INTR % 32;
	int own = intercepts(svm->wanted, EXIT_INTR) || svm->step.active;

	svm->switched.mailbox->enabled = 0;
	if (route.masked) {
		block->virtual_interrupt |= V_INTR_MASKING; /* and CR8 is the block's V_TPR */
		svm->switched.mailbox->enabled = 1;
	}
	if (own) {
		block->intercept[EXIT_INTR / 32] |= bit;
		return;
	}
	block->intercept[EXIT_INTR / 32] &= ~bit;
	if (route.turn == NV_TURN_BLOCKED || route.told) {
		/* L0 takes it and keeps it. RFLAGS.IF outside would hold it back, too, but where KVM waits for such an interrupt's window
		 * it gives level n vector 0 (Linux 6.1) */
		block->intercept[EXIT_INTR / 32] |= bit;
		svm->switched.mailbox->acknowledge = 1;
		return;
	}
	if (route.machine)
		block->intercept[EXIT_INTR / 32] |= bit;
}

void nv_nested_compose(struct nv_nested *nested)
{
	struct nv_svm *svm = nested->svm;
	struct nv_vmcb *block = svm->block;
	const struct nv_machine *active = nested->active, *parent = active->parent;
	uint64_t maps = nested->maps_physical;

	nested->walked = 0;
	nv_nested_follow(nested);
	compose_interrupts(nested);
	block->asid = 1 + active->tables;
	block->tlb_control = nested->flush ? TLB_FLUSH_ALL : 0;
	if (!parent) {
		const struct nv_shadow *shadow = nested->shadow;

		block->nested_cr3 = shadow->physical + shadow->root * PAGE;
		block->tsc_offset = 0;
		block->iopm = NV_SWITCHER_BASE + NV_SWITCHER_IOPM;
		block->msrpm = NV_SWITCHER_BASE + NV_SWITCHER_MSRPM;
		return;
	}
	struct nv_nested_tables *tables = &nested->tables[active->tables];

	if (tables->shadow.stale) {
		tables->shadow.stale = 0;
		nested->shadow->stale = 1;
	}
	for (int i = 0; i < 6; i++) {
		uint32_t composed = parent->composed[i];

		if (i == EXIT_INTR / 32)
			composed &= ~(1u << EXIT_INTR % 32 | 1u << EXIT_VINTR % 32);
		block->intercept[i] |= composed;
	}
	if (svm->step.active && svm->step.code != NV_SVM_NO_CODE)
		block->intercept[svm->step.code / 32] &= ~(1u << svm->step.code % 32);
	block->nested_cr3 = tables->shadow.physical + tables->shadow.root * PAGE;
	block->tsc_offset = parent->tsc_offset;
	block->iopm = maps + (uint64_t)parent->depth * NV_NESTED_MAPS;
	block->msrpm = block->iopm + NV_NESTED_PORTS;
}

int nv_nested_moved(const struct nv_nested *nested)
{
	const struct nv_shadow *shadow = &nested->tables[nested->active->tables].shadow;

	return nested->active->depth && (shadow->stale || nested->svm->block->nested_cr3 != shadow->physical + shadow->root * PAGE);
}
