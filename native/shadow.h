/* Nested page tables of level n's, filled on fault from a list of ranges: NPT or EPT in a fixed pool of pages.
 * AMD APM vol. 2, 15.25 and 5.3.3; Intel SDM vol. 3, 28.3.2.
 *
 *     level n's address --ranges (all levels' maps composed, rights intersected)--> KVM's guest-physical address
 *
 * Level n does not run while anything here does. Whoever runs it must make the processor forget what it knows of the tables before
 * level n runs on when `stale` is set; entries that only appear, or only gain rights, need that not. */
#ifndef NV_SHADOW_H
#define NV_SHADOW_H

#include <stdint.h>

#define NV_SHADOW_NPT 0
#define NV_SHADOW_EPT 1

/* What a range gives and an access needs. */
#define NV_RIGHT_READ 1
#define NV_RIGHT_WRITE 2
#define NV_RIGHT_EXECUTE 4

/* nv_shadow_fill's results. */
#define NV_SHADOW_VIOLATION 0    /* no range allows the access */
#define NV_SHADOW_FILLED 1       /* the tables allow it now */

/* `to` of a range with nothing behind it: each of its pages gets a window. */
#define NV_SHADOW_WINDOW 0xffffffffffffffff

#define NV_SHADOW_ADDRESS_BITS 48 /* of what four levels of tables translate */

#define NV_SHADOW_PAGES_MIN 4    /* one path from the root to a leaf */

/* Level n's addresses first to last, both included, are KVM's from `to` on. Whole pages; rights always include reading. */
struct nv_shadow_range {
	uint64_t first, last, to;
	uint32_t rights;         /* NV_RIGHT_* */
	uint32_t pad;
};

/* What one address leads to: KVM's, by a page of this level (1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB). */
struct nv_shadow_leaf {
	uint64_t to;
	uint32_t rights;         /* NV_RIGHT_* */
	uint32_t level;
};

struct nv_shadow {
	uint64_t *pool;          /* table pages of 512 entries */
	uint64_t physical;       /* where KVM has the pool */
	uint32_t pages;          /* in the pool, at least NV_SHADOW_PAGES_MIN */
	uint32_t root;           /* the page where walks start */
	uint32_t used;           /* pages ever taken since it was empty, the root included */
	uint32_t freed;          /* the last page given back, whose first entry is the one before; 0: none */
	uint32_t format;         /* NV_SHADOW_NPT or NV_SHADOW_EPT */
	uint32_t largest;        /* the biggest leaf: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB */
	uint32_t stale;          /* something was taken away: the processor must forget; whoever made it do so sets 0 */
	uint32_t revision;       /* how often something was */
	const struct nv_shadow_range *ranges; /* sorted and disjoint */
	uint32_t count;
	uint32_t window_count;   /* at least 1 */
	uint64_t window;         /* KVM's guest-physical address of the first window: pages that no memory slot backs */
	uint64_t *windows;       /* level n's page behind each window */
	uint32_t windows_used;
	uint32_t rebuilt;        /* how often the pool was full, so that everything was dropped */
};

/* Empties the tables. The fields pool, physical, pages, format, largest, window, windows and window_count are the caller's to set
 * before; ranges and count by nv_shadow_set. */
void nv_shadow_reset(struct nv_shadow *shadow);

/* Maps the largest page around an address that its range, both sides' alignment and `largest` allow. access: NV_RIGHT_* of one access.
 * When the pool or the windows are used up all of them are dropped first, so that it always makes progress. */
int nv_shadow_fill(struct nv_shadow *shadow, uint64_t address, uint32_t access);

/* Takes new ranges, which differ from those before from first to last only, and drops what they do not give any more. The arrays of
 * before are not read. */
void nv_shadow_set(struct nv_shadow *shadow, const struct nv_shadow_range *ranges, uint32_t count, uint64_t first, uint64_t last);

/* The range that has an address; NULL: none. fits: whether a page of this level around it lies in the range, aligned on both sides. */
const struct nv_shadow_range *nv_shadow_find(const struct nv_shadow_range *ranges, uint32_t count, uint64_t address);
int nv_shadow_fits(const struct nv_shadow_range *range, uint64_t address, unsigned int level);

/* A window for an address, which nv_shadow_unwindow gives back. When all are used up it takes them from what had them. */
uint64_t nv_shadow_open_window(struct nv_shadow *shadow, uint64_t address);

/* What the ranges give at an address: NV_RIGHT_*, 0 where there is none. */
uint32_t nv_shadow_rights(const struct nv_shadow *shadow, uint64_t address);

/* What the tables have for an address; 0: nothing. */
int nv_shadow_look(const struct nv_shadow *shadow, uint64_t address, struct nv_shadow_leaf *leaf);

/* Sets what an address leads to, for tables that follow no ranges: its page is as large as leaf->level at most. Starts afresh when the
 * pool is used up, or when the tables had something else there: 1 then, else 0. */
int nv_shadow_place(struct nv_shadow *shadow, uint64_t address, const struct nv_shadow_leaf *leaf);

/* Empties tables that follow no ranges. It takes another root, so that nothing is stale, as long as the pool has one. */
void nv_shadow_renew(struct nv_shadow *shadow);

/* Level n's address behind an access of KVM's to a window; any other address is its own. */
uint64_t nv_shadow_unwindow(const struct nv_shadow *shadow, uint64_t physical);

/* Level n's first address that leads to KVM's guest-physical one; ~0: none. */
uint64_t nv_shadow_reverse(const struct nv_shadow *shadow, uint64_t physical);

#endif
