/* Counts and latencies of handled events, one counter per slot. A slot is a (reason, qualifier range, level) row of the
 * table; slot r below NV_REASONS counts what nobody claimed of reason r. */
#ifndef NV_COUNTERS_H
#define NV_COUNTERS_H

#include <stdint.h>

/* Log-linear buckets: 8 to each power of two, so a quantile is off by at most 1/8. */
#define NV_BUCKETS 320

struct nv_counter {
	uint64_t count;
	uint64_t ticks;          /* TSC ticks in L0 and its handlers, summed */
	uint64_t served;         /* of count, how many never entered Python */
	uint64_t begun;          /* ahead of count while an event is being added */
	uint64_t histogram[NV_BUCKETS];
};

/* The bucket that a latency falls in, and the least latency (in ticks) of a bucket. */
unsigned int nv_bucket(uint64_t ticks);
uint64_t nv_bucket_floor(unsigned int bucket);

/* Adds an event; one thread at a time. */
void nv_counter_add(struct nv_counter *counter, uint64_t ticks, int served);

/* Copies a counter as it was between two events, while another thread may be adding some. */
void nv_counter_read(const struct nv_counter *counter, struct nv_counter *copy);

/* What nobody claimed, by qualifier: an open-addressed set that counts what no longer fits in `lost`. */
#define NV_UNCLAIMED 256

struct nv_unclaimed_row {
	uint64_t qualifier;
	uint64_t count;          /* 0: free */
	uint16_t reason;
	uint8_t direction;
};

struct nv_unclaimed {
	struct nv_unclaimed_row row[NV_UNCLAIMED];
	uint64_t lost;
};

void nv_unclaimed_add(struct nv_unclaimed *unclaimed, uint16_t reason, uint8_t direction, uint64_t qualifier);

#endif
