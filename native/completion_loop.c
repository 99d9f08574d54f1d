#include "completion_state.h"

/* Level n's vector and x87 registers are in the processor while this file's code runs: it must leave them alone, and so
 * must what it calls. */
#pragma GCC target("general-regs-only")
#pragma GCC optimize("no-tree-loop-distribute-patterns")

#include "completion_operand.h"
#include "registers.h"

#define STATUS_FLAGS 0x8d5ull

/* Translated code leaves RSP and memory below it as a C function does. An exception in it continues at the label, by
 * completion.c's signal handler, with RSP as it was here. */
asm("	.text\n"
    "	.globl	nv_completion_call\n"
    "	.hidden	nv_completion_call\n"
    "	.type	nv_completion_call, @function\n"
    "nv_completion_call:\n"
    "	push	%rbx\n	push	%rbp\n	push	%r12\n	push	%r13\n	push	%r14\n	push	%r15\n"
    "	mov	%rsp, 152(%rsi)\n"
    "	mov	%rdi, %rax\n	mov	%rsi, %rdi\n	mov	%rdx, %rsi\n"
    "	call	*%rax\n"
    "	xor	%eax, %eax\n"
    "	jmp	1f\n"
    "	.globl	nv_completion_recover\n"
    "	.hidden	nv_completion_recover\n"
    "nv_completion_recover:\n"
    "	mov	$1, %eax\n"
    "1:	pop	%r15\n	pop	%r14\n	pop	%r13\n	pop	%r12\n	pop	%rbp\n	pop	%rbx\n"
    "	ret\n"
    "	.size	nv_completion_call, . - nv_completion_call\n");
_Static_assert(offsetof(struct nv_completion, host_stack) == 152, "nv_completion_call knows it");

/* The exception that translated code raised, as level n's. */
static int trapped(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;

	switch (state->trap) {
	case 0:
	case 6:
		return nv_raise(c, (uint32_t)state->trap, 0, 0);
	case 16: /* without CR0.NE it would be an interrupt of the PIC's */
		return state->sregs.cr0 & 1 << 5 ? nv_raise(c, 16, 0, 0) : NV_COMPLETION_STATE;
	case 19:
		return nv_raise(c, state->sregs.cr4 & 1 << 10 ? 19 : 6, 0, 0);
	case NV_GP:
		return nv_raise(c, NV_GP, 1, 0);
	default: /* a page of the slot that the host took away */
		return NV_COMPLETION_UNBACKED;
	}
}

/* x87's pointers to its last instruction and operand would be ours. */
static void note_x87(struct nv_completion *c, const struct nv_operation *op, const struct nv_operand *operand)
{
	struct nv_completion_state *state = c->state;

	if (op->x87_pointers == NV_X87_SETS) {
		state->x87_pointers = 1;
		state->x87_instruction = c->regs.rip;
		state->x87_opcode = (uint16_t)op->target;
		state->x87_operand = op->access ? operand->linear - state->segment[op->segment].base : 0;
	} else if (op->x87_pointers == NV_X87_LOADS) {
		state->x87_pointers = 0;
	}
}

static int run_native(struct nv_completion *c, const struct nv_operation *op)
{
	struct nv_completion_state *state = c->state;
	struct nv_operand operand = {0};
	int status;

	if (op->unit) {
		if (!state->have_vectors)
			return NV_WANT_VECTORS;
		if (state->forbidden[op->unit])
			return nv_raise(c, state->forbidden[op->unit], 0, 0);
		state->vectors_changed = 1;
	}
	if (op->access) {
		uint64_t offset = nv_effective_address(c, op);

		if (op->access == NV_ACCESS_ADDRESS) {
			operand.use = (uint8_t *)offset;
		} else {
			status = nv_linearize(c, op->segment, offset, op->size, &operand.linear);
			if (status)
				return status;
			status = nv_locate(c, operand.linear, op->size, op->access & NV_ACCESS_WRITE, &operand);
			if (status == NV_COMPLETION_FAULT && operand.linear & (op->alignment - 1))
				return nv_raise(c, NV_GP, 1, 0); /* comes before page faults */
			if (status)
				return status;
		}
	}
	state->inside = 1;
	status = nv_completion_call(op->code, c, operand.use);
	state->inside = 0;
	if (status) {
		c->linear = operand.linear;
		return trapped(c);
	}
	if (op->access & NV_ACCESS_WRITE)
		nv_put_back(&operand, op->size);
	note_x87(c, op, &operand);
	return 0;
}

