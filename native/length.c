#include "length.h"

#include <errno.h>
#include <stddef.h>

#include "event.h"

/* What follows an opcode. */
enum form { NONE = 1, IMMEDIATE_8, MODRM, REGISTERS }; /* REGISTERS: a ModRM byte that never names memory; 0: not ours */

static const uint8_t one_byte[256] = {
	[0x17] = NONE,                 /* POP SS */
	[0x6c ... 0x6f] = NONE,        /* INS, OUTS */
	[0x8e] = MODRM,                /* MOV to a segment register */
	[0x90] = NONE,                 /* PAUSE */
	[0x9c ... 0x9d] = NONE,        /* PUSHF, POPF */
	[0xcc] = NONE,                 /* INT3 */
	[0xcd] = IMMEDIATE_8,          /* INTn */
	[0xce ... 0xcf] = NONE,        /* INTO, IRET */
	[0xe4 ... 0xe7] = IMMEDIATE_8, /* IN, OUT */
	[0xec ... 0xef] = NONE,
	[0xf1] = NONE,                 /* INT1 */
	[0xf4] = NONE,                 /* HLT */
	[0xfb] = NONE,                 /* STI */
};

/* Behind 0F. */
static const uint8_t two_bytes[256] = {
	[0x00] = MODRM,                /* SLDT, STR, LLDT, LTR */
	[0x01] = MODRM,                /* SGDT, SIDT, LGDT, LIDT, SMSW, LMSW, INVLPG, and those that are all ModRM: MONITOR, VMRUN, XSETBV ... */
	[0x05] = NONE,                 /* SYSCALL */
	[0x06] = NONE,                 /* CLTS */
	[0x07] = NONE,                 /* SYSRET */
	[0x08 ... 0x09] = NONE,        /* INVD, WBINVD, WBNOINVD */
	[0x20 ... 0x23] = REGISTERS,   /* MOV to and from control and debug registers */
	[0x30 ... 0x33] = NONE,        /* WRMSR, RDTSC, RDMSR, RDPMC */
	[0xa2] = NONE,                 /* CPUID */
	[0xaa] = NONE,                 /* RSM */
};

#define ESCAPE 0x0f
#define ESCAPE_38 0x38
#define INVPCID 0x82           /* behind 0F 38 */

static int is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
		return 1;
	default:
		return 0;
	}
}

/* Bytes behind a ModRM byte; negative: it needs a SIB byte, and `sib` is NULL. */
static int operand_length(uint8_t modrm, const uint8_t *sib, int address_bits)
{
	int mod = modrm >> 6, rm = modrm & 7;

	if (mod == 3)
		return 0;
	if (address_bits == 16)
		return mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0;
	if (rm == 4) {
		if (!sib)
			return -1;
		return 1 + (mod == 1 ? 1 : mod == 2 || (*sib & 7) == 5 ? 4 : 0);
	}
	return mod == 1 ? 1 : mod == 2 || rm == 5 ? 4 : 0;
}

/* The byte at `at` is needed and not there: no instruction has one behind 15. */
static int missing(unsigned int at)
{
	return at < NV_INSTRUCTION_MAX ? -ENODATA : -EINVAL;
}

int nv_instruction_length(const uint8_t *bytes, unsigned int count, int bits)
{
	int address_bits = bits, operand, form;
	unsigned int at = 0, length;

	if (count > NV_INSTRUCTION_MAX)
		count = NV_INSTRUCTION_MAX;
	for (;; at++) {
		if (at >= count)
			return missing(at);
		if (bytes[at] == 0x67)
			address_bits = bits == 32 ? 16 : 32;
		else if (!is_prefix(bytes[at]) && !(bits == 64 && (bytes[at] & 0xf0) == 0x40))
			break;
	}
	form = one_byte[bytes[at]];
	if (bytes[at] == ESCAPE) {
		at++;
		if (at >= count)
			return missing(at);
		form = two_bytes[bytes[at]];
		if (bytes[at] == ESCAPE_38) {
			at++;
			if (at >= count)
				return missing(at);
			form = bytes[at] == INVPCID ? MODRM : 0;
		}
	}
	at++;
	length = at;
	switch (form) {
	case NONE:
		break;
	case IMMEDIATE_8:
	case REGISTERS:
		length = at + 1;
		break;
	case MODRM:
		if (at >= count)
			return missing(at);
		operand = operand_length(bytes[at], at + 1 < count ? &bytes[at + 1] : NULL, address_bits);
		if (operand < 0)
			return missing(at + 1);
		length = at + 1 + operand;
		break;
	default:
		return -EINVAL;
	}
	return length > count ? missing(length - 1) : (int)length;
}
