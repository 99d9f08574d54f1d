#include "trap_flag.h"

#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "instruction.h"
#include "registers.h"
#include "switcher/mailbox.h"

#define SFMASK 0xc0000084
#define LOCK 0xf0
#define STACK_SEGMENT (2 << 3) /* in a ModRM byte's register */
#define REGISTER_FIELD (7 << 3)

static int is_shadow(const uint8_t *opcode, int count)
{
	return opcode[0] == 0x17 || (count > 1 && opcode[0] == 0x8e && (opcode[1] & REGISTER_FIELD) == STACK_SEGMENT);
}

static uint8_t kind_of(const uint8_t *opcode, int count, const struct nv_code *code)
{
	switch (opcode[0]) {
	case 0xfb:
		return NV_TRAPPED_ENABLES;
	case 0xf4:
		return NV_TRAPPED_HALTS;
	case 0xcd:
		return NV_TRAPPED_INTERRUPTS;
	case 0xf1:
		return NV_TRAPPED_BREAKS;
	case 0x9c:
		return NV_TRAPPED_PUSHES;
	case 0x9d:
	case 0xcf:
		return NV_TRAPPED_LOADS;
	case 0x0f:
		/* without long mode they know no flag but IF */
		if (count > 1 && code->efer & EFER_LMA)
			return opcode[1] == 0x05 ? NV_TRAPPED_CALLS : opcode[1] == 0x07 ? NV_TRAPPED_RETURNS : NV_TRAPPED_PLAIN;
		return NV_TRAPPED_PLAIN;
	default:
		return NV_TRAPPED_PLAIN;
	}
}

void nv_trap_look(struct nv_trap_flag *trap, struct nv_paging *paging, const struct nv_code *code)
{
	struct nv_code at = *code;
	struct nv_event event;
	int shadowed = 0;

	memset(trap, 0, sizeof *trap);
	nv_paging_flush(paging);
	for (;;) {
		uint32_t length = nv_fetch_instruction(paging, &at, &event);
		uint8_t rex;
		const uint8_t *opcode = nv_opcode(event.instruction, event.instruction_length, at.bits, &rex);
		int count = opcode ? event.instruction + event.instruction_length - opcode : 0;

		/* with LOCK, each of those that are not plain faults */
		if (!count || !length || memchr(event.instruction, LOCK, opcode - event.instruction))
			return;
		if (!shadowed && is_shadow(opcode, count)) {
			shadowed = 1;
			at.rip += length;
			continue;
		}
		trap->kind = kind_of(opcode, count, &at);
		trap->length = length;
		trap->vector = trap->kind == NV_TRAPPED_INTERRUPTS ? opcode[1] : 0;
		/* the processor is at the one before it */
		if (shadowed && trap->kind != NV_TRAPPED_PUSHES && trap->kind != NV_TRAPPED_LOADS && trap->kind != NV_TRAPPED_CALLS)
			trap->kind = NV_TRAPPED_PLAIN;
		return;
	}
}

int nv_trap_enable(const struct nv_trap_flag *trap, uint64_t *regs, uint64_t cr0, int cpl, int *opens)
{
	uint64_t flags = regs[NV_REG_RFLAGS];

	if (trap->kind != NV_TRAPPED_ENABLES || (cr0 & CR0_PE && (uint64_t)cpl > (flags >> RFLAGS_IOPL & 3)))
		return 0;
	*opens = !(flags & RFLAGS_IF);
	regs[NV_REG_RFLAGS] = flags | RFLAGS_IF;
	return 1;
}

/* 0: KVM has no such MSR. */
static int move_mask(int vcpu_fd, unsigned long request, uint64_t *value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = {.header.nmsrs = 1, .entry = {.index = SFMASK, .data = *value}};
	int moved = ioctl(vcpu_fd, request, &msrs) == 1;

	*value = msrs.entry.data;
	return moved;
}

static void put_mask(int vcpu_fd, uint64_t value)
{
	move_mask(vcpu_fd, KVM_SET_MSRS, &value);
}

void nv_trap_set(struct nv_trap_flag *trap, int vcpu_fd, uint64_t *regs)
{
	trap->own = !!(regs[NV_REG_RFLAGS] & RFLAGS_TF);
	regs[NV_REG_RFLAGS] |= RFLAGS_TF;
	if (trap->kind == NV_TRAPPED_CALLS) {
		trap->kept = 0;
		if (!move_mask(vcpu_fd, KVM_GET_MSRS, &trap->kept))
			trap->kind = NV_TRAPPED_PLAIN;
		else if (trap->kept & RFLAGS_TF)
			put_mask(vcpu_fd, trap->kept & ~RFLAGS_TF);
	} else if (trap->kind == NV_TRAPPED_RETURNS) {
		trap->kept = regs[NV_REG_R11];
		regs[NV_REG_R11] |= RFLAGS_TF;
	}
}

static void put_flag(uint64_t *flags, int set)
{
	*flags = set ? *flags | RFLAGS_TF : *flags & ~RFLAGS_TF;
}

void nv_trap_clear(struct nv_trap_flag *trap, int vcpu_fd, uint64_t *regs, int executed)
{
	switch (trap->kind) {
	case NV_TRAPPED_LOADS:
		if (executed)
			return;
		break;
	case NV_TRAPPED_CALLS:
		if (trap->kept & RFLAGS_TF)
			put_mask(vcpu_fd, trap->kept);
		if (!executed)
			break;
		put_flag(&regs[NV_REG_R11], trap->own);
		if (trap->kept & RFLAGS_TF)
			trap->own = 0;
		break;
	case NV_TRAPPED_RETURNS:
		put_flag(&regs[NV_REG_R11], !!(trap->kept & RFLAGS_TF));
		if (executed)
			trap->own = !!(trap->kept & RFLAGS_TF);
		break;
	default:
		break;
	}
	put_flag(&regs[NV_REG_RFLAGS], trap->own);
}

void nv_trap_clean(struct nv_paging *paging, const struct nv_code *code, uint64_t base, int big, uint64_t rsp)
{
	uint64_t stack = rsp + 1; /* the flag is in the second byte */
	uint8_t *host;

	if (code->bits != 64) {
		if (!big)
			stack &= 0xffff;
		stack = (uint32_t)(stack + base);
	}
	nv_code_paging(paging, code);
	paging->ac = 1;
	nv_paging_flush(paging);
	if (nv_paging_translate(paging, stack, NV_PAGING_WRITE, &host) == NV_PAGING_OK)
		*host &= ~(RFLAGS_TF >> 8);
}
