#include "nested_internal.h"

#include "svm_exits.h"

#include <stddef.h>

#define NPF_KIND (NPF_FINAL | NPF_TABLES)
/* The machine's claim of the event among all turns. */
static const struct nv_claim *claim_of(const struct nv_table *table, const struct nv_event *event, uint8_t level)
{
	const struct nv_claim *claim = &table->claims[nv_table_lookup(table, event)];

	while (claim != table->claims && !(claim->level <= level && claim->server && table->servers[claim->server].serve == nv_nested_take))
		claim = &table->claims[claim->next];
	return claim;
}

void nv_nested_reflect_now(struct nv_nested *nested, struct nv_machine *to, const struct nv_nested_exit *exit)
{
	const struct nv_exit_row *row = nv_svm_exit_row(exit->code);
	struct nv_vcpu *vcpu = nested->vcpu;
	const struct nv_claim *claim;
	struct nv_event event = {
		.qualifier = row->source == NV_FROM_PHYSICAL ? exit->info_2 : row->source == NV_FROM_CODE_5 ? exit->code & 31 : 0,
		.info = exit->info_1,
		.ticks = nv_ticks(),
		.raw = exit->code,
		.count = 1,
		.reason = row->reason,
		.level = vcpu->level,
		.handler = nested->levels[to->depth],
		.served = 1,
	};

	nv_nested_reflect(nested, to, exit);
	vcpu->exits++;
	claim = claim_of(vcpu->table, &event, event.handler);
	event.slot = claim == vcpu->table->claims ? event.reason : claim->slot;
	nv_counter_add(&vcpu->counters[event.slot], nv_ticks() - event.ticks, 1);
	if (vcpu->trace.record)
		nv_trace_add(&vcpu->trace, &event, nv_ticks());
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
	else if (exit.code == EXIT_INTR && !svm->switched.mailbox->acknowledge)
		owner = nv_nested_owner(nested, exit.code, 0); /* one that L0 took is pending, and delivered from there, as an NMI is */
	if (!owner)
		return 0;
	nv_nested_reflect_now(nested, owner, &exit);
	return 1;
}

int nv_nested_refused(struct nv_nested *nested, const struct nv_nested_place *place, uint64_t kind)
{
	struct nv_nested_exit exit = {.code = EXIT_NPF, .info_1 = place->error | kind, .info_2 = place->address};

	if (!place->refuses)
		return 0;
	nv_nested_reflect_now(nested, place->refuses, &exit);
	return 1;
}

int nv_nested_fault(struct nv_nested *nested, uint64_t error, uint64_t address)
{
	uint32_t access = error & NPF_FETCH ? NV_RIGHT_EXECUTE : error & NPF_WRITE ? NV_RIGHT_WRITE : NV_RIGHT_READ;
	struct nv_nested_place place;
	int result;

	nv_nested_follow(nested);
	result = nv_nested_place(nested, nested->active, address, access, &place);
	if (result == NV_NESTED_MAPPED)
		return 1;
	if (result == NV_NESTED_REFUSED)
		return nv_nested_refused(nested, &place, place.refuses == nested->active->parent ? error & NPF_KIND : NPF_TABLES);
	nested->svm->switched.faulted = access;
	nested->svm->switched.fault_address = place.address;
	return 0;
}
