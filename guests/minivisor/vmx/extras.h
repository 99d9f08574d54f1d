/* What minivisor has no use for but to try it, by the option `extras`: a VPID, the preemption timer, and lists of MSRs. */
#ifndef EXTRAS_H
#define EXTRAS_H

#include <stdbool.h>
#include <stdint.h>

/* Whether they are used. */
bool extras_wanted(void);

/* Fills the current VMCS, whose controls have been set; stops where the processor lacks one of them. */
void extras_init(void);

/* After an exit of this code: looks whether they did what they should, and stops if not. True: the exit is theirs, and done. */
bool extras_exit(uint64_t code);

#endif
