/* Levels that are machine code: SVM or VMX by software, for level n and for every level above it that its hypervisors make.
 * AMD APM vol. 2, chapter 15; Intel SDM vol. 3, chapters 24 to 31.
 *
 * Files named nested_svm_* are SVM's and nested_vmx_* VMX's; all others are both's. A block is a VMCB or VMCS,
 * VMRUN also VMLAUNCH and VMRESUME.
 *
 * Each level is a machine: a processor with SVM or VMX of its own, in the physical memory that the machine below gives it. Machine 0 is
 * level n's. Those that run a guest form a chain from there; its last one, the active machine, is the one whose code the processor executes,
 * under one control block that is composed of all their blocks:
 *
 *     machine 0 ──its block──> machine 1 ──its block──> ... ──> active
 *
 * An exit goes straight to the machine whose block asks for it. Machines between it and the active one stay in guest mode, and VMRUN of
 * the same block makes the same machine active again.
 *
 * L0 remembers NV_NESTED_MACHINES. A hypervisor does not say when it gives up a guest, so where one more begins, another is forgotten: of
 * those outside the chain one that has not set up SVM or VMX, for which nothing is lost; where there is none, the one that no VMRUN has
 * made active for the longest time, in all likelihood of a guest that is no more. If it runs again after all, with its own guests, it is as
 * after a reset of its SVM or VMX alone: EFER.SVME is clear, or it is not in VMX operation, and its next such instruction is undefined. */
#ifndef NV_NESTED_H
#define NV_NESTED_H

#include "nested_vmx.h"
#include "shadow.h"
#include "svm.h"

#define NV_NESTED_DEPTH 16       /* machines in one chain, machine 0 included */
#define NV_NESTED_MACHINES 128   /* that L0 remembers */
#define NV_NESTED_WALK_LEVELS 5  /* of a hypervisor's tables */
#define NV_NESTED_SETS 16        /* of shadow tables: machine 0 has others than [0], and a chain needs one for each machine but the first */
#define NV_NESTED_SEEN 1024      /* entries of hypervisors' tables that L0 remembers for one set of its own */
#define NV_NESTED_MISSED 1021
#define NV_NESTED_WALKS 0x40000  /* through nested page tables of machines for one exit: each machine's may lead through those below */

/* The I/O and MSR permissions maps of one machine's guest. */
#define NV_NESTED_PORTS 0x3000
#define NV_NESTED_MSRS 0x2000
#define NV_NESTED_MAPS 0x5000    /* ports, then MSRs */
#define NV_NESTED_MAP_PAGES 5
#define NV_NESTED_MAP_OPEN 64

/* What VMRUN saves of the processor and #VMEXIT loads. */
struct nv_nested_host {
	struct nv_vmcb_segment es, cs, ss, ds, gdtr, idtr;
	uint64_t efer, cr0, cr3, cr4, rflags, rip, rsp, rax, pat;
};

/* A CPUID of the machine's that levels want to change the answer to: when it is behind it, at `rip`. */
struct nv_nested_cpuid {
	uint64_t levels;                 /* a bit for each; 0: there is none */
	uint64_t rip;
	uint32_t leaf, subleaf;
};

