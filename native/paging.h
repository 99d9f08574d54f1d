/* Linear addresses of level n by its own page tables, to this process's addresses of the memory that its slots back.
 * AMD APM vol. 2, 5.3 to 5.6; Intel SDM vol. 3, 4.3 to 4.7. */
#ifndef NV_PAGING_H
#define NV_PAGING_H

#include <stdint.h>

/* What an access wants. */
#define NV_PAGING_READ 0
#define NV_PAGING_WRITE 1
#define NV_PAGING_FETCH 2

/* nv_paging_translate's results. */
#define NV_PAGING_OK 0
#define NV_PAGING_FAULT 1    /* #PF with the error code in `error` */
#define NV_PAGING_UNBACKED 2 /* no slot backs the address or a page table, or only for reading */

#define NV_PAGING_NONE (~0ull)

struct nv_slot {
	uint64_t guest, size;    /* physical address at level n, bytes */
	uint8_t *host;
	uint64_t readonly;
};

struct nv_tlb_entry {
	uint64_t page;           /* linear address / 4096 + 1; 0: empty */
	uint8_t *host;
};

#define NV_PAGING_LEVELS 5

/* A walk that found an address: what for, all that it read, and what it found. As long as that is the same, so is this. */
struct nv_trail {
	uint64_t page;           /* linear address / 4096 + 1; 0: none */
	uint64_t cr0, cr3, cr4, efer;
	uint64_t source;         /* as `source` gave it: another one has other memory */
	uint64_t physical;       /* of the page */
	const uint64_t *at[NV_PAGING_LEVELS]; /* the entries, the leaf's first, */
	uint64_t entry[NV_PAGING_LEVELS]; /* and what was in them when they had been marked */
	uint8_t access, user, ac;
	uint8_t count, leaf, clean, writable, executable, users;
};

#define NV_TRAILS 1024           /* few of those that an exit needs share a place */

struct nv_paging {
	const struct nv_slot *slots;
	uint32_t slot_count;
	uint8_t leaf;            /* of the last walk that found an address: 1 is 4 KiB, 2 is 2 or 4 MiB, 3 is 1 GiB */
	uint8_t clean;           /* its entry has no dirty bit */
	uint8_t writable, executable; /* its tables allow it to the user */
	uint8_t users;           /* they allow the user to read it */
	void *context;           /* of `back` */
	uint8_t *(*back)(void *context, uint64_t physical, int write); /* what physical memory is, in place of the slots; NULL: they */
	struct nv_trail *trails; /* NV_TRAILS of them; NULL: walks are not remembered */
	uint64_t (*source)(void *context); /* what says whether `back` still gives the same memory at the same address */
	uint32_t error;
	uint64_t unbacked;       /* of NV_PAGING_UNBACKED by a walk: the physical address of the entry that is in no memory */
	uint64_t unmarked;       /* of a walk that found an address: that of an entry that takes no accessed or dirty bit; NV_PAGING_NONE: all do */
	uint64_t cr0, cr3, cr4, efer;
	uint64_t reserved;       /* the physical address bits that page-table entries must not have */
	uint8_t user;            /* CPL 3 */
	uint8_t ac;              /* RFLAGS.AC lifts SMAP */
	struct nv_tlb_entry tlb[3][64];
};

/* slots must outlive it; physical_bits: the width of level n's physical addresses. The rest is the caller's to set. change: of one that has
 * been initialized, and keeps that. */
void nv_paging_init(struct nv_paging *paging, const struct nv_slot *slots, uint32_t slot_count, uint32_t physical_bits);
void nv_paging_change(struct nv_paging *paging, const struct nv_slot *slots, uint32_t slot_count, uint32_t physical_bits);

/* Forgets translations; for the start of each batch, because level n ran and its memory changed in between. */
void nv_paging_flush(struct nv_paging *paging);

/* What the slots have at a physical address; NULL: nothing, or nothing to write. */
uint8_t *nv_paging_slot(const struct nv_paging *paging, uint64_t physical, int write);

/* The byte at a linear address. Sets the accessed and dirty bits as the processor does. */
int nv_paging_translate(struct nv_paging *paging, uint64_t linear, int access, uint8_t **host);

/* The physical address of a linear one, by the tables as they are: what is remembered of them is compared. Results as nv_paging_translate's,
 * but the address itself need not be backed. */
int nv_paging_walk(struct nv_paging *paging, uint64_t linear, int access, uint64_t *physical);

/* Up to `size` bytes of code from a linear address on, as far as its page goes; their number, 0 when none can be fetched. */
uint32_t nv_paging_fetch(struct nv_paging *paging, uint64_t linear, uint8_t *bytes, uint32_t size);

#endif
