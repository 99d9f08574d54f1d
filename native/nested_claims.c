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
