/* Level n's code at RIP, read through its page tables: for processors that do not tell what they stopped at. */
#ifndef NV_FETCH_H
#define NV_FETCH_H

#include "event.h"
#include "paging.h"

/* Where level n executes. */
struct nv_code {
	uint64_t cr0, cr3, cr4, efer;
	uint64_t base;           /* of CS; not looked at in 64-bit code */
	uint64_t rip;
	uint8_t bits;            /* of the code segment: 16, 32 or 64 */
	uint8_t user;            /* CPL 3 */
};

/* Walks are through its page tables from now on, by its rights. */
void nv_code_paging(struct nv_paging *paging, const struct nv_code *code);

/* RIP as a linear address. */
uint64_t nv_code_linear(const struct nv_code *code);

/* The instruction at RIP, one that nv_instruction_length knows: its bytes go to the event. Gives its length, or 0: it cannot be read, or is
 * another one; the event then has as many bytes as there are, up to 15. */
uint32_t nv_fetch_instruction(struct nv_paging *paging, const struct nv_code *code, struct nv_event *event);

/* As many bytes as there are, up to 15, whatever they are. */
void nv_fetch_bytes(struct nv_paging *paging, const struct nv_code *code, struct nv_event *event);

#endif
