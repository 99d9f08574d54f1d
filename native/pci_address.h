/* CONFIG_ADDRESS of PCI configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2): one 32-bit register. */
#ifndef NV_PCI_ADDRESS_H
#define NV_PCI_ADDRESS_H

#include "event.h"

struct nv_pci_address {
	uint32_t value;
};

/* An nv_serve_fn; the device is a struct nv_pci_address. Only 4-byte accesses reach the register. */
int nv_pci_address_serve(void *address, uint64_t offset, struct nv_event *event);

#endif
