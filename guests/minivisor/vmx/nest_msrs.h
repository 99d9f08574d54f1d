/* VMX's capability MSRs as the guest sees them: what the processor has, and minivisor nests (Intel SDM vol. 3, appendix A). */
#ifndef NEST_MSRS_H
#define NEST_MSRS_H

#include <stdbool.h>
#include <stdint.h>

#define MSR_VMX_FIRST 0x480
#define MSR_VMX_LAST 0x491
#define MSR_VMX_SECONDARY 0x48b
#define MSR_VMX_EPT 0x48c
#define MSR_VMX_TRUE_PIN 0x48d
#define MSR_VMX_TRUE_PRIMARY 0x48e
#define MSR_VMX_TRUE_EXIT 0x48f
#define MSR_VMX_TRUE_ENTRY 0x490

/* False: there is no such MSR. */
bool nest_capability(uint32_t index, uint64_t *value);

/* Whether controls have all that must be 1 and nothing that must be 0, by their MSR. */
bool nest_allows(uint32_t index, uint64_t controls);

#endif
