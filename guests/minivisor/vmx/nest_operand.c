#include "nest_operand.h"
#include "memory.h"
#include "minivisor.h"
#include "vendor.h"
#include "vmcs.h"

enum { RSP = 4 };

#define IN_REGISTER(information) ((information) >> 10 & 1)
#define REGISTER_1(information) ((information) >> 3 & 15)
#define REGISTER_2(information) ((information) >> 28 & 15)
#define SCALE(information) ((information) & 3)
#define NARROW_ADDRESS(information) (((information) >> 7 & 7) == 1)
#define SEGMENT(information) ((information) >> 15 & 7)
#define INDEX(information) ((information) >> 18 & 15)
#define NO_INDEX (1u << 22)
#define BASE(information) ((information) >> 23 & 15)
#define NO_BASE (1u << 27)

enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80 };
#define ADDRESS 0x000ffffffffff000ull
#define CR0_WP (1ull << 16)
#define CR4_LA57 (1ull << 12)
#define RIGHTS_LONG (1u << 13)
#define PAGE 4096ull
#define TOP 4

static uint64_t *place_of(unsigned int number)
{
	return &guest_registers.r15 + (number < RSP ? 14 - number : 15 - number);
}

uint64_t nest_register(unsigned int number)
{
	return number == RSP ? vmread(VMCS_RSP) : *place_of(number);
}

void nest_set_register(unsigned int number, uint64_t value)
{
	if (number == RSP)
		vmwrite(VMCS_RSP, value);
	else
		*place_of(number) = value;
}

uint64_t nest_register_2(void)
{
	return nest_register(REGISTER_2(vmread(VMCS_INSTRUCTION)));
}

/* Where in 64-bit code; what is relative to RIP, the exit qualification has as a whole (28.2.1). */
static uint64_t linear_address(void)
{
	uint64_t information = vmread(VMCS_INSTRUCTION), address = vmread(VMCS_QUALIFICATION);

	if (!(information & NO_BASE))
		address += nest_register(BASE(information));
	if (!(information & NO_INDEX))
		address += nest_register(INDEX(information)) << SCALE(information);
	if (NARROW_ADDRESS(information))
		address = (uint32_t)address;
	if (SEGMENT(information) >= SEGMENT_FS)
		address += vmread(VMCS_ES_BASE + 2 * SEGMENT(information));
	return address;
}

static void *fault(uint64_t address, uint64_t error)
{
	asm volatile("mov %0, %%cr2" :: "r"(address)); /* which is the guest's all the time */
	vmwrite_event(INJECT_PAGE_FAULT, error);
	return 0;
}

/* A byte of the guest's memory by its page tables; NULL: it takes a page fault. */
static uint8_t *byte_at(uint64_t address, uint64_t root, bool write)
{
	uint64_t table = root & ADDRESS, size = 0;

	for (int depth = TOP; depth; depth--) {
		const uint64_t *entry = memory_at(table + 8 * (address >> (3 + 9 * depth) & 511), 8);

		if (!entry)
			stop(STATUS_OUTSIDE, "its guest's page table at 0x%lx is not its memory", table);
		if (!(*entry & PRESENT))
			return fault(address, write ? WRITABLE : 0);
		if (write && !(*entry & WRITABLE) && vmread(VMCS_CR0) & CR0_WP)
			return fault(address, WRITABLE | PRESENT);
		size = PAGE << 9 * (depth - 1);
		table = *entry & ADDRESS;
		if (*entry & LARGE)
			break;
	}
	table = (table & -size) | (address & (size - 1));
	if (!memory_at(table, 1))
		stop(STATUS_OUTSIDE, "its guest's VMX operand at 0x%lx is not its memory", table);
	return memory_at(table, 1);
}

/* Byte by byte: it may reach into another page. */
static bool move(uint8_t *data, uint64_t size, bool write)
{
	uint64_t address = linear_address(), root = vmread(VMCS_CR3);

	if (!(vmread(VMCS_ES_RIGHTS + 2 * SEGMENT_CS) & RIGHTS_LONG) || vmread(VMCS_CR4) & CR4_LA57)
		stop(STATUS_NESTING, "its guest is no 64-bit hypervisor with four levels of page tables");
	if (!is_canonical(address)) {
		vmwrite_event(SEGMENT(vmread(VMCS_INSTRUCTION)) == SEGMENT_SS ? INJECT_STACK_FAULT : INJECT_PROTECTION, 0);
		return false;
	}
	for (uint64_t i = 0; i < size; i++) {
		uint8_t *at = byte_at(address + i, root, write);

		if (!at)
			return false;
		if (write)
			*at = data[i];
		else
			data[i] = *at;
	}
	return true;
}

bool nest_operand_load(void *to, uint64_t size)
{
	return move(to, size, false);
}

bool nest_operand_store(const void *from, uint64_t size)
{
	return move((uint8_t *)from, size, true);
}

bool nest_operand_get(uint64_t *value)
{
	uint64_t information = vmread(VMCS_INSTRUCTION);

	if (!IN_REGISTER(information))
		return nest_operand_load(value, sizeof *value);
	*value = nest_register(REGISTER_1(information));
	return true;
}

bool nest_operand_put(uint64_t value)
{
	uint64_t information = vmread(VMCS_INSTRUCTION);

	if (!IN_REGISTER(information))
		return nest_operand_store(&value, sizeof value);
	nest_set_register(REGISTER_1(information), value);
	return true;
}
