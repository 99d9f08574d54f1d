/* What a minivisor offers its guest: a CPUID leaf, a hypercall, a port. */
#ifndef SERVICE_H
#define SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "offer.h"
#include "vendor.h"

void service_init(void);

void serve_cpuid(struct registers *registers);

/* False for a hypercall that no minivisor has. */
bool serve_hypercall(struct registers *registers);

void serve_port(struct registers *registers, const struct exit *exit);

#endif
