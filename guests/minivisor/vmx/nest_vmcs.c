#include "nest_vmcs.h"

#define HIGH_PART 1 /* of an encoding: the upper half of a field of 64 bits */
#define READ_ONLY 1

enum { WIDTH_16 = 0, WIDTH_32 = 2 };

static unsigned int width_of(uint64_t encoding)
{
	return encoding >> 13 & 3;
}

/* It fails by VMREAD, too, in whatever VMCS is the current one. */
bool nest_vmcs_has(uint64_t encoding)
{
	uint64_t value;
	bool has;

	if (encoding >> 15 || (encoding >> 1 & 0x1ff) >= NEST_VMCS_INDICES)
		return false;
	asm volatile("vmread %2, %1" : "=@cca"(has), "=r"(value) : "r"(encoding));
	return has;
}

bool nest_vmcs_writable(uint64_t encoding)
{
	return (encoding >> 10 & 3) != READ_ONLY;
}

uint64_t nest_vmcs_read(struct nest_vmcs *vmcs, uint64_t encoding)
{
	return *nest_field(vmcs, encoding) >> (encoding & HIGH_PART ? 32 : 0);
}

void nest_vmcs_write(struct nest_vmcs *vmcs, uint64_t encoding, uint64_t value)
{
	uint64_t *field = nest_field(vmcs, encoding);

	if (encoding & HIGH_PART)
		*field = value << 32 | (uint32_t)*field;
	else if (width_of(encoding) == WIDTH_16)
		*field = (uint16_t)value;
	else if (width_of(encoding) == WIDTH_32)
		*field = (uint32_t)value;
	else
		*field = value;
}
