/* A processor that executes plain code of nested_level_svm.h's active machine, one instruction at a time: AMD APM vol. 2, 5.3 and 15.25. */
#ifndef PROCESSOR_MODEL_H
#define PROCESSOR_MODEL_H

#include "nested_level_svm.h"

#define LENGTH 15                           /* of an instruction, at most */
#define PRESENT 1ull
#define WRITABLE 2ull
#define USER 4ull
#define NO_EXECUTE (1ull << 63)
#define ADDRESS 0x000ffffffffff000ull
#define NOWHERE (~0ull)

/* A processor's state, and what it has made of the level's memory. */
struct processor {
	uint64_t regs[NV_REGS];
	uint8_t *memory;
};

static struct processor now;
static uint64_t stores_to, loads_from;      /* pages of machine 0's that VMSAVE and VMLOAD are still to use; NOWHERE */
static uint64_t loaded, stored;             /* how often it did */

static inline uint64_t *page(uint64_t number)
{
	return (uint64_t *)(level + number * PAGE);
}

static inline uint64_t word(uint64_t place)
{
	uint64_t value;

	memcpy(&value, now.memory + place, sizeof value);
	return value;
}

/* ---- the processor's memory ---- */

static inline uint64_t reserved_of(uint64_t efer)
{
	return (ADDRESS & (~0ull << PHYSICAL_BITS)) | (efer & EFER_NXE ? 0 : NO_EXECUTE);
}

/* Where a physical address of the machine at this depth is in machine 0's memory; NOWHERE: its access is an exit, or reaches no memory. */
static inline uint64_t place_of(const struct nv_machine *machine, uint64_t address, uint32_t access)
{
	const struct nv_machine *parent = machine->parent;
	uint64_t table;

	if (!parent)
		return address < PAGES * PAGE ? address : NOWHERE;
	table = parent->guest.nested_cr3;
	if (address >> 48)
		return NOWHERE;
	for (int depth = 4; depth; depth--) {
		uint64_t place = place_of(parent, table + 8 * (address >> (3 + 9 * depth) & 511), NV_RIGHT_READ), entry;

		if (place == NOWHERE)
			return NOWHERE;
		entry = word(place);
		if (!(entry & PRESENT) || !(entry & USER) || entry & reserved_of(parent->host.efer))
			return NOWHERE;
		if ((access == NV_RIGHT_WRITE && !(entry & WRITABLE)) || (access == NV_RIGHT_EXECUTE && entry & NO_EXECUTE))
			return NOWHERE;
		table = entry & ADDRESS;
	}
	return place_of(parent, table + address % PAGE, access);
}

/* Likewise of a linear address of the active machine's. */
static inline uint64_t reach(uint64_t linear, uint32_t access)
{
	uint64_t table = block->cr3, place;

	if (!is_canonical(linear))
		return NOWHERE;
	for (int depth = 4; depth; depth--) {
		uint64_t entry;

		place = place_of(nested.active, table + 8 * (linear >> (3 + 9 * depth) & 511), NV_RIGHT_WRITE);
		if (place == NOWHERE)
			return NOWHERE;
		entry = word(place);
		if (!(entry & PRESENT) || entry & reserved_of(block->efer))
			return NOWHERE;
		if (access == NV_RIGHT_WRITE && !(entry & WRITABLE) && block->cr0 & CR0_WP)
			return NOWHERE;
		if (access == NV_RIGHT_EXECUTE && entry & NO_EXECUTE)
			return NOWHERE;
		if (depth == 1 && entry & USER && block->cr4 & (access == NV_RIGHT_EXECUTE ? CR4_SMEP : CR4_SMAP))
			return NOWHERE;
		table = entry & ADDRESS;
	}
	place = place_of(nested.active, table + linear % PAGE, access);
	if (place == NOWHERE)
		return NOWHERE;
	/* what VMSAVE stores there is not known yet; and a store there would be undone, as it would not be before VMLOAD */
	if (place / PAGE == stores_to || (access == NV_RIGHT_WRITE && place / PAGE == loads_from))
		return NOWHERE;
	return place;
}

