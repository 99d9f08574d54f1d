/* How long an instruction is that SVM can intercept, for processors that do not save the next RIP, or that a step by the trap flag is not
 * all of (trap_flag.h). AMD APM vol. 3, 1.2 to 1.4. */
#ifndef NV_LENGTH_H
#define NV_LENGTH_H

#include <stdint.h>

/* bytes: the first `count` bytes of the instruction, of which no more are read; bits: 16, 32 or 64, of its code segment.
 * Gives its length in bytes; -ENODATA when it goes on behind the bytes; -EINVAL when it is no such instruction, or longer than 15. */
int nv_instruction_length(const uint8_t *bytes, unsigned int count, int bits);

#endif
