#include "nested_vmx_internal.h"

/* CR0 and CR4 in a chain of machines. A block masks bits of its guest's: the guest reads them in the read shadow, and the hypervisor says
 * what they are in truth (25.6.6). That holds for all that its guest runs: a machine above it loads such a bit, at an entry or an exit, for
 * those to see who run on it, and the processor has what it had. */

enum { REGISTERS = 2 };

static const uint32_t values[REGISTERS] = {NV_VMCS_GUEST_CR0, NV_VMCS_GUEST_CR4};
static const uint32_t mask_fields[REGISTERS] = {NV_VMCS_CR0_MASK, NV_VMCS_CR4_MASK};
static const uint32_t shadow_fields[REGISTERS] = {NV_VMCS_CR0_SHADOW, NV_VMCS_CR4_SHADOW};

static uint64_t merge(uint64_t value, uint64_t mask, uint64_t other)
{
	return (value & ~mask) | (other & mask);
}

static uint64_t mask_of(const struct nv_machine *machine, int which)
{
	return field_of(&machine->vmx.block, mask_fields[which]);
}

static uint64_t shadow_of(const struct nv_machine *machine, int which)
{
	return field_of(&machine->vmx.block, shadow_fields[which]);
}

/* What the machine's guest sees of its register, which the machine has in its block as `value`. */
static uint64_t shown(const struct nv_machine *machine, int which, uint64_t value)
{
	return merge(value, mask_of(machine, which), shadow_of(machine, which));
}

/* The bits that machines below this one mask. */
static uint64_t below(const struct nv_machine *machine, int which)
{
	if (!machine->parent)
		return 0;
	return which ? machine->parent->vmx.cr4_mask : machine->parent->vmx.cr0_mask;
}

static uint64_t *seen(struct nv_nested *nested, int which)
{
	return which ? &nested->seen_cr4 : &nested->seen_cr0;
}

uint64_t nv_nested_vmx_seen_cr0(const struct nv_nested *nested, uint64_t real, uint64_t shadow)
{
	const struct nv_machine *parent = nested->active->parent;

	return parent ? shown(parent, 0, merge(real, below(parent, 0), nested->seen_cr0)) : merge(real, CR0_FIXED, shadow);
}

uint64_t nv_nested_vmx_seen_cr4(const struct nv_nested *nested, uint64_t real)
{
	const struct nv_machine *parent = nested->active->parent;

	if (parent)
		return shown(parent, 1, merge(real, below(parent, 1), nested->seen_cr4));
	return merge(real, CR4_VMXE, nested->active->vmx.vmxe ? CR4_VMXE : 0);
}

/* The processor has one read shadow for the masks of all machines below: what the parent shows. */
void nv_nested_vmx_activate(struct nv_nested *nested, struct nv_machine *machine, uint64_t cr0, uint64_t cr4)
{
	struct nv_vmx *vmx = nested->vmx;

	nested->active = machine;
	nested->vcpu->level = nested->levels[machine->depth];
	nested->seen_cr0 = machine->parent ? shown(machine->parent, 0, cr0) : cr0;
	nested->seen_cr4 = machine->parent ? shown(machine->parent, 1, cr4) : nv_nested_vmx_seen_cr4(nested, cr4);
	nv_vmx_put(vmx, NV_VMCS_CR0_SHADOW, nested->seen_cr0);
	nv_vmx_put(vmx, NV_VMCS_CR4_SHADOW, nested->seen_cr4);
	vmx->missed = 1; /* whether interrupts are open has changed: KVM is to look */
}

void nv_nested_vmx_load_cr(struct nv_nested *nested, const struct nv_machine *by, uint64_t cr0, uint64_t cr4, const uint64_t *real)
{
	nv_vmx_put(nested->vmx, NV_VMCS_GUEST_CR0, merge(cr0, below(by, 0), real[0]));
	nv_vmx_put(nested->vmx, NV_VMCS_GUEST_CR4, merge(cr4, below(by, 1), real[1]));
}

void nv_nested_vmx_leave_cr(struct nv_nested *nested, const struct nv_machine *to, int written, uint64_t *told)
{
	struct nv_machine *machine = to->child;

	for (int which = 0; which < REGISTERS; which++) {
		machine->vmx.left[which] = *seen(nested, which);
		machine->vmx.left_shadow[which] = shadow_of(to, which);
		/* what each machine has in its block, from the active one's parent down */
		told[which] = *seen(nested, which);
		for (const struct nv_machine *one = nested->active->parent; one->depth >= to->depth; one = one->parent) {
			told[which] = merge(told[which], mask_of(one, which), field_of(&one->vmx.block, values[which]));
			if (one == to)
				break;
		}
	}
	machine->vmx.left_written = written;
}

void nv_nested_vmx_tell_cr(struct nv_machine *to, const uint64_t *told, uint64_t *real)
{
	struct nv_virtual_vmcs *block = &to->vmx.block;

	for (int which = 0; which < REGISTERS; which++) {
		real[which] = field_of(block, values[which]);
		set_field(block, values[which], merge(real[which], below(to, which), told[which]));
	}
}

void nv_nested_vmx_resume_cr(const struct nv_machine *parent, const struct nv_machine *last, uint64_t *view)
{
	const struct nv_machine *machine = parent->child;

	for (int which = 0; which < REGISTERS; which++) {
		uint64_t mask = mask_of(parent, which), shadow = shadow_of(parent, which), changed = mask;

		view[which] = field_of(&parent->vmx.block, values[which]);
		if (machine == last)
			continue;
		/* a write of the register, which the parent has done in its guest's stead, is one of all that it shows */
		if (machine->vmx.left_written != 4 * which)
			changed &= shadow ^ machine->vmx.left_shadow[which];
		view[which] = merge(view[which], mask, merge(machine->vmx.left[which], changed, shadow));
		for (const struct nv_machine *one = machine; one != last; one = one->child)
			view[which] = shown(one, which, view[which]);
	}
}
