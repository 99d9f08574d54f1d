/* The flat designation table: for each event, who may handle it, the highest level first.
 * nestvmm/nesting/flat.py compiles it from the DesignationTable whenever the policy changed; nothing here allocates. */
#ifndef NV_TABLE_H
#define NV_TABLE_H

#include "event.h"
#include "reason.h"

#define NV_PORTS 65536

/* What a C server answers. */
#define NV_DECLINED 0
#define NV_HANDLED 1

/* L0's own C code for a range of ports or addresses: it sees the offset from the range's first, never the address. */
typedef int (*nv_serve_fn)(void *device, uint64_t offset, struct nv_event *event);

struct nv_server {
	nv_serve_fn serve;
	void *device;
	uint64_t base;
};

struct nv_claim {
	uint16_t next;           /* the claim to try when this one declines; 0: nobody */
	uint16_t slot;           /* its counter */
	uint16_t server;         /* index into servers; 0: Python */
	uint8_t level;
	uint8_t fallback;        /* L0's last word: neither a level's claim nor an emulator's */
};

/* Qualifiers first to last (both included) of one reason and direction, with the event's space in the bits from NV_SPACE_SHIFT on. */
struct nv_range {
	uint64_t first;
	uint64_t last;
	uint32_t claim;
	uint32_t pad;
};

struct nv_ranges {
	const struct nv_range *range; /* sorted and disjoint */
	uint32_t count;
	uint32_t pad;
};

struct nv_table {
	const struct nv_claim *claims;   /* claims[0] is nobody */
	const struct nv_server *servers; /* servers[0] is Python */
	const uint16_t *ports[2];        /* by direction, NV_PORTS claims each */
	struct nv_ranges ranges[NV_REASONS][2]; /* by reason and direction (NV_EXECUTE counts as NV_READ); not for NV_REASON_IO */
};

/* The first claim for an event, 0 for nobody. Pure: reads reason, direction, qualifier and space only. */
uint16_t nv_table_lookup(const struct nv_table *table, const struct nv_event *event);

#endif