static int holds(uint64_t flags, unsigned int condition)
{
	int cf = flags & 1, pf = flags >> 2 & 1, zf = flags >> 6 & 1, sf = flags >> 7 & 1, of = flags >> 11 & 1;
	int result;

	switch (condition >> 1) {
	case 0:
		result = of;
		break;
	case 1:
		result = cf;
		break;
	case 2:
		result = zf;
		break;
	case 3:
		result = cf | zf;
		break;
	case 4:
		result = sf;
		break;
	case 5:
		result = pf;
		break;
	case 6:
		result = sf != of;
		break;
	case 7:
		result = zf | (sf != of);
		break;
	default:
		return 1; /* NV_CONDITION_ALWAYS */
	}
	return result != (int)(condition & 1);
}

static int set_ac(struct nv_completion *c, int ac)
{
	c->state->paging.ac = ac;
	c->regs.rflags = (c->regs.rflags & ~RFLAGS_AC) | (ac ? RFLAGS_AC : 0);
	nv_paging_flush(&c->state->paging);
	return 0;
}

/* One instruction: level n's state changes only when the result is 0 or a TRAP's fault. */
static int step(struct nv_completion *c, struct nv_operation *op)
{
	uint64_t next = c->regs.rip + op->length, value = 0;
	uint8_t *host;
	int status;

	if (c->mode != 64)
		next &= c->mode == 32 ? 0xffffffff : 0xffff;
	switch (op->kind) {
	case NV_OPERATION_NATIVE:
		status = run_native(c, op);
		break;
	case NV_OPERATION_JUMP:
		status = 0;
		if (!holds(c->flags, op->condition))
			break;
		status = nv_value_of(c, op, &next);
		if (!status && !nv_canonical(c, next))
			return nv_raise(c, NV_GP, 1, 0);
		break;
	case NV_OPERATION_CALL:
		status = nv_value_of(c, op, &value);
		if (!status && !nv_canonical(c, value))
			return nv_raise(c, NV_GP, 1, 0);
		if (!status)
			status = nv_push(c, next);
		next = value;
		break;
	case NV_OPERATION_RETURN:
		status = nv_pop(c, &next);
		if (!status && !nv_canonical(c, next)) {
			c->regs.rsp -= 8;
			return nv_raise(c, NV_GP, 1, 0);
		}
		break;
	case NV_OPERATION_PUSH:
		status = nv_value_of(c, op, &value);
		if (!status)
			status = nv_push(c, value);
		break;
	case NV_OPERATION_POP:
		status = nv_pop(c, &value);
		if (!status)
			*nv_register(c, op->base) = value;
		break;
	case NV_OPERATION_CLAC:
	case NV_OPERATION_STAC:
		status = set_ac(c, op->kind == NV_OPERATION_STAC);
		break;
	case NV_OPERATION_FAULT:
		return nv_raise(c, (uint32_t)op->target, op->target == NV_GP, 0);
	case NV_OPERATION_TRAP:
		if (c->count)
			return NV_COMPLETION_REFUSED;
		c->regs.rip = next;
		return nv_raise(c, (uint32_t)op->target, 0, 0);
	case NV_OPERATION_SHORT:
		status = nv_translate(c, (op->linear | 4095) + 1, NV_PAGING_FETCH, &host);
		if (status)
			return status;
		op->length = 0; /* the page is there now */
		return NV_COMPLETION_DECODE;
	default:
		return NV_COMPLETION_REFUSED;
	}
	if (!status)
		c->regs.rip = next;
	return status;
}

