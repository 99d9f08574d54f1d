#include "counters.h"

#include <sched.h>
#include <string.h>

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
	/* x86 makes stores visible in their order, so that only the compiler is to be kept from changing it */
	__atomic_store_n(&counter->begun, counter->begun + 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	counter->ticks += ticks;
	counter->histogram[nv_bucket(ticks)]++;
	counter->served += served;
	__atomic_store_n(&counter->count, counter->count + 1, __ATOMIC_RELEASE);
}

void nv_counter_read(const struct nv_counter *counter, struct nv_counter *copy)
{
	for (;;) {
		uint64_t count = __atomic_load_n(&counter->count, __ATOMIC_ACQUIRE);

		memcpy(copy, counter, sizeof *copy);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&counter->begun, __ATOMIC_RELAXED) == count) {
			copy->begun = copy->count = count;
			return;
		}
		/* the thread that adds may wait for this processor */
		sched_yield();
	}
}

__attribute__((noinline)) void nv_unclaimed_add(struct nv_unclaimed *unclaimed, uint16_t reason, uint8_t direction, uint64_t qualifier)
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
