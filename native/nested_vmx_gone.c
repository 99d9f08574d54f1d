#include "nested_vmx_internal.h"

#include "vmx_exits.h"

#include <string.h>

/* The exit of an entry that failed, or one that is not, or not only, the processor's own. */
static void describe(const struct nv_nested_vmx_exit *exit, struct nv_event *event)
{
	const struct nv_exit_row *row = nv_vmx_exit_row((uint16_t)exit->reason);

	*event = (struct nv_event){
		.info = exit->qualification,
		.raw = (uint16_t)exit->reason,
		.count = 1,
		.reason = row->reason,
		.direction = row->direction,
	};
	switch (row->source) {
	case NV_FROM_PHYSICAL:
		event->qualifier = exit->physical;
		if (exit->qualification & (VIOLATION_WRITE | VIOLATION_FETCH))
			event->direction = exit->qualification & VIOLATION_WRITE ? NV_WRITE : NV_EXECUTE;
		break;
	case NV_FROM_VECTOR:
		if (EVENT_KIND_OF(exit->interruption) == NV_EVENT_NMI) {
			event->reason = row->other;
			break;
		}
		event->qualifier = EVENT_VECTOR(exit->interruption);
		event->info = exit->error_code;
		break;
	default:
		break;
	}
	if (event->reason == NV_REASON_INTERRUPT)
		event->qualifier = EVENT_VECTOR(exit->interruption);
}

int nv_nested_vmx_gives(const struct nv_nested *nested, const struct nv_machine *machine, const struct nv_event *event)
{
	const struct nv_nested_claim *claim;
	uint16_t at = 0;

	while ((claim = nv_nested_next_claim(nested, event, &at)))
		if (nv_nested_covers(claim, machine->depth))
			return 1;
	return 0;
}

void nv_nested_vmx_keep_instruction(struct nv_nested *nested, struct nv_event *event)
{
	struct nv_code code;

	if (nested->vcpu->trace.record && nested->machines->vmx.on && event->length && !nv_vmx_code(nested->vcpu, &code))
		nv_fetch_instruction(nested->switched->paging, &code, event);
}

void nv_nested_vmx_note(struct nv_nested *nested, const struct nv_machine *to, const struct nv_nested_vmx_exit *exit)
{
	struct nv_nested_gone *gone = &nested->gone[nested->gone_count];
	uint32_t reason = exit->reason;

	if (nested->gone_count == NV_NESTED_GONE)
		return;
	gone->event.space = 0;
	if (exit->told && reason != BASIC_EPT_VIOLATION && reason != BASIC_EPT_MISCONFIGURATION)
		nv_vmx_decode(nested->vmx, &gone->event);
	else
		describe(exit, &gone->event);
	nv_nested_vmx_keep_instruction(nested, &gone->event);
	gone->event.ticks = nv_ticks();
	gone->event.level = nested->vcpu->level;
	gone->rip = *register_of(nested->vmx, NV_REG_RIP);
	gone->depth = to->depth;
	nested->gone_count += nv_nested_vmx_gives(nested, to, &gone->event);
}

int nv_nested_vmx_waits(const struct nv_nested *nested)
{
	/* who waits for level n to stop wants no other exit than that */
	return nested->gone_count && (!nested->switched->recalling || nested->gone_count == NV_NESTED_GONE);
}

int nv_nested_vmx_decode_gone(struct nv_nested *nested, struct nv_event *event)
{
	const struct nv_trace *trace = &nested->vcpu->trace;

	if (!nested->switched->rung || !nv_nested_vmx_waits(nested))
		return 0;
	*event = nested->gone->event;
	event->served = event->fault = event->retry = 0;
	/* level n may have been entered since */
	if (event->ticks < trace->entered)
		event->ticks = trace->entered;
	nested->gone_told = 1;
	return 1;
}

int nv_nested_vmx_told_gone(struct nv_nested *nested)
{
	if (!nested->gone_told)
		return 0;
	nested->gone_told = 0;
	memmove(nested->gone, nested->gone + 1, --nested->gone_count * sizeof *nested->gone);
	return 1;
}

uint64_t nv_nested_vmx_rip(const struct nv_vcpu *vcpu)
{
	const struct nv_vmx *vmx = vcpu->engine;

	return vmx->nested->gone_told ? vmx->nested->gone->rip : nv_switched_rip(vcpu);
}

int nv_nested_vmx_take_gone(const struct nv_nested_claim *claim, struct nv_event *event)
{
	const struct nv_nested *nested = claim->nested;
	const struct nv_nested_gone *gone = nested->gone;
	struct nv_trace *trace = &nested->vcpu->trace;

	if (!nv_nested_covers(claim, gone->depth))
		return NV_DECLINED;
	/* what time there was went to handing it over */
	trace->decoded = trace->routed = event->ticks;
	event->handler = nested->levels[gone->depth];
	event->retry = 1;
	return NV_HANDLED;
}
