/* The direct engine: level n is a plain KVM guest, and what KVM hands to userspace is what traps. */
#ifndef NV_DIRECT_H
#define NV_DIRECT_H

#include "vcpu.h"

extern const struct nv_engine_ops nv_direct_ops;

#endif
