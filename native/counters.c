#include "counters.h"

unsigned int nv_bucket(uint64_t ticks)
{
	unsigned int shift, bucket;

	if (ticks < 8)
		return ticks;
	/* the four leading bits, 8 to 15, are at bit `shift` */
	shift = 60 - __builtin_clzll(ticks);
	bucket = shift * 8 + (ticks >> shift);
	return bucket < NV_BUCKETS ? bucket : NV_BUCKETS - 1;
}

uint64_t nv_bucket_floor(unsigned int bucket)
{
	unsigned int power = bucket / 8 + 2;

	if (bucket < 8)
		return bucket;
	return (uint64_t)(8 + bucket % 8) << (power - 3);
}

void nv_counter_add(struct nv_counter *counter, uint64_t ticks, int served)
{
	counter->count++;
	counter->ticks += ticks;
	counter->served += served;
	counter->histogram[nv_bucket(ticks)]++;
}

void nv_unclaimed_add(struct nv_unclaimed *unclaimed, uint16_t reason, uint8_t direction, uint64_t qualifier)
{
	/* Knuth's multiplicative hash: ports and MSR indices cluster */
	uint64_t hash = (qualifier * 2 + direction + ((uint64_t)reason << 40)) * 0x9e3779b97f4a7c15ull >> 56;

	for (unsigned int probe = 0; probe < 8; probe++) {
		struct nv_unclaimed_row *row = &unclaimed->row[(hash + probe) % NV_UNCLAIMED];

		if (!row->count) {
			row->qualifier = qualifier;
			row->reason = reason;
			row->direction = direction;
		} else if (row->qualifier != qualifier || row->reason != reason || row->direction != direction) {
			continue;
		}
		row->count++;
		return;
	}
	unclaimed->lost++;
}
