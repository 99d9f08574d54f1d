/* The guest's own SVM, for where nobody below emulates it: what it asks of a processor with SVM, minivisor does (AMD APM vol. 2,
 * chapter 15). Its guest runs under a block of ours, which is made of its block and of the one that it is run by itself. */
#ifndef NEST_H
#define NEST_H

#include <stdbool.h>
#include <stdint.h>

#include "vmcb.h"

#define MSR_VM_CR 0xc0010114
#define MSR_VM_HSAVE_PA 0xc0010117

/* As much of the permissions maps as the processor reads: of ports, one byte more than they have bits; of MSRs, three ranges. */
#define IO_MAP_SIZE 0x3000
#define MSR_MAP_SIZE 0x2000

/* The block that the guest runs by; the one that runs now: that, or one for the guest's own guest. */
extern struct vmcb block;
extern struct vmcb *running;

/* Adds SVM's own MSRs to a permissions map. */
void nest_intercept_msrs(uint8_t *map);

/* The last exit: true when it was for the guest's SVM, and is done. */
bool nest_exit(void);

#endif
