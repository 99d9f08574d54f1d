/* The guest's own VMCSs, which lie in its memory in a form of ours. */
#ifndef NEST_VMCS_H
#define NEST_VMCS_H

#include <stdbool.h>
#include <stdint.h>

#define NEST_VMCS_SIZE 4096
#define NEST_VMCS_INDICES 30 /* of each width and type that there is room for */

struct nest_vmcs {
	uint32_t revision, abort, launched, pad;
	uint64_t field[16 * NEST_VMCS_INDICES];
};

_Static_assert(sizeof(struct nest_vmcs) <= NEST_VMCS_SIZE, "a VMCS region");

/* A field of it. The encoding is one that nest_vmcs_has allows, of a whole field (25.11.2). */
static inline uint64_t *nest_field(struct nest_vmcs *vmcs, uint64_t encoding)
{
	return &vmcs->field[((encoding >> 11 & 12) | (encoding >> 10 & 3)) * NEST_VMCS_INDICES + (encoding >> 1 & 0x1ff)];
}

/* Whether the processor has this field, and VMWRITE takes it. */
bool nest_vmcs_has(uint64_t encoding);
bool nest_vmcs_writable(uint64_t encoding);

/* What VMREAD gives and VMWRITE leaves of it. */
uint64_t nest_vmcs_read(struct nest_vmcs *vmcs, uint64_t encoding);
void nest_vmcs_write(struct nest_vmcs *vmcs, uint64_t encoding, uint64_t value);

#endif
