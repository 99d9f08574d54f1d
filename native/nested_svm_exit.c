#include "nested_svm_internal.h"

#include "svm_exits.h"

#include <stddef.h>
#include <string.h>

#define NPF_KIND (NPF_FINAL | NPF_TABLES)

void nv_nested_owe(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_exit *exit)
{
	nested->due.to = to;
	nested->due.exit = *exit;
}

void nv_nested_owe_fault(struct nv_nested *nested, const struct nv_nested_place *place)
{
	uint32_t access = place->access;
	uint64_t kind = access == NV_RIGHT_EXECUTE ? NPF_FETCH : access == NV_RIGHT_WRITE ? NPF_WRITE : 0;

	nv_nested_owe(nested, NULL, &(struct nv_nested_exit){.code = EXIT_NPF, .info_1 = NPF_USER | kind, .info_2 = place->address});
	nested->due.withheld = 1;
	nested->due.space = place->space;
	nested->due.access = access;
}

/* Whether the levels' maps have anything at the address of the fault that is due. */
static int is_present(const struct nv_nested *nested)
{
	const struct nv_nested_given *given = &nested->given[nested->due.space];
	uint64_t address = nested->due.exit.info_2;

	if (!nested->due.space)
		return !!nv_shadow_rights(nested->shadow, address);
	return given->ranges && nv_shadow_find(given->ranges, given->count, address);
}

static int direction_of(const struct nv_nested *nested, const struct nv_exit_row *row)
{
	if (!nested->due.withheld)
		return row->direction;
	return nested->due.access == NV_RIGHT_EXECUTE ? NV_EXECUTE : nested->due.access == NV_RIGHT_WRITE ? NV_WRITE : NV_READ;
}

void nv_nested_decode_due(struct nv_nested *nested, struct nv_event *event)
{
	const struct nv_nested_exit *exit = &nested->due.exit;
	const struct nv_exit_row *row = nv_svm_exit_row(exit->code);

	*event = (struct nv_event){
		.qualifier = row->source == NV_FROM_PHYSICAL ? exit->info_2 : row->source == NV_FROM_CODE_5 ? exit->code & 31 : 0,
		.info = exit->info_1,
		.ticks = event->ticks,
		.raw = exit->code,
		.count = 1,
		.reason = row->reason,
		.direction = direction_of(nested, row),
		.level = event->level,
		.space = nested->due.space,
	};
	if (nested->due.withheld && is_present(nested))
		event->info |= NPF_PRESENT;
	nested->due.told = 1;
}

void nv_nested_settle(struct nv_nested *nested)
{
	struct nv_machine *to = nested->due.to;
	struct nv_nested_exit exit = nested->due.exit;

	memset(&nested->due, 0, sizeof nested->due);
	if (to)
		nv_nested_reflect(nested, to, &exit);
}

/* No Python level asks for it: it is some machine's, or the filters of all of them let it pass. */
static int pause(struct nv_nested *nested, struct nv_nested_exit *exit)
{
	struct nv_machine *owner = nv_nested_owner(nested, EXIT_PAUSE, 0);
	struct nv_event event;

	nv_svm_decode(nested->svm, &event);
	exit->next_rip = *register_of(nested->svm, NV_REG_RIP) + event.advance;
	if (owner)
		nv_nested_owe(nested, owner, exit);
	else
		nv_svm_skip(nested->svm, &event);
	return 1;
}

int nv_nested_exit(struct nv_nested *nested)
{
	const struct nv_svm *svm = nested->svm;
	struct nv_nested_exit exit = {.code = svm->block->exit_code};
	struct nv_machine *owner = NULL;

	if (!nested->active->depth)
		return 0;
	if (exit.code == EXIT_INVALID)
		owner = nested->active->parent; /* the processor is stricter than VMRUN's checks here */
	else if (exit.code == EXIT_PAUSE && nv_nested_wanted(nested, exit.code) && !intercepts(svm->wanted, exit.code))
		return pause(nested, &exit);
	else if (exit.code == EXIT_INTR && !svm->switched.mailbox->acknowledge)
		owner = nv_nested_owner(nested, exit.code, 0); /* one that L0 took is pending, and delivered from there, as an NMI is */
	if (!owner)
		return 0;
	nv_nested_owe(nested, owner, &exit);
	return 1;
}

void nv_nested_raise(struct nv_nested *nested, int vector, int has_error_code)
{
	uint64_t code = EXIT_EXCEPTION + vector;
	struct nv_machine *owner = nv_nested_owner(nested, code, 0);

	if (owner)
		nv_nested_owe(nested, owner, &(struct nv_nested_exit){.code = code});
	else
		nv_svm_inject(nested->svm, NV_EVENT_EXCEPTION, vector, has_error_code, 0);
}

int nv_nested_fetches_nothing(struct nv_nested *nested)
{
	const struct nv_vmcb *block = nested->svm->block;

	return nested->active->depth && block->exit_code == EXIT_NPF && block->exit_info_1 & NPF_FETCH &&
	       nv_nested_nothing(nested, block->exit_info_2);
}

int nv_nested_refused(struct nv_nested *nested, const struct nv_nested_place *place, uint64_t kind)
{
	struct nv_nested_exit exit = {.code = EXIT_NPF, .info_1 = place->error | kind, .info_2 = place->address};

	if (place->refuses)
		nv_nested_owe(nested, place->refuses, &exit);
	else if (place->withheld)
		nv_nested_owe_fault(nested, place);
	return nv_nested_is_due(nested);
}

int nv_nested_fault(struct nv_nested *nested, uint64_t error, uint64_t address)
{
	uint32_t access = error & NPF_FETCH ? NV_RIGHT_EXECUTE : error & NPF_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
	struct nv_nested_place place;
	int result;

	nv_nested_follow(nested);
	result = nv_nested_place(nested, nested->active, address, access, &place);
	if (result == NV_NESTED_MAPPED || nested->endless)
		return 1;
	if (result == NV_NESTED_REFUSED)
		return nv_nested_refused(nested, &place, place.refuses == nested->active->parent ? error & NPF_KIND : NPF_TABLES);
	if (place.withheld) {
		nv_nested_owe_fault(nested, &place);
		return 1;
	}
	nested->svm->switched.faulted = access;
	nested->svm->switched.fault_address = place.address;
	return 0;
}
