/* The kinds that are more than one instruction. */
#ifndef RTT_H
#define RTT_H

#include <stdint.h>

/* Writes to pages one behind the other, from `at` on and in the next run where the last one ended. */
void page(uint64_t at, uint64_t count);

/* From programming the APIC's timer until its interrupt's handler runs. Needs a machine with an APIC. */
void timer(uint64_t at, uint64_t count);

#endif