struct nv_machine {
	struct nv_machine *parent;       /* whose guest it is; NULL: machine 0 */
	struct nv_machine *child;        /* the guest that it runs; NULL: it executes code itself, or is not in the chain */
	uint64_t address;                /* of the block that its parent runs it with, in the parent's physical memory */
	uint64_t used;                   /* when VMRUN made it active last; 0: free */
	uint64_t hsave, vm_cr;
	uint8_t depth;
	uint8_t tables;                  /* its shadow tables' number; 0: it has none */
	uint8_t svme;                    /* EFER.SVME as it sees it */
	uint8_t gif;
	uint8_t asked;                   /* its write to EFER went to a machine below: asked_svme is what it wants */
	uint8_t asked_svme;
	uint8_t shown_flag, true_flag;   /* RFLAGS.IF as its parent was told, of a machine that runs a guest, and as it is */
	uint64_t held;                   /* an interrupt that its parent injected while it ran a guest, as EVENTINJ; 0: none */
	uint64_t resumed;                /* the event whose delivery was interrupted when a machine below took over, as EVENTINJ */
	uint64_t soft_next;              /* where the software interrupt returns to that its parent injected; 0: none */
	uint64_t seen_code;              /* the last exit that its parent was told: SVM's code, VMX's basic reason */
	uint64_t seen_rip, seen_rsp, seen_cr3; /* its state, likewise */
	struct nv_vmcb guest;            /* the control block that it runs its guest with, as VMRUN read it */
	struct nv_nested_host host;      /* its own state meanwhile */
	uint32_t composed[6];            /* intercepts of guest, and of the machines below */
	uint64_t tsc_offset;             /* likewise, the sum */
	uint64_t paused;                 /* TSC at its guest's last PAUSE that exited */
	uint16_t pauses;                 /* that its guest may still do without an exit */
	struct nv_nested_cpuid cpuid;
	struct nv_nested_vmx_machine vmx;
};

/* A page of the machine's that L0 has looked at, written to, or found to be code. */
struct nv_nested_reached {
	uint64_t page;                   /* address / 4096 + 1; 0: none */
	uint64_t to;                     /* KVM's */
	uint8_t *host;
	uint64_t epoch;                  /* of the tables then; in another one nothing is known of it */
};

/* An exit of a guest of Linux's KVM takes some forty, which are elsewhere after each boot: few of them share a place. */
#define NV_NESTED_REACHED 1024

/* The nested page tables of a machine's guest: where they start, how they are read, and the tag by which the processor tells what it
 * remembers of them from that of others. */
struct nv_nested_root {
	uint64_t address;
	uint32_t mode, tag;
};

/* An entry of such tables as it was when something was made of it. */
struct nv_nested_seen {
	const uint64_t *at;
	uint64_t entry;
};

/* The entries of one walk, in its order. */
struct nv_nested_path {
	const uint64_t *entries[NV_NESTED_WALK_LEVELS];
	uint32_t count;
	uint32_t blind;                  /* what was read is not all there */
};

/* The shadow tables of one machine, and of which of its parent's tables they are made. A machine keeps them while it does not run, until
 * another one needs them. See nested_seen.c for the rest. */
struct nv_nested_tables {
	struct nv_shadow shadow;
	struct nv_nested_reached reached[3][NV_NESTED_REACHED]; /* by NV_PAGING_* and page: what the tables have allowed; also machine 0's */
	uint64_t reached_epoch;          /* a new one begins when the revision of the shadow tables is another than `reached_revision` */
	uint32_t reached_revision;
	struct nv_machine *machine;      /* NULL: nobody's */
	struct nv_nested_root root;
	uint32_t doubted;                /* the processor has been made to forget them since they were looked through last */
	uint32_t blind;                  /* they are made of more than `seen` has */
	uint32_t seen_count;
	struct nv_nested_seen seen[NV_NESTED_SEEN];
};

/* What a page of the composed permissions maps is made of. */
struct nv_nested_map_page {
	uint64_t below;          /* the version of the page below it; 0: it is to be composed anew */
	uint64_t version;        /* of no other page that was ever composed; 0: it never was */
	uint64_t from;           /* of NV_NESTED_MAP_READ: where the machine's memory had what its block adds, */
	uint64_t words[512];     /* and what that was */
	uint16_t open[NV_NESTED_MAP_OPEN]; /* those of the composed page that let something pass */
	uint16_t open_count;     /* more than NV_NESTED_MAP_OPEN: any may */
	uint8_t kind;            /* NV_NESTED_MAP_* */
};

enum { NV_NESTED_MAP_EMPTY, NV_NESTED_MAP_READ, NV_NESTED_MAP_FULL };

/* Code that starts here led to no instruction of SVM's: so many more times it is not tried. */
struct nv_nested_missed {
	uint64_t from;
	uint32_t left;
	uint32_t pad;
};

