#include "undefined.h"

#include "instruction.h"

void nv_undefined(const struct nv_table *table, struct nv_paging *paging, const struct nv_code *code, struct nv_event *event)
{
	uint16_t reason = event->reason, claim;
	uint64_t qualifier = event->qualifier;

	nv_fetch_bytes(paging, code, event);
	event->reason = NV_REASON_EMULATION_FAILURE;
	event->qualifier = nv_instruction_key(event->instruction, event->instruction_length);
	claim = nv_table_lookup(table, event);
	if (event->instruction_length && claim && !table->claims[claim].fallback)
		return;
	event->reason = reason;
	event->qualifier = qualifier;
}
