/* Memory operands of level n, in this process's address space. For code that runs while level n's vector registers are
 * loaded: nothing here or in its C file touches them. */
#ifndef NV_COMPLETION_OPERAND_H
#define NV_COMPLETION_OPERAND_H

#include "completion_state.h"

#include <stddef.h>

/* One memory operand, in our address space. */
struct nv_operand {
	uint64_t linear;
	uint8_t *host[2];        /* of its two pages; the second NULL when it lies in one */
	size_t first;            /* bytes in the first page */
	uint8_t *use;            /* what code gets */
};

static inline uint64_t *nv_register(struct nv_completion *c, unsigned int number)
{
	return (uint64_t *)&c->regs + number;
}

/* Exception for level n. */
static inline int nv_raise(struct nv_completion *c, uint32_t vector, int has_error, uint32_t error)
{
	c->vector = vector;
	c->has_error = has_error;
	c->error = error;
	return NV_COMPLETION_FAULT;
}

/* Rep movsb needs no vector register, whatever memcpy does. */
static inline void nv_copy(void *to, const void *from, size_t count)
{
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) :: "memory");
}

/* The byte at a linear address; else #PF or NV_COMPLETION_UNBACKED. NV_PAGING_* says what for. */
int nv_translate(struct nv_completion *c, uint64_t linear, int access, uint8_t **host);
/* Whether a processor takes this 64-bit address at all. */
int nv_canonical(const struct nv_completion *c, uint64_t linear);
/* #SS for the stack's segment, #GP for others. */
int nv_segment_fault(struct nv_completion *c, unsigned int segment);
/* The linear address of size bytes at an offset in a segment; else a fault. */
int nv_linearize(struct nv_completion *c, unsigned int segment, uint64_t offset, uint64_t size, uint64_t *linear);
/* Fills an operand, which may cross into a second page; else as nv_translate. */
int nv_locate(struct nv_completion *c, uint64_t linear, size_t size, int write, struct nv_operand *operand);
/* Ends a write: what crossed a page goes to its two places. */
void nv_put_back(const struct nv_operand *operand, size_t size);
uint64_t nv_effective_address(struct nv_completion *c, const struct nv_operation *op);
/* What a jump goes to, or PUSH pushes. */
int nv_value_of(struct nv_completion *c, const struct nv_operation *op, uint64_t *value);
/* 64-bit mode's stack; RSP changes only when the result is 0. */
int nv_push(struct nv_completion *c, uint64_t value);
int nv_pop(struct nv_completion *c, uint64_t *value);

#endif
