/* What level n has yet to take: it arrived, or a level asked for it, while level n could not. */
#ifndef NV_PENDING_H
#define NV_PENDING_H

#include <stdint.h>

/* What levels wait for: that level n can take an interrupt, or an NMI. */
#define NV_WINDOW_INTERRUPT 1
#define NV_WINDOW_NMI 2

struct nv_pending {
	uint64_t interrupts[4];  /* external interrupts, a bit a vector: any thread sets them */
	uint64_t timer, deadline; /* vmx, of a preemption timer of levels above an image: the cycles left while it stands still, and when it ends */
	uint8_t nmi;             /* likewise */
	uint8_t nmi_masked;      /* level n took an NMI, and has not done IRET since */
	uint8_t windows;         /* NV_WINDOW_* */
	uint8_t claimed;         /* likewise, of what comes from below it: its Python levels above an image have it first */
};

/* From any thread. */
void nv_pending_interrupt(struct nv_pending *pending, uint8_t vector);
void nv_pending_nmi(struct nv_pending *pending);

/* The interrupt of the highest priority; -1: none. */
int nv_pending_highest(const struct nv_pending *pending);

/* Whether there is an interrupt besides this one; vector -1: any. */
int nv_pending_another(const struct nv_pending *pending, int vector);

/* Whether an interrupt or an NMI waits. */
int nv_pending_any(const struct nv_pending *pending);

/* Level n took it. */
void nv_pending_taken(struct nv_pending *pending, uint8_t vector);
void nv_pending_nmi_taken(struct nv_pending *pending);

#endif
