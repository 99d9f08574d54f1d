#include "nested_svm_internal.h"

#include <stddef.h>

#define PAGE 4096ull

/* The low bits of a map's address are ignored. */
static uint8_t map_byte(struct nv_nested *nested, struct nv_machine *machine, uint64_t map, uint64_t offset)
{
	return nv_nested_map_byte(nested, machine, (map & ~(PAGE - 1)) + offset);
}

/* AMD APM vol. 2, 15.10.1: a bit for each byte that the access touches; the map goes on behind the last port. */
static int wants_port(struct nv_nested *nested, struct nv_machine *machine, uint64_t info)
{
	unsigned int port = info >> 16 & 0xffff, size = info >> 4 & 7;

	for (unsigned int i = port; i < port + (size ? size : 1); i++)
		if (map_byte(nested, machine, machine->guest.iopm, i / 8) >> i % 8 & 1)
			return 1;
	return 0;
}

/* AMD APM vol. 2, 15.11. */
int nv_nested_msr_bit(uint32_t index)
{
	static const uint32_t first[] = {0, 0xc0000000, 0xc0010000};

	for (int i = 0; i < 3; i++)
		if (index - first[i] < 0x2000)
			return i * 0x4000 + 2 * (index - first[i]);
	return NV_NESTED_NO_BIT;
}

static int wants_msr(struct nv_nested *nested, struct nv_machine *machine, int write)
{
	int bit = nv_nested_msr_bit(*register_of(nested->svm, NV_REG_RCX));

	if (bit == NV_NESTED_NO_BIT)
		return 1;
	bit += write;
	return map_byte(nested, machine, machine->guest.msrpm, bit / 8) >> bit % 8 & 1;
}

uint64_t nv_nested_code(const struct nv_machine *machine, uint64_t code)
{
	if (code != EXIT_CR0_WRITE && code != EXIT_CR0_SELECTIVE)
		return code;
	return intercepts(machine->guest.intercept, EXIT_CR0_WRITE) ? EXIT_CR0_WRITE : EXIT_CR0_SELECTIVE;
}

int nv_nested_wants(struct nv_nested *nested, struct nv_machine *machine, uint64_t code, uint64_t info)
{
	code = nv_nested_code(machine, code);
	if (!intercepts(machine->guest.intercept, code))
		return 0;
	if (code == EXIT_IOIO)
		return wants_port(nested, machine, info);
	if (code == EXIT_MSR)
		return wants_msr(nested, machine, info & 1);
	if (code == EXIT_CR0_SELECTIVE)
		return nv_nested_selects(nested);
	if (code == EXIT_PAUSE)
		return nv_nested_pause(nested, machine);
	return 1;
}

struct nv_machine *nv_nested_owner(struct nv_nested *nested, uint64_t code, uint64_t info)
{
	/* what comes from outside reaches the lowest machine first, what the active machine does the highest */
	if (code >= EXIT_INTR && code <= EXIT_INIT) {
		for (struct nv_machine *machine = nested->machines; machine->child; machine = machine->child)
			if (nv_nested_wants(nested, machine, code, info))
				return machine;
		return NULL;
	}
	for (struct nv_machine *machine = nested->active->parent; machine; machine = machine->parent)
		if (nv_nested_wants(nested, machine, code, info))
			return machine;
	return NULL;
}
