/* EPT for the guest's guests: the guest's own on top of ours, filled on violation. */
#ifndef NEST_PAGING_H
#define NEST_PAGING_H

#include <stdbool.h>
#include <stdint.h>

enum nest_paging {
	NEST_FILLED,
	NEST_REFUSED,       /* the guest's EPT does: the qualification is what a processor tells the guest */
	NEST_MISCONFIGURED, /* the guest's EPT is */
	NEST_OUTSIDE,       /* it leads to `address`, which is not its memory */
};

/* Whether a guest's EPT pointer is one that our capabilities allow (25.6.11). */
bool nest_paging_takes(uint64_t pointer);

/* The EPT pointer for the guest's guest, by what the guest's VMCS asks for; paged: it does at all. */
uint64_t nest_paging_use(bool paged, uint64_t pointer);

/* Of an EPT violation: its guest-physical address and exit qualification (table 28-7). */
enum nest_paging nest_paging_fill(uint64_t *address, uint64_t *qualification);

#endif
