/* Nested page tables for the guest's guests: the guest's own tables on top of ours, filled on fault and kept for some of its roots. */
#ifndef NEST_PAGING_H
#define NEST_PAGING_H

#include <stdint.h>

#include "vmcb.h"

enum nest_paging {
	NEST_FILLED,
	NEST_REFUSED, /* the guest's tables do: error is what a processor tells the guest */
	NEST_OUTSIDE, /* they lead to `address`, which is not its memory */
};

/* Gives `ours` the tables and the ASID for what the guest's block asks for. */
void nest_paging_use(const struct vmcb *asked, struct vmcb *ours);

/* address, error: EXITINFO2 and EXITINFO1 of the nested page fault (AMD APM vol. 2, 15.25.6). */
enum nest_paging nest_paging_fill(uint64_t *address, uint64_t *error);

#endif