struct nv_nested_exit {
	uint64_t code, info_1, info_2;
	uint64_t next_rip;       /* 0: the exit is no instruction's */
};

/* A port access that goes to a machine although KVM does it already, as levels above the machine declined it: it is as if it had not. */
struct nv_nested_undo {
	struct nv_machine *to;   /* NULL: there is none */
	struct nv_nested_exit exit;
	uint64_t regs[NV_REGS];  /* before it */
};

/* The physical addresses of the machines of one depth, as Python levels below their code map them: each range leads to what the image
 * below gives, or to windows. */
struct nv_nested_given {
	const struct nv_shadow_range *ranges; /* NULL: all, as it is */
	uint32_t count;
};

/* vmx: an exit that has gone to a machine and that the table has not heard of yet. */
struct nv_nested_gone {
	struct nv_event event;
	uint64_t rip;
	uint8_t depth;                   /* the machine's */
};

#define NV_NESTED_GONE 8

struct nv_nested_ops;

struct nv_nested {
	struct nv_svm *svm;              /* the engine; NULL: it is the other one */
	struct nv_vmx *vmx;
	struct nv_switched *switched;    /* what both have */
	const struct nv_nested_ops *ops;
	struct nv_vcpu *vcpu;
	struct nv_machine *active;
	struct nv_shadow *shadow;        /* machine 0's */
	uint8_t *maps;                   /* NV_NESTED_DEPTH of NV_NESTED_MAPS: the I/O and MSR permissions maps that machines compose */
	uint64_t maps_physical;
	const uint8_t *own_ports, *own_msrs; /* what L0 intercepts */
	uint64_t own_maps;               /* how often that has changed, from 1 on */
	const uint8_t *spared[NV_NESTED_DEPTH]; /* by depth: what a machine may not have of its guest's accesses to MSRs, as a map; NULL: none */
	uint64_t map_versions;           /* that were given away */
	uint8_t *ram;                    /* L0's memory for the tower */
	uint64_t ram_physical, ram_size;
	uint64_t clock;
	uint32_t revision;               /* of machine 0's tables, when the others were made */
	nv_serve_fn take;                /* what serves the claims of machines, as the table has it; NULL: nothing */
	uint8_t levels[NV_NESTED_DEPTH]; /* of the machine's code, by depth */
	struct nv_nested_vmx_limits vmx_limits;
	uint64_t seen_cr0, seen_cr4;     /* vmx: what the active machine reads of the bits that a mask has */
	uint8_t nesting;                 /* levels above this one have the SVM or VMX that their hypervisor gives them, not L0's; 0: none has */
	uint8_t visible;                 /* level n sees SVM, or VMX */
	uint8_t flush;                   /* svm: the processor's TLB is to forget at the next entry */
	uint8_t too_deep;                /* a VMRUN needed more machines than there are */
	int32_t failed;                  /* why L0 could not go on, a negative errno; 0: it could */
	uint8_t lost;                    /* a machine's memory for its block is gone while that runs its guest */
	struct nv_nested_undo undo;
	struct {
		const uint8_t *stored;   /* the page that the next entry begins with storing in, if VMSAVE is to store anything */
		struct nv_nested_missed missed[NV_NESTED_MISSED];
		uint8_t armed;           /* an instruction of SVM's may follow */
		uint8_t done;            /* of them that L0 met, since the last entry */
		uint64_t met;            /* and ever */
	} ahead;                         /* svm: see nested_svm_ahead.c */
	struct {
		struct nv_machine *to;   /* NULL: there is none */
		struct nv_nested_exit exit;
		uint8_t told;            /* it is the pending event */
		uint8_t withheld;        /* no machine's, but a fault of an address that Python levels withhold, of this space and access */
		uint8_t space, access;
	} due;                           /* an exit that is this machine's, whoever claims such events */
	struct nv_nested_gone gone[NV_NESTED_GONE]; /* the oldest first */
	uint8_t gone_count;
	uint8_t gone_told;               /* the first of them is the pending event */
	uint8_t endless;                 /* a translation leads through more of the page tables of machines than L0 reads */
	uint64_t pause_ticks;            /* the least time between two exits of PAUSE, which is L0's own; 0: not known */
	uint32_t walked;                 /* through those tables, since the last entry */
	uint64_t reflected[NV_NESTED_DEPTH]; /* exits that went to the machine of this depth */
	uint64_t entered[NV_NESTED_DEPTH];   /* VMRUNs of the machine of this depth */
	uint64_t served[NV_NESTED_DEPTH];    /* other SVM or VMX instructions of its, done by L0 */
	struct nv_machine machines[NV_NESTED_MACHINES];
	struct nv_nested_tables tables[NV_NESTED_SETS];
	struct nv_nested_given given[NV_NESTED_DEPTH]; /* by depth, from 1 on */
	struct nv_pending pending[NV_NESTED_DEPTH]; /* likewise, what Python levels inject into the machines, and wait for */
	struct nv_nested_map_page map_pages[NV_NESTED_DEPTH][NV_NESTED_MAP_PAGES]; /* by depth of who adds to it */
	struct nv_trail trails[NV_TRAILS]; /* of the active machine's code */
	struct nv_paging walks[NV_NESTED_DEPTH]; /* through the tables of machine d's guest */
	struct nv_nested_path paths[NV_NESTED_DEPTH]; /* of the last of these */
};

