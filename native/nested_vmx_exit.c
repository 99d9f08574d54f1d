#include "nested_vmx_internal.h"

#include <stddef.h>

#define LINEAR_KINDS 0x180ull /* of an EPT violation's exit qualification: whether it is of a linear address, and of it or of a table */
#define FINAL_ACCESS 0x180ull

static int is_vmx(uint32_t basic)
{
	return (basic >= BASIC_VMCALL && basic <= BASIC_VMXON) || basic == BASIC_INVEPT || basic == BASIC_INVVPID;
}

/* By default L0 does what a machine asks that it knows to have VMX: one that is in VMX operation, or may enter it. */
int nv_nested_vmx_is_l0s(const struct nv_nested *nested)
{
	const struct nv_machine *active = nested->active;
	uint32_t basic = basic_of(nested->vmx);

	if (!is_vmx(basic) || nests_by_itself(nested, active))
		return 0;
	if (basic == BASIC_VMXON)
		return active->vmx.on || (active->vmx.feature_control & 5) == 5;
	return active->vmx.on && basic != BASIC_VMCALL;
}

int nv_nested_vmx_hand_to(struct nv_nested *nested, struct nv_machine *owner, int heard)
{
	struct nv_vmx *vmx = nested->vmx;
	struct nv_nested_vmx_exit exit = {.reason = basic_of(vmx), .told = 1, .heard = heard};
	int result;

	if (nv_vmx_depth(basic_of(vmx)) > GOT_INTERRUPTION_ERROR) {
		exit.interruption = got(vmx, GOT_INTERRUPTION);
		exit.error_code = got(vmx, GOT_INTERRUPTION_ERROR);
	}
	result = nv_nested_vmx_reflect(nested, owner, &exit);
	return result ? result : 1;
}

int nv_nested_vmx_exit(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	uint32_t basic = basic_of(vmx);
	struct nv_machine *owner;

	if (!nested->active->depth)
		return 0;
	if (vmx->block->reason & ENTRY_FAILED) {
		/* the processor is stricter than the checks here */
		int result = nv_nested_vmx_reflect(nested, nested->active->parent,
						   &(struct nv_nested_vmx_exit){.reason = vmx->block->reason});

		return result ? result : 1;
	}
	if (is_nmi(vmx) || nv_nested_vmx_is_l0s(nested))
		return 0; /* an NMI is pending, and delivered from there */
	if (basic == BASIC_INTERRUPT && (vmx->wanted.pin & PIN_INTERRUPTS || vmx->step.active))
		return 0; /* likewise */
	if (basic == BASIC_EPT_VIOLATION || basic == BASIC_EPT_MISCONFIGURATION)
		return 0;
	if (nv_nested_vmx_routes(vmx))
		return 0;
	owner = nv_nested_vmx_owner(nested);
	if (basic == BASIC_PREEMPTION_TIMER && !owner)
		return vmx->timer_armed && !vmx->timer_beyond ? 0 : 1; /* too early: it is set again */
	return owner ? nv_nested_vmx_hand_to(nested, owner, 0) : 0;
}

static int refuse(struct nv_nested *nested, const struct nv_nested_place *place, uint64_t kind, int told, int heard)
{
	struct nv_nested_vmx_exit exit = {
		.reason = place->malformed ? BASIC_EPT_MISCONFIGURATION : BASIC_EPT_VIOLATION,
		.qualification = place->malformed ? 0 : place->error | kind,
		.physical = place->address,
		.told = told,
		.heard = heard,
	};
	int result = nv_nested_vmx_reflect(nested, place->refuses, &exit);

	return result ? result : 1;
}

/* The fault of an address that Python levels withhold. */
static void owe_fault(struct nv_nested *nested, const struct nv_nested_place *place)
{
	nested->due.exit.info_2 = place->address;
	nested->due.withheld = 1;
	nested->due.space = place->space;
	nested->due.access = place->access;
}

/* What the levels' maps have at an address. */
static uint64_t rights_at(const struct nv_nested *nested, uint8_t space, uint64_t address)
{
	const struct nv_nested_given *given = &nested->given[space];
	const struct nv_shadow_range *range;

	if (!space)
		return nv_shadow_rights(nested->shadow, address);
	range = given->ranges ? nv_shadow_find(given->ranges, given->count, address) : NULL;
	return range ? range->rights : 0;
}

void nv_nested_vmx_decode_due(struct nv_nested *nested, struct nv_event *event)
{
	uint64_t address = nested->due.exit.info_2;
	uint8_t access = nested->due.access;

	*event = (struct nv_event){
		.qualifier = address,
		.info = (access == NV_RIGHT_EXECUTE ? VIOLATION_FETCH : access == NV_RIGHT_WRITE ? VIOLATION_WRITE : 1) |
			rights_at(nested, nested->due.space, address) << VIOLATION_RIGHTS,
		.ticks = event->ticks,
		.raw = BASIC_EPT_VIOLATION,
		.count = 1,
		.reason = NV_REASON_NESTED_PAGE_FAULT,
		.direction = access == NV_RIGHT_EXECUTE ? NV_EXECUTE : access == NV_RIGHT_WRITE ? NV_WRITE : NV_READ,
		.level = event->level,
		.space = nested->due.space,
	};
	nested->due.told = 1;
}

int nv_nested_vmx_refused(struct nv_nested *nested, const struct nv_nested_place *place, int heard)
{
	if (place->refuses)
		return refuse(nested, place, FINAL_ACCESS, 0, heard);
	if (place->withheld)
		owe_fault(nested, place);
	return place->withheld;
}

int nv_nested_vmx_violation(struct nv_nested *nested)
{
	struct nv_vmx *vmx = nested->vmx;
	uint64_t qualification = got(vmx, GOT_QUALIFICATION);
	uint32_t access = qualification & VIOLATION_FETCH ? NV_RIGHT_EXECUTE :
			  qualification & VIOLATION_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
	struct nv_nested_place place;
	int result;

	nv_nested_follow(nested);
	result = nv_nested_place(nested, nested->active, got(vmx, GOT_PHYSICAL), access, &place);
	if (result == NV_NESTED_MAPPED || nested->endless)
		return 1;
	if (result == NV_NESTED_REFUSED || place.withheld) {
		int over = nv_vmx_interrupt_step(nested->vcpu);

		if (over)
			return over;
	}
	if (result == NV_NESTED_REFUSED)
		/* of a machine further below the address is one of its guest's own, or of that one's tables */
		return refuse(nested, &place, place.refuses == nested->active->parent ? qualification & LINEAR_KINDS : 0, 1, 0);
	if (place.withheld) {
		owe_fault(nested, &place);
		return 1;
	}
	nested->switched->faulted = access;
	nested->switched->fault_address = vmx->block->exit[GOT_PHYSICAL].value = place.address;
	return 0;
}
