#include "pci_address.h"

#include <string.h>

#include "ignore.h"
#include "table.h"

int nv_pci_address_serve(void *device, uint64_t offset, struct nv_event *event)
{
	struct nv_pci_address *address = device;

	if (event->size != 4 || !event->count)
		return nv_ignore_serve(NULL, offset, event);
	if (event->direction == NV_WRITE) {
		memcpy(&address->value, event->data + 4 * (event->count - 1), 4);
		return NV_HANDLED;
	}
	for (uint32_t element = 0; element < event->count; element++)
		memcpy(event->data + 4 * element, &address->value, 4);
	event->value = address->value;
	return NV_HANDLED;
}
