#include "table.h"
#include "likely.h"

uint16_t nv_table_lookup(const struct nv_table *table, const struct nv_event *event)
{
	uint64_t qualifier = event->qualifier | (uint64_t)event->space << NV_SPACE_SHIFT;
	unsigned int direction = event->direction == NV_WRITE;
	const struct nv_ranges *ranges;
	uint32_t low, high;

	if (likely(event->reason == NV_REASON_IO))
		return table->ports[direction][event->qualifier & (NV_PORTS - 1)];
	if (event->reason >= NV_REASONS)
		return 0;
	ranges = &table->ranges[event->reason][direction];
	low = 0, high = ranges->count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (ranges->range[middle].last < qualifier)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == ranges->count || ranges->range[low].first > qualifier)
		return 0;
	return ranges->range[low].claim;
}
