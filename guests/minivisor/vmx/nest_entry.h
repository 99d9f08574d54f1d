/* VM entries of the guest, and the exits that are its own: between its VMCS for its guest and the one of ours that this runs by. */
#ifndef NEST_ENTRY_H
#define NEST_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "nest_vmcs.h"

/* The VMCS that the guest's guest runs by. */
extern struct vmcs merged;

/* The guest is about to enter VMX operation: makes ready what all its entries need. */
void nest_entry_init(void);

/* Its guest runs from here on; or a VM-instruction error (31.4). */
int nest_enter(struct nest_vmcs *from);

/* An exit of its guest is the guest's, with this reason and qualification. */
void nest_leave(uint64_t reason, uint64_t qualification);

/* The processor refused our VMCS: the guest's VMLAUNCH or VMRESUME has not happened. The VM-instruction error. */
int nest_refused(void);

/* Whether the guest's VMCS asks for this exit, of its guest's; qualification: of CODE_IO. */
bool nest_wants(uint64_t code, uint64_t qualification);

#endif
