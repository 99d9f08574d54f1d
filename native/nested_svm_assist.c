#include "nested_svm_internal.h"

#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

/* What a processor with decode assists tells, whether this one has them or not: AMD APM vol. 2, 15.8. */

enum { EXIT_INVLPG = 0x79, EXIT_INVLPGA = 0x7a, NONE = 16, RBX = 3, RSP = 4, RBP = 5, RSI = 6, RDI = 7, FS = 0x64, GS = 0x65 };

/* A memory operand, by the bytes of its instruction. */
struct operand {
	uint8_t base, index;         /* numbers of registers; NONE */
	uint8_t scale;
	uint8_t segment;             /* the prefix that names it; 0: none does */
	uint8_t relative;            /* to the next instruction */
	int64_t displacement;
};

static int64_t signed_of(const uint8_t *bytes, int size)
{
	int16_t two;
	int32_t four;

	memcpy(&two, bytes, sizeof two);
	memcpy(&four, bytes, sizeof four);
	return size == 1 ? (int8_t)bytes[0] : size == 2 ? two : size == 4 ? four : 0;
}

/* AMD APM vol. 3, tables 1-10 to 1-14. */
static void decode_16(const uint8_t *modrm, struct operand *operand)
{
	static const uint8_t bases[] = {RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX}, indices[] = {RSI, RDI, RSI, RDI, NONE, NONE, NONE, NONE};
	int mod = *modrm >> 6, rm = *modrm & 7, direct = mod == 0 && rm == 6;

	operand->base = direct ? NONE : bases[rm];
	operand->index = indices[rm];
	operand->displacement = signed_of(modrm + 1, direct ? 2 : mod);
}

static void decode_wide(const uint8_t *modrm, uint8_t rex, int bits, struct operand *operand)
{
	int mod = *modrm >> 6, base = *modrm & 7, with_sib = base == RSP;
	const uint8_t *sib = modrm + 1;

	if (with_sib) {
		operand->index = (*sib >> 3 & 7) | (rex & 2) << 2;
		operand->scale = *sib >> 6;
		base = *sib & 7;
	}
	if (!with_sib || operand->index == RSP)
		operand->index = NONE;
	operand->base = base | (rex & 1) << 3;
	if (mod == 0 && base == RBP) {
		operand->base = NONE;
		operand->relative = bits == 64 && !with_sib;
		mod = 2;
	}
	operand->displacement = signed_of(modrm + 1 + with_sib, mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

/* FS and GS are live, in KVM's vCPU. */
static uint64_t live_base(const struct nv_nested *nested, uint8_t segment)
{
	struct kvm_sregs sregs;

	if (ioctl(nested->vcpu->fd, KVM_GET_SREGS, &sregs))
		return 0;
	return segment == FS ? sregs.fs.base : sregs.gs.base;
}

static uint64_t base_of(const struct nv_nested *nested, const struct operand *operand, int bits)
{
	const struct nv_vmcb *block = nested->svm->block;

	if (operand->segment == FS || operand->segment == GS)
		return live_base(nested, operand->segment);
	if (bits == 64)
		return 0;
	switch (operand->segment ? operand->segment : operand->base == RSP || operand->base == RBP ? 0x36 : 0x3e) {
	case 0x26:
		return block->es.base;
	case 0x2e:
		return block->cs.base;
	case 0x36:
		return block->ss.base;
	default:
		return block->ds.base;
	}
}

/* The linear address of INVLPG's operand; 0 when its bytes are not known. */
static uint64_t invlpg_address(struct nv_nested *nested, const struct nv_event *event)
{
	struct nv_svm *svm = nested->svm;
	int bits = code_bits(svm->block), size = nv_svm_address_bits(svm, event);
	struct operand operand = {.index = NONE};
	uint8_t rex, bytes[NV_INSTRUCTION_MAX + 8] = {0};
	const uint8_t *opcode = nv_svm_opcode(svm, event, 3, &rex);
	uint64_t offset;

	if (!opcode)
		return 0;
	memcpy(bytes, opcode + 2, event->instruction + event->instruction_length - (opcode + 2));
	for (const uint8_t *byte = event->instruction; byte < opcode; byte++)
		if (*byte == FS || *byte == GS || (*byte & 0xe7) == 0x26)
			operand.segment = *byte;
	if (size == 16)
		decode_16(bytes, &operand);
	else
		decode_wide(bytes, rex, bits, &operand);
	offset = operand.displacement;
	if (operand.relative)
		offset += *register_of(svm, NV_REG_RIP) + event->advance;
	if (operand.base != NONE)
		offset += *register_of(svm, operand.base);
	if (operand.index != NONE)
		offset += *register_of(svm, operand.index) << operand.scale;
	if (size < 64)
		offset &= (1ull << size) - 1;
	offset += base_of(nested, &operand, bits);
	return bits == 64 ? offset : (uint32_t)offset;
}

uint64_t nv_nested_assist(struct nv_nested *nested, uint64_t code, const struct nv_event *event, uint64_t info)
{
	struct nv_svm *svm = nested->svm;

	if (code == EXIT_SWINT)
		return event->qualifier;
	if ((code <= EXIT_DR_LAST || code == EXIT_CR0_SELECTIVE) && event->size)
		return (code < EXIT_DR_FIRST || code == EXIT_CR0_SELECTIVE ? MOVED_REGISTER : 0) | svm->switched.operand;
	if (code == EXIT_INVLPG)
		return invlpg_address(nested, event);
	if (code == EXIT_INVLPGA)
		return *register_of(svm, NV_REG_RAX) & (code_bits(svm->block) == 64 ? ~0ull : 0xffffffff);
	return info;
}

void nv_nested_tell_bytes(struct nv_nested *nested, uint64_t code, uint64_t error, struct nv_vmcb *to)
{
	struct nv_code at = nv_svm_code(nested->svm);
	struct nv_event event;

	to->bytes_fetched = 0;
	if ((code != EXIT_NPF && code != EXIT_EXCEPTION + PF) || error & NPF_FETCH)
		return;
	nv_fetch_bytes(nested->svm->switched.paging, &at, &event);
	to->bytes_fetched = event.instruction_length;
	memcpy(to->bytes, event.instruction, event.instruction_length);
}
