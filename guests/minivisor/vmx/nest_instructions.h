/* VMX's instructions, but VMCALL, as the guest's processor does them (Intel SDM vol. 3, chapter 31). */
#ifndef NEST_INSTRUCTIONS_H
#define NEST_INSTRUCTIONS_H

#include <stdbool.h>
#include <stdint.h>

/* False: the exit is for none. */
bool nest_instruction(uint64_t code);

/* The VMLAUNCH or VMRESUME that the guest stopped at fails. */
void nest_entry_fails(int error);

#endif
