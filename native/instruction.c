#include "instruction.h"

#include <stddef.h>

uint64_t nv_instruction_key(const uint8_t *bytes, unsigned int length)
{
	uint8_t repeat = 0, operand = 0;
	uint64_t key = 0;
	unsigned int at, filled = 0;

	for (at = 0; at < length; at++) {
		uint8_t byte = bytes[at];

		if (byte == 0xf2 || byte == 0xf3)
			repeat = byte;
		else if (byte == 0x66)
			operand = byte;
		else if (byte != 0x26 && byte != 0x2e && byte != 0x36 && byte != 0x3e && byte != 0x64 && byte != 0x65 && byte != 0x67 &&
			 (byte & 0xf0) != 0x40)
			break;
	}
	if (repeat || operand) {
		key = repeat ? repeat : operand;
		filled = 1;
	}
	for (; filled < 8; filled++, at++)
		key = key << 8 | (at < length ? bytes[at] : 0);
	return key;
}

const uint8_t *nv_opcode(const uint8_t *bytes, unsigned int length, int bits, uint8_t *rex)
{
	*rex = 0;
	for (const uint8_t *byte = bytes; byte < bytes + length; byte++) {
		switch (*byte) {
		case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3:
			*rex = 0;
			break;
		case 0x40 ... 0x4f:
			if (bits != 64)
				return byte;
			*rex = *byte;
			break;
		default:
			return byte;
		}
	}
	return NULL;
}
