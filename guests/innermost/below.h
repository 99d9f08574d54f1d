/* The minivisors below, seen from their guest: mask has bit x for one at level x. Each check counts wrong answers. */
#ifndef BELOW_H
#define BELOW_H

#include <stdint.h>

/* The CPUID leaves of the levels 1 to top. The other functions need it done first. */
unsigned int below_marks(uint64_t mask, uint64_t top);
unsigned int below_hypercalls(uint64_t mask);
unsigned int below_ports(uint64_t mask);

/* What each service of the minivisor at this level costs, in cycles. */
void below_measure(uint64_t level, uint64_t count);

#endif