static inline int is_read(uint64_t linear, uint64_t *value)
{
	uint8_t bytes[8];

	for (int i = 0; i < 8; i++) {
		uint64_t place = reach(linear + i, NV_RIGHT_READ);

		if (place == NOWHERE)
			return 0;
		bytes[i] = now.memory[place];
	}
	memcpy(value, bytes, sizeof bytes);
	loaded++;
	return 1;
}

static inline int is_written(uint64_t linear, uint64_t value)
{
	uint64_t places[8];

	for (int i = 0; i < 8; i++) {
		places[i] = reach(linear + i, NV_RIGHT_WRITE);
		if (places[i] == NOWHERE)
			return 0;
	}
	for (int i = 0; i < 8; i++)
		now.memory[places[i]] = value >> 8 * i;
	stored++;
	return 1;
}

/* ---- its instructions ---- */

static inline int fetch(uint8_t *bytes)
{
	for (int i = 0; i < LENGTH; i++) {
		uint64_t place = reach(now.regs[NV_REG_RIP] + i, NV_RIGHT_EXECUTE);

		if (place == NOWHERE)
			return i;
		bytes[i] = now.memory[place];
	}
	return LENGTH;
}

/* MOV of 64 bits, with an operand that is a register, or where a register and a displacement say. */
static inline int is_moved(const uint8_t *code, uint8_t rex, int loads, int *length)
{
	int reg = (code[1] >> 3 & 7) + (rex & 4 ? 8 : 0), base = (code[1] & 7) + (rex & 1 ? 8 : 0), mod = code[1] >> 6;
	uint64_t at = now.regs[base];
	int32_t wide;

	*length = mod == 1 ? 3 : mod == 2 ? 6 : 2;
	if (mod == 3) {
		now.regs[loads ? reg : base] = now.regs[loads ? base : reg];
		return 1;
	}
	if (base % 8 == 4 || (!mod && base % 8 == 5))
		return 0;
	memcpy(&wide, code + 2, sizeof wide);
	at += mod == 1 ? (int8_t)code[2] : mod == 2 ? wide : 0;
	return loads ? is_read(at, &now.regs[reg]) : is_written(at, now.regs[reg]);
}

/* One instruction; 0: it faults, or is none that anybody but the processor executes. */
static inline int step(void)
{
	uint8_t bytes[LENGTH + 8] = {0}, rex = 0;
	const uint8_t *code = bytes;
	int count = fetch(bytes), length = 1;
	struct processor old = now;
	uint64_t next, value;

	if ((*code & 0xf0) == 0x40)
		rex = *code++;
	if (*code >= 0x58 && *code < 0x60) {
		if (!is_read(now.regs[NV_REG_RSP], &value))
			return 0;
		now.regs[NV_REG_RSP] += 8;
		now.regs[(*code & 7) + (rex & 1 ? 8 : 0)] = value;
	} else if ((*code == 0x89 || *code == 0x8b) && rex & 8) {
		/* of an instruction whose bytes are not all there nothing happens */
		int whole = code - bytes + (code[1] < 0x40 || code[1] >= 0xc0 ? 2 : code[1] < 0x80 ? 3 : 6);

		if (whole > count || !is_moved(code, rex, *code == 0x8b, &length))
			return 0;
	} else if (*code == 0xeb) {
		length = 2;
	} else if (*code != 0x90 || rex & 1) {
		return 0;
	}
	length += code - bytes;
	next = now.regs[NV_REG_RIP] + length + (*code == 0xeb ? (int8_t)code[1] : 0);
	if (length > count || !is_canonical(next) || !is_canonical(now.regs[NV_REG_RIP] + length - 1)) {
		now = old;
		return 0;
	}
	now.regs[NV_REG_RIP] = next;
	return 1;
}

#endif