/* What the machine of one depth has claimed of its guest, in the designation table. */
struct nv_nested_claim {
	struct nv_nested *nested;
	uint8_t depth;
	uint8_t beyond;                  /* and what those above it have claimed */
};

/* The fields svm, vcpu, shadow, maps to ram_size, take and levels are the caller's to set before, and the pool of each table's shadow. */
void nv_nested_init(struct nv_nested *nested);

/* An nv_serve_fn for a machine's claim: it takes those exits that its control block asks for. device: struct nv_nested_claim. */
int nv_nested_take(void *device, uint64_t offset, struct nv_event *event);

/* An nv_serve_fn for CPUID: declines, and remembers that a level wants to change the answer. device: struct nv_nested_cpuid_asker. answered:
 * the active machine's CPUID is, at this moment. */
struct nv_nested_cpuid_asker {
	struct nv_nested *nested;
	uint8_t level;
};

int nv_nested_ask_cpuid(void *device, uint64_t offset, struct nv_event *event);
int nv_nested_answered_cpuid(struct nv_nested *nested);

/* What is pending for the code of this depth in the chain; and whether anything is, that Python levels injected above the lowest one. */
struct nv_pending *nv_nested_pending(struct nv_nested *nested, uint32_t depth);
int nv_nested_injected(const struct nv_nested *nested);

/* The exit that is due as an event; its ticks and level are set before. settle: the machine takes it; what Python levels have handled,
 * the active one tries again. */
void nv_nested_decode_due(struct nv_nested *nested, struct nv_event *event);
void nv_nested_settle(struct nv_nested *nested);

/* Copies from or to the physical memory of the machine of this depth in the chain, of the active one for -1; gives how many bytes of
 * `size` it has, and lets it write. beneath: at addresses of what the image below gives, beneath all Python levels between. */
uint64_t nv_nested_copy(struct nv_nested *nested, int depth, uint64_t address, uint8_t *data, uint64_t size, int write, int beneath);

/* Sets what Python levels give the machines of this depth. less: something of before is given no more, or elsewhere. */
void nv_nested_give(struct nv_nested *nested, uint32_t depth, const struct nv_shadow_range *ranges, uint32_t count, int less);

/* An nv_serve_fn for SVM's instructions. device: struct nv_svm. */
int nv_nested_serve(void *device, uint64_t offset, struct nv_event *event);

/* The same for VMX. device: struct nv_vmx; of take: struct nv_nested_claim. */
void nv_nested_vmx_init(struct nv_nested *nested);
int nv_nested_vmx_take(void *device, uint64_t offset, struct nv_event *event);
int nv_nested_vmx_serve(void *device, uint64_t offset, struct nv_event *event);

#endif
