#include "completion_state.h"

/* Level n's vector registers are in the processor while this runs. */
#pragma GCC target("general-regs-only")
#pragma GCC optimize("no-tree-loop-distribute-patterns")

#include "completion_operand.h"

int nv_translate(struct nv_completion *c, uint64_t linear, int access, uint8_t **host)
{
	struct nv_paging *paging = &c->state->paging;

	switch (nv_paging_translate(paging, linear, access, host)) {
	case NV_PAGING_OK:
		return 0;
	case NV_PAGING_FAULT:
		c->cr2 = linear;
		return nv_raise(c, NV_PF, 1, paging->error);
	default:
		c->linear = linear;
		return NV_COMPLETION_UNBACKED;
	}
}

int nv_canonical(const struct nv_completion *c, uint64_t linear)
{
	int bits = c->state->paging.cr4 & 1ull << 12 ? 57 : 48;

	return (uint64_t)((int64_t)(linear << (64 - bits)) >> (64 - bits)) == linear;
}

int nv_segment_fault(struct nv_completion *c, unsigned int segment)
{
	return nv_raise(c, segment == 2 ? NV_SS : NV_GP, 1, 0);
}

int nv_linearize(struct nv_completion *c, unsigned int segment, uint64_t offset, uint64_t size, uint64_t *linear)
{
	struct nv_completion_state *state = c->state;

	*linear = state->segment[segment].base + offset;
	if (c->mode == 64) {
		if (!nv_canonical(c, *linear) || !nv_canonical(c, *linear + size - 1))
			return nv_segment_fault(c, segment);
		return 0;
	}
	*linear &= 0xffffffff;
	if (!state->segment[segment].usable)
		return NV_COMPLETION_REFUSED;
	if (offset + size - 1 > state->segment[segment].limit)
		return nv_segment_fault(c, segment);
	return 0;
}

int nv_locate(struct nv_completion *c, uint64_t linear, size_t size, int write, struct nv_operand *operand)
{
	int access = write ? NV_PAGING_WRITE : NV_PAGING_READ;
	int status;

	operand->linear = linear;
	operand->first = 4096 - (linear & 4095);
	operand->host[1] = NULL;
	status = nv_translate(c, linear, access, &operand->host[0]);
	if (status)
		return status;
	operand->use = operand->host[0];
	if (operand->first >= size)
		return 0;
	linear += operand->first;
	if (c->mode != 64)
		linear &= 0xffffffff;
	status = nv_translate(c, linear, access, &operand->host[1]);
	if (status)
		return status;
	operand->use = c->state->bounce + (operand->linear & 63);
	nv_copy(operand->use, operand->host[0], operand->first);
	nv_copy(operand->use + operand->first, operand->host[1], size - operand->first);
	return 0;
}

void nv_put_back(const struct nv_operand *operand, size_t size)
{
	if (!operand->host[1])
		return;
	nv_copy(operand->host[0], operand->use, operand->first);
	nv_copy(operand->host[1], operand->use + operand->first, size - operand->first);
}

uint64_t nv_effective_address(struct nv_completion *c, const struct nv_operation *op)
{
	uint64_t offset = op->displacement;

	if (op->base != NV_NO_REGISTER)
		offset += *nv_register(c, op->base);
	if (op->index != NV_NO_REGISTER)
		offset += *nv_register(c, op->index) << op->scale;
	if (op->address_bits < 64)
		offset &= (1ull << op->address_bits) - 1;
	return offset;
}

int nv_value_of(struct nv_completion *c, const struct nv_operation *op, uint64_t *value)
{
	struct nv_operand operand;
	int status;

	*value = op->target;
	if (op->access) {
		status = nv_linearize(c, op->segment, nv_effective_address(c, op), 8, &operand.linear);
		if (!status)
			status = nv_locate(c, operand.linear, 8, 0, &operand);
		if (status)
			return status;
		nv_copy(value, operand.use, 8);
	} else if (op->base != NV_NO_REGISTER) {
		*value = *nv_register(c, op->base);
	}
	return 0;
}

int nv_push(struct nv_completion *c, uint64_t value)
{
	struct nv_operand operand;
	uint64_t rsp = c->regs.rsp - 8;
	int status;

	if (!nv_canonical(c, rsp) || !nv_canonical(c, rsp + 7))
		return nv_segment_fault(c, 2);
	status = nv_locate(c, rsp, 8, 1, &operand);
	if (status)
		return status;
	nv_copy(operand.use, &value, 8);
	nv_put_back(&operand, 8);
	c->regs.rsp = rsp;
	return 0;
}

int nv_pop(struct nv_completion *c, uint64_t *value)
{
	struct nv_operand operand;
	uint64_t rsp = c->regs.rsp;
	int status;

	if (!nv_canonical(c, rsp) || !nv_canonical(c, rsp + 7))
		return nv_segment_fault(c, 2);
	status = nv_locate(c, rsp, 8, 0, &operand);
	if (status)
		return status;
	nv_copy(value, operand.use, 8);
	c->regs.rsp = rsp + 8;
	return 0;
}
