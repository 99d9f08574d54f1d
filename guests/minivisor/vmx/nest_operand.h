/* Operands of the VMX instruction that the guest stopped at (Intel SDM vol. 3, tables 28-13 and 28-14). */
#ifndef NEST_OPERAND_H
#define NEST_OPERAND_H

#include <stdbool.h>
#include <stdint.h>

/* A general register by its number, RSP too. */
uint64_t nest_register(unsigned int number);
void nest_set_register(unsigned int number, uint64_t value);

/* The one that the instruction names second: VMREAD's and VMWRITE's encoding, INVEPT's type. */
uint64_t nest_register_2(void);

/* The operand of VMREAD and VMWRITE that may be a register, 8 bytes. False: it is memory, and the guest takes a fault. */
bool nest_operand_get(uint64_t *value);
bool nest_operand_put(uint64_t value);

/* The one that is memory. False: the guest takes a fault. */
bool nest_operand_load(void *to, uint64_t size);
bool nest_operand_store(const void *from, uint64_t size);

#endif
