/* VMX's basic exit reasons: Intel SDM vol. 3, appendix C. */
#ifndef NV_VMX_EXITS_H
#define NV_VMX_EXITS_H

#include "exit_row.h"

/* basic: bits 15:0 of the exit reason. Never NULL. */
const struct nv_exit_row *nv_vmx_exit_row(uint64_t basic);

#endif
