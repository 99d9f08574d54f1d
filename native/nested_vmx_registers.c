#include "nested_vmx_internal.h"

enum { FEATURE_CONTROL = 0x3a, CAPABILITIES = 0x480, VMFUNC = 0x491 };

/* Intel SDM vol. 3, 24.7: locked, VMX outside SMX. There is no SMX. */
#define FEATURE_LOCKED 1ull
#define FEATURE_BITS 5ull

/* Whose processor's this MSR is: one that nests by itself has its hypervisor's, as a guest does. */
static struct nv_machine *processor_of(const struct nv_nested *nested)
{
	struct nv_machine *machine = nested->active;

	while (nests_by_itself(nested, machine))
		machine = machine->parent;
	return machine;
}

static int write_feature_control(struct nv_machine *machine, uint64_t value)
{
	if (machine->vmx.feature_control & FEATURE_LOCKED || value & ~FEATURE_BITS)
		return 0;
	machine->vmx.feature_control = value;
	return 1;
}

/* Whether there is such an MSR, and it can be read or written so. */
static int access_msr(struct nv_nested *nested, struct nv_event *event)
{
	int write = event->direction == NV_WRITE;

	if (!nested->visible)
		return 0;
	if (event->qualifier == FEATURE_CONTROL) {
		if (write)
			return write_feature_control(processor_of(nested), event->value);
		event->value = processor_of(nested)->vmx.feature_control;
		return 1;
	}
	/* without VM functions there is no MSR of theirs */
	if (write || event->qualifier - CAPABILITIES >= VMFUNC - CAPABILITIES)
		return 0;
	event->value = nested->vmx_limits.msr[event->qualifier - CAPABILITIES];
	return 1;
}

int nv_vmx_serve_msr(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_vmx *vmx = device;

	(void)offset;
	event->fault = !access_msr(vmx->nested, event);
	return NV_HANDLED;
}
