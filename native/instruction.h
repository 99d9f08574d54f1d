/* What an instruction is, whatever prefixes it is written with: the key by which the designation table looks it up. */
#ifndef NV_INSTRUCTION_H
#define NV_INSTRUCTION_H

#include <stdint.h>

/* Eight bytes as a big-endian number, so that a prefix of bytes is a range of keys: the mandatory prefix (the last of F3 and F2, else
 * 66 when there is one), then the instruction from its opcode on. Segment, address-size and REX prefixes are left out; LOCK stays, as
 * it makes most instructions undefined. nestvmm/x86/instruction.py is the same in Python. */
uint64_t nv_instruction_key(const uint8_t *bytes, unsigned int length);

/* What stands behind the prefixes of an instruction in code of this many bits; NULL: no byte of it is there. Its REX prefix, or 0, goes to
 * `rex`. */
const uint8_t *nv_opcode(const uint8_t *bytes, unsigned int length, int bits, uint8_t *rex);

#endif
