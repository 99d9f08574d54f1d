#include "nested_machines.h"

#include <stddef.h>

const struct nv_nested_claim *nv_nested_next_claim(const struct nv_nested *nested, const struct nv_event *event, uint16_t *claim)
{
	const struct nv_table *table = nested->vcpu->table;

	for (*claim = *claim ? table->claims[*claim].next : nv_table_lookup(table, event); *claim; *claim = table->claims[*claim].next) {
		const struct nv_claim *entry = &table->claims[*claim];
		const struct nv_server *server = &table->servers[entry->server];

		if (entry->level >= nested->vcpu->level)
			continue;
		return entry->server && server->serve == nested->take ? server->device : NULL;
	}
	return NULL;
}

int nv_nested_debugged(const struct nv_nested *nested, uint8_t vector, uint8_t above)
{
	const struct nv_table *table = nested->vcpu->table;
	struct nv_event event = {.reason = NV_REASON_DEBUG, .qualifier = vector};

	for (uint16_t claim = nv_table_lookup(table, &event); claim; claim = table->claims[claim].next) {
		const struct nv_claim *entry = &table->claims[claim];

		if (!entry->fallback && !entry->server && entry->level > above && entry->level < nested->vcpu->level)
			return 1;
	}
	return 0;
}
