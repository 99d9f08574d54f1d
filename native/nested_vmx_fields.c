#include "nested_vmx_internal.h"

#include <string.h>

#define HIGH_PART 1ull       /* of an encoding: the upper half of a 64-bit field */
#define GROUP(encoding) (((encoding) >> 11 & 12) | ((encoding) >> 10 & 3))
#define WIDTH(encoding) ((encoding) >> 13 & 3)
#define DEFINED_BITS 0x6fffull
#define FIELDS_OF_WIDTH (4 * 26)

enum { WIDTH_16, WIDTH_64, WIDTH_32, WIDTH_NATURAL };

_Static_assert(FIELD_SLOT(NV_VMCS_HOST_RIP) < NV_VIRTUAL_VMCS_FIELDS, "the last field");
_Static_assert(sizeof(struct nv_virtual_vmcs) <= PAGE, "a VMCS region");

/* The indices that there are in each group: 16, 64, 32 bits and natural width, of these controls, exit information, guest, host. Fields
 * of controls that are not offered do not exist (appendix B). */
static const uint32_t indices[] = {
	0x1, 0, 0xff, 0x7f,
	0x40237f, 0x1, 0x1ef, 0x3,
	0xffff, 0xff, 0xbfffff, 0x1,
	0xff, 0x3f, 0xfffff, 0xfff,
};

int nv_virtual_vmcs_slot(uint64_t encoding)
{
	uint64_t index = encoding >> 1 & 0x1ff;

	if (encoding & ~DEFINED_BITS || (encoding & HIGH_PART && WIDTH(encoding) != WIDTH_64))
		return -1;
	return index < 26 && indices[GROUP(encoding)] >> index & 1 ? (int)FIELD_SLOT(encoding) : -1;
}

uint64_t nv_virtual_vmcs_read(const struct nv_virtual_vmcs *block, uint64_t encoding)
{
	uint64_t value = field_of(block, encoding);

	return encoding & HIGH_PART ? value >> 32 : value;
}

void nv_virtual_vmcs_write(struct nv_virtual_vmcs *block, uint64_t encoding, uint64_t value)
{
	uint64_t old = field_of(block, encoding);

	switch (WIDTH(encoding)) {
	case WIDTH_16:
		value = (uint16_t)value;
		break;
	case WIDTH_32:
		value = (uint32_t)value;
		break;
	case WIDTH_64:
		if (encoding & HIGH_PART)
			value = value << 32 | (uint32_t)old;
		break;
	default:
		break;
	}
	set_field(block, encoding, value);
}

void nv_virtual_vmcs_copy(struct nv_virtual_vmcs *to, const struct nv_virtual_vmcs *from)
{
	uint64_t *narrow = to->field + WIDTH_16 * FIELDS_OF_WIDTH, *middle = to->field + WIDTH_32 * FIELDS_OF_WIDTH;

	memcpy(to, from, sizeof *to);
	for (int i = 0; i < FIELDS_OF_WIDTH; i++) {
		narrow[i] = (uint16_t)narrow[i];
		middle[i] = (uint32_t)middle[i];
	}
}
