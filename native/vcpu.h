/* The run loop of one vCPU: enter level n, decode its exit, look up who handles it, serve it here or hand it to Python. */
#ifndef NV_VCPU_H
#define NV_VCPU_H

#include "counters.h"
#include "event.h"
#include "table.h"
#include "trace.h"

struct nv_vcpu;

/* What an engine does for the loop. */
struct nv_engine_ops {
	int (*enter)(struct nv_vcpu *vcpu);                            /* run level n until it exits; negative errno, or an NV_RUN_* */
	void (*decode)(struct nv_vcpu *vcpu, struct nv_event *event);  /* the exit as an event */
	void (*complete)(struct nv_vcpu *vcpu, struct nv_event *event); /* give the event's answer to level n */
	uint64_t (*rip)(const struct nv_vcpu *vcpu);                   /* level n's at the exit, for traces; NULL: nobody tells */
};

/* nv_vcpu_run's results; a negative errno says that the engine cannot go on. */
#define NV_RUN_EVENT 0           /* vcpu->event is for Python */
#define NV_RUN_KICKED 1          /* nv_vcpu_kick was called */
#define NV_RUN_DRAIN 2           /* the trace waits for room or for a description: nv_trace_waits */
#define NV_RUN_ANSWERED 4        /* a CPUID is answered, and levels have it to change before level n goes on */
#define NV_RUN_WINDOW 3          /* level n can take the interrupt that run->request_interrupt_window waits for */

struct nv_vcpu {
	struct nv_event event;
	const struct nv_table *table;
	struct nv_counter *counters;     /* one per slot of the table */
	struct nv_unclaimed *unclaimed;
	struct nv_trace trace;
	const struct nv_engine_ops *ops;
	void *engine;                    /* the engine's own state */
	struct kvm_run *run;
	uint64_t exits;
	int fd;
	int thread;                      /* that ran it last: a kick also ends what blocks its handlers, such as output */
	int kicked;
	uint8_t level;                   /* n; of the code that runs now, where an engine has several levels of it */
	uint8_t pending;                 /* event waits for completion and accounting */
	uint8_t exited;                  /* level n has exited again, and that exit is not decoded yet */
	uint8_t strict;                  /* what nobody claims goes to Python instead of getting the default answer */
};

/* Installs the do-nothing handler of the signal that interrupts KVM_RUN. Once per process. */
int nv_kick_init(void);

/* For an engine's own init. */
void nv_vcpu_init(struct nv_vcpu *vcpu, const struct nv_engine_ops *ops, uint8_t level);

/* Completes the pending event, then runs until an event is for Python. Allocates nothing. */
int nv_vcpu_run(struct nv_vcpu *vcpu);

/* Ends the current or next nv_vcpu_run with NV_RUN_KICKED. From any thread. */
void nv_vcpu_kick(struct nv_vcpu *vcpu);

/* The pending event's handler declined: make it the next claim's turn. Gives that claim, 0 when nobody is left. */
uint16_t nv_vcpu_decline(struct nv_vcpu *vcpu);

/* Offers the event to the claim whose turn it is, and to those after it, as long as they are L0's C code: 1 when served. */
int nv_vcpu_serve(struct nv_vcpu *vcpu);

/* The default answer to an event that nobody claimed: reads give all ones, writes are dropped, MSRs #GP; 0: there is none. */
int nv_vcpu_default(struct nv_vcpu *vcpu);

/* Lets level n take the pending event's answer without executing anything after it. KVM hands over some accesses in parts, such as
 * one that crosses a page: then `exited` is set, and the next part is the next run's event, for Python even if C could serve it.
 * A negative errno as nv_vcpu_run's. */
int nv_vcpu_settle(struct nv_vcpu *vcpu);

/* Completes and accounts the pending event without running. */
void nv_vcpu_finish(struct nv_vcpu *vcpu);

uint64_t nv_ticks(void);

#endif