/* What can be fetched of the instruction at `linear`, for Python. */
static int gather(struct nv_completion *c, uint64_t linear)
{
	uint8_t *host;
	size_t first = 4096 - (linear & 4095);
	int status = nv_translate(c, linear, NV_PAGING_FETCH, &host);

	if (status)
		return status;
	c->linear = linear;
	c->length = first < 15 ? first : 15;
	nv_copy(c->bytes, host, c->length);
	linear += first;
	if (c->mode != 64)
		linear &= 0xffffffff;
	if (c->length < 15 && !nv_paging_translate(&c->state->paging, linear, NV_PAGING_FETCH, &host)) {
		nv_copy(c->bytes + c->length, host, 15 - c->length);
		c->length = 15;
	}
	return NV_COMPLETION_DECODE;
}

/* Whether memory still holds what the operation was made of: level n may have written its code at any time. */
static int same(struct nv_completion *c, const struct nv_operation *op, uint64_t linear, int *status)
{
	uint64_t bytes[2];
	uint8_t *host;

	*status = nv_translate(c, linear, NV_PAGING_FETCH, &host);
	if (*status)
		return 0;
	if ((linear & 4095) > 4096 - 16) {
		size_t first = 4096 - (linear & 4095);

		bytes[0] = bytes[1] = 0;
		nv_copy(bytes, host, first < op->length ? first : op->length);
		if (first < op->length) {
			*status = nv_translate(c, linear + first, NV_PAGING_FETCH, &host);
			if (*status)
				return 0;
			nv_copy((uint8_t *)bytes + first, host, op->length - first);
		}
	} else {
		bytes[0] = ((const uint64_t *)host)[0];
		bytes[1] = ((const uint64_t *)host)[1];
	}
	return !(((bytes[0] ^ op->bytes[0]) & op->mask[0]) | ((bytes[1] ^ op->bytes[1]) & op->mask[1]));
}

static int next(struct nv_completion *c)
{
	struct nv_operation *op;
	uint64_t linear;
	int status;

	status = nv_linearize(c, 1, c->regs.rip, 1, &linear);
	if (status)
		return status;
	op = nv_completion_slot(c, linear);
	if (op->length && op->linear == linear && op->mode == c->mode) {
		if (same(c, op, linear, &status))
			return op->claimed && c->count ? NV_COMPLETION_REFUSED : step(c, op);
		if (status)
			return status;
	}
	return gather(c, linear);
}

static void save_area(void *area, uint64_t components)
{
	asm volatile("xsave64 (%0)" :: "r"(area), "a"((uint32_t)components), "d"((uint32_t)(components >> 32)) : "memory");
}

static void load_area(const void *area, uint64_t components)
{
	asm volatile("xrstor64 (%0)" :: "r"(area), "a"((uint32_t)components), "d"((uint32_t)(components >> 32)) : "memory");
}

int nv_completion_loop(struct nv_completion *c)
{
	struct nv_completion_state *state = c->state;
	uint16_t control;
	int status = 0;

	if (state->have_vectors) {
		asm volatile("stmxcsr %0" : "=m"(*(uint32_t *)(state->initial + 24)));
		asm volatile("fnstcw %0" : "=m"(control));
		load_area(state->area, state->components);
	}
	c->flags = c->regs.rflags & STATUS_FLAGS;
	while (c->count < c->limit && !*(const volatile int *)state->kicked) {
		status = next(c);
		if (status)
			break;
		c->count++;
	}
	c->regs.rflags = (c->regs.rflags & ~STATUS_FLAGS) | (c->flags & STATUS_FLAGS);
	if (state->have_vectors) {
		save_area(state->area, state->components);
		load_area(state->initial, state->supported);
		asm volatile("fldcw %0" :: "m"(control));
	}
	return status;
}

struct nv_operation *nv_completion_slot(struct nv_completion *c, uint64_t linear)
{
	return &c->operations[(linear ^ linear >> 12) % NV_OPERATIONS];
}
